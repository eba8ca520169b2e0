"""``python -m circuitfind run ioi`` is ``circuitfind run ioi``, of this Python."""

from circuitfind.cli.app import main

if __name__ == "__main__":
    main()
