"""The command line. Commands parse, call and print; what they can't do comes back as one message
and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

from circuitfind.cli.interrupt import exit_code, leave, leaving_at_once, leaving_soon
from circuitfind.cli.streams import finish_stdout, open_closed, say, silence

with leaving_at_once():
    import typer
    import typer.core

    from circuitfind.cli import bench, known, models, submit, tasks
    from circuitfind.cli import check as check_command
    from circuitfind.cli import diff as diff_command
    from circuitfind.cli import evaluate as evaluate_command
    from circuitfind.cli import export as export_command
    from circuitfind.cli import import_ as import_command
    from circuitfind.cli import methods as methods_command
    from circuitfind.cli import run as run_command
    from circuitfind.cli import show as show_command
    from circuitfind.cli import view as view_command
    from circuitfind.cli.terminal import printing
    from circuitfind.errors import CircuitfindError
    from circuitfind.version import __version__

COULD_NOT_RUN = 2
ENDED = 128
"""Codes above it are 128 and the signal's number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
DEBUG = "--debug"


class Commands(typer.core.TyperGroup):
    """The group of all commands. A reader that has gone away (``| head``) is no reason for a message."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt as error:
            raise typer.Exit(exit_code(error)) from None  # the parser would make 130 of any
        except BrokenPipeError:
            silence(sys.stdout)
            raise typer.Exit(COULD_NOT_RUN) from None
        return result


app = typer.Typer(
    name="circuitfind",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: circuitfind run ioi --model smollm2-135m",
)
app.command("run", no_args_is_help=True, epilog=run_command.EXAMPLE)(run_command.run)
app.command("sweep", no_args_is_help=True, epilog=run_command.SWEEP_EXAMPLE, help=run_command.SWEEP_HELP)(
    run_command.sweep
)
app.command("export", no_args_is_help=True)(export_command.export)
app.command("import", no_args_is_help=True, epilog=import_command.EXAMPLE)(import_command.import_)
app.command("show", no_args_is_help=True, epilog=show_command.EXAMPLE)(show_command.show)
app.command("view", no_args_is_help=True, epilog=view_command.EXAMPLE)(view_command.view)
app.command("evaluate", no_args_is_help=True, epilog=evaluate_command.EXAMPLE)(evaluate_command.evaluate)
app.command("check", no_args_is_help=True, epilog=check_command.EXAMPLE)(check_command.check)
app.command("diff", no_args_is_help=True, epilog=diff_command.EXAMPLE)(diff_command.diff)
app.command("methods", epilog=methods_command.EXAMPLE)(methods_command.methods)
app.add_typer(bench.app, name="bench")
app.add_typer(tasks.app, name="tasks")
app.add_typer(models.app, name="models")
app.add_typer(known.app, name="known")
app.add_typer(submit.app, name="submit")


def show_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"circuitfind {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def circuitfind(
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Find the circuit in a language model: the few edges of its computational graph that carry a
    behaviour.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits: 0 done, 1 below the bar asked for, 2 could not run, 128 + n
    by signal n.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in given  # wherever it stands: the one who needs it adds it to the end of a line
    if not open_closed():
        say(
            "error: stdout is closed, and results go there. Send it somewhere, to /dev/null for instance."
        )
        sys.exit(COULD_NOT_RUN)
    with leaving_soon():
        code = call([argument for argument in given if argument != DEBUG], debug)
        if code > ENDED:
            leave(code=code)  # without the second that torch takes to go
        sys.exit(code)


def call(arguments: list[str], debug: bool) -> int:
    """Runs one command; the exit code. Errors are printed here, with their traceback where
    ``debug`` is set.
    """
    with printing():
        return _call(arguments, debug)


def _call(arguments: list[str], debug: bool) -> int:
    try:
        code = int(app(arguments, prog_name="circuitfind", standalone_mode=False) or 0)
        return (
            COULD_NOT_RUN if code == 0 and finish_stdout() else code
        )  # a reader that went away before the help's end
    except KeyboardInterrupt as error:
        return exit_code(error)
    except Exception as error:
        if debug:
            import traceback

            say(traceback.format_exc().rstrip())
        elif isinstance(error, typer.TyperException):
            say(explain_usage(error))
        elif failed := finish_stdout():
            say(f"error: Cannot write to stdout: {failed.strerror}.")
        else:
            say(f"error: {explain(error)}")
        return COULD_NOT_RUN


def explain_usage(error: Any) -> str:
    """What the parser can't make sense of, in two lines; the help itself where a command came
    without arguments.
    """
    message: str = error.format_message()
    if message.startswith("Usage:"):
        return message
    command = error.ctx.command_path if error.ctx else "circuitfind"
    return f"error: {message}\n`{command} --help` shows what there is."


def explain(error: Exception) -> str:
    """What to tell a user about an error, in one or two lines."""
    if isinstance(error, CircuitfindError):
        return str(error)
    said = str(error).strip().partition("\n")[0]
    if is_out_of_memory(error):
        return (
            f"Out of memory{': ' + said if said else ''}\nLower --prompts or --batch-size, or take a smaller"
            " --model."
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return (
        f"{type(error).__name__}: {said}\nThis is a fault in circuitfind; {DEBUG} shows where. Please"
        " report it."
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, as Python or as torch says it (torch need not be there)."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


if __name__ == "__main__":
    main()
