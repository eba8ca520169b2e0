"""``circuitfind submit``: circuits packed for a benchmark, and checked as it asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BELOW_THE_BAR = 1
KINDS, SUFFIXES = ("importances", "circuits"), ("json", "pt")

app = typer.Typer(
    no_args_is_help=True,
    help="Pack circuits for a benchmark, and check them.",
    epilog="Example: circuitfind submit mib results/ioi-gpt2 results/mcqa-qwen --out submission",
)


@app.callback()
def submit() -> None:
    """Pack circuits for a benchmark, and check them."""


@app.command(
    "mib", no_args_is_help=True, epilog="Example: circuitfind submit mib ioi_gpt2=results/my-run --out submission"
)
def mib(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...", help="Run folders with scores; NAME=RUN names the folder, ioi_gpt2.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="The submission's folder.", show_default=False)
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="DIR", help="Check a submission; pack nothing.", show_default=False),
    ] = None,
    kind: Annotated[
        str, typer.Option("--as", metavar="KIND", help="importances (all scores) or circuits (nine, by budget).")
    ] = "importances",
    format: Annotated[str, typer.Option("--format", "-f", metavar="F", help="json or pt.")] = "json",
    force: Annotated[bool, typer.Option("--force", help="Replace a task and model's folder that is there.")] = False,
) -> None:
    """Pack runs into a submission for MIB's circuit track, and check it. Exits with 1 if anything is wrong with it."""
    from circuitfind.errors import UsageError, unknown

    for what, word, known in (("kind", kind, KINDS), ("format", format, SUFFIXES)):
        if word not in known:
            raise UsageError(unknown(what, word, known))
    if bool(runs) == bool(check) or bool(runs) != bool(out):
        raise UsageError("Give runs and --out DIR to pack them, or --check DIR alone.")
    for path in _pack(runs or [], out or Path(), kind, format, force):
        typer.echo(path)
    _tell_problems(out or check or Path())


def _pack(runs: list[str], out: Path, kind: str, suffix: str, force: bool) -> list[Path]:
    """Writes the files of all runs, or none where something is wrong with one."""
    from circuitfind.errors import OutputError, UsageError
    from circuitfind.exchange.submission import pack
    from circuitfind.runfolder import check_free, write_run

    folders: dict[str, dict[str, bytes]] = {}
    for run in runs:
        name, _, path = run.rpartition("=")
        for place, content in pack(
            Path(path), name or None, "circuits" if kind == "circuits" else "importances", suffix
        ).items():
            folder, _, file = place.rpartition("/")
            if file in folders.setdefault(folder, {}):
                raise UsageError(f"Two runs are of {folder}. Give one, or name the other's folder: ioi_gpt2=RUN.")
            folders[folder][file] = content
    for folder in folders:
        if not folder or folder in (".", "..") or "/" in folder:
            raise OutputError(f"'{folder}' is no name of a folder. Name it by task and model: ioi_gpt2=RUN.")
        check_free(out / folder, force)
    for folder, files in folders.items():
        write_run(out / folder, files, force)
    return [out / folder / file for folder, files in folders.items() for file in files]


def _tell_problems(folder: Path) -> None:
    """Prints what is wrong with a submission, one line each."""
    from circuitfind.exchange.submission import check

    problems = check(folder)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(BELOW_THE_BAR)
    typer.echo(f"{folder}: nothing wrong")
