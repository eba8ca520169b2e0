"""``python cli.py run ioi`` in a checkout is ``circuitfind run ioi``."""

from circuitfind.cli.app import main

if __name__ == "__main__":
    main()
