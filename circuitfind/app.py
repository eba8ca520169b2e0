"""The command line. Commands parse, call and print; what they can't do comes back as one message and exit code 2."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from circuitfind import __version__
from circuitfind.commands import export as export_command
from circuitfind.commands import models, tasks
from circuitfind.commands import run as run_command
from circuitfind.errors import CircuitfindError

COULD_NOT_RUN, INTERRUPTED = 2, 130

app = typer.Typer(
    name="circuitfind",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: circuitfind run ioi --model smollm2-135m",
)
app.command("run", no_args_is_help=True)(run_command.run)
app.command("export", no_args_is_help=True)(export_command.export)
app.add_typer(tasks.app, name="tasks")
app.add_typer(models.app, name="models")


def show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"circuitfind {__version__}")
        raise typer.Exit


@app.callback()
def circuitfind(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Find the circuit in a language model: the few edges of its computational graph that carry a behaviour."""


def main() -> None:
    """Runs the command line and exits: 0 done, 1 below the bar asked for, 2 could not run, 130 interrupted."""
    try:
        app()
    except CircuitfindError as error:
        fail(str(error), COULD_NOT_RUN)
    except KeyboardInterrupt:
        fail("Interrupted.", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(COULD_NOT_RUN)
    except MemoryError:
        fail("Out of memory. Lower --prompts or --batch-size, or take a smaller --model.", COULD_NOT_RUN)


def fail(message: str, code: int) -> None:
    """One message on stderr; the traceback too where --debug asks for it."""
    if "--debug" in sys.argv:
        raise  # noqa: PLE0704  the error being handled
    print(f"error: {message}" if code == COULD_NOT_RUN else message, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
