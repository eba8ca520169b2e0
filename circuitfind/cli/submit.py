"""``circuitfind submit``: circuits packed for a benchmark, and checked as it asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

BELOW_THE_BAR = 1
EXAMPLE = "Example: circuitfind submit mib ioi_gpt2=results/my-run --out mib"
KINDS, SUFFIXES = ("importances", "circuits"), ("json", "pt")

app = typer.Typer(
    no_args_is_help=True,
    help="Pack circuits for a benchmark, and check them.",
    epilog=EXAMPLE,
)


@app.callback()
def submit() -> None:
    """Pack circuits for a benchmark, and check them."""


@app.command("mib", no_args_is_help=True, epilog=EXAMPLE)
def mib(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...",
            help="Run folders with scores; NAME=RUN names the folder, ioi_gpt2.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="The submission's folder.", show_default=False),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="DIR", help="Check one; pack nothing.", show_default=False),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            "--as", metavar="KIND", help="importances (all scores) or circuits (nine, by budget)."
        ),
    ] = "importances",
    format: Annotated[str, typer.Option("--format", "-f", metavar="F", help="json or pt.")] = "json",
    force: Annotated[
        bool, typer.Option("--force", help="Replace a task and model's folder that is there.")
    ] = False,
) -> None:
    """Pack runs into a submission for MIB's circuit track, and check it. Exits with 1 if anything
    is wrong with it.
    """
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
    from circuitfind.errors import UsageError
    from circuitfind.exchange.submission import pack
    from circuitfind.files.links import keep_inside
    from circuitfind.runs.folder import check_free

    folders: dict[str, dict[str, bytes]] = {}
    for run in runs:
        name, _, path = run.rpartition("=")
        folder, files = pack(Path(path), name or None, kind == "circuits", suffix)
        if folder in folders:
            raise UsageError(
                f"Two runs are of {folder}. Give one, or name the other's folder: ioi_gpt2=RUN."
            )
        check_free(keep_inside(out / folder, out), force)
        refuse_others(out / folder, Path(path))
        folders[folder] = files
    return [path for folder, files in folders.items() for path in _write(out / folder, files)]


def refuse_others(place: Path, run: Path) -> None:
    """Raises OutputError, by name, for a file in a submission's folder that MIB would read and no
    submission has, or that is of the run that is packed."""
    from circuitfind.errors import OutputError
    from circuitfind.exchange.submission import FILES
    from circuitfind.runs.ownership import refuse_inputs

    there = sorted(place.iterdir()) if place.is_dir() else []
    refuse_inputs(there, [run])
    for file in there:
        if file.suffix in (".json", ".pt") and (file.name not in FILES or not file.is_file()):
            raise OutputError(
                f"{file} is of no submission, and is not replaced. Move it away, or give another --out."
            )


def _write(place: Path, files: dict[str, bytes]) -> Iterator[Path]:
    """Writes the files of one folder; those of an older submission go when the new ones are there."""
    from circuitfind.errors import OutputError
    from circuitfind.exchange.submission import FILES
    from circuitfind.runs.folder import write

    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            yield write(place, name, content)
        for name in FILES - files.keys():
            (place / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot write to {place}: {error.strerror}. Give another --out.") from None


def _tell_problems(folder: Path) -> None:
    """Prints what is wrong with a submission, one line each."""
    from circuitfind.exchange.submission import check

    problems = check(folder)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(BELOW_THE_BAR)
    typer.echo(f"{folder}: nothing wrong")
