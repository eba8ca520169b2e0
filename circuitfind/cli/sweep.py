"""``circuitfind run`` with several sizes, and ``circuitfind sweep``: the circuit at each, and a
table of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from circuitfind.cli.resumable import resumably
from circuitfind.cli.terminal import TerminalProgress
from circuitfind.runs.sweep_plan import PLURAL, Size, SweepPlan, make_sweep_plan

if TYPE_CHECKING:
    from circuitfind.options import RunOptions
    from circuitfind.progress import Progress
    from circuitfind.runs.checkpoint import Keeper
    from circuitfind.sweep import SweepResult


def sweep_and_print(
    options: RunOptions, sizes: tuple[Size, ...], of: str, quiet: bool, as_json: bool
) -> None:
    """The sweep, and its table on stdout."""
    with TerminalProgress(quiet) as progress:
        result = carry_out_safely(make_sweep_plan(options, sizes, progress, of), options, progress)
    if as_json:
        typer.echo(
            json.dumps({"folder": str(result.folder), **result.table}, indent=2, ensure_ascii=False)
        )
    else:
        print_table(result)


def carry_out_safely(plan: SweepPlan, options: RunOptions, progress: Progress) -> SweepResult:
    """The sweep. A Ctrl-C keeps what the run at work has decided so far, and tells how to go on
    with the sweep.
    """
    from circuitfind.sweep import (
        carry_out_sweep,
    )  # seconds of imports, after all that is told without them

    folders: list[Path] = []
    keepers: list[Keeper] = []

    def watch(folder: Path, keeper: Keeper) -> None:
        folders.append(folder)
        keepers.append(keeper)

    def save() -> None:
        if keepers:
            keepers[-1].save_now()

    with resumably(save, lambda: how_to_go_on(plan, options, folders, keepers)):
        return carry_out_sweep(plan, progress, watch)


def how_to_go_on(
    plan: SweepPlan, options: RunOptions, folders: Sequence[Path], keepers: Sequence[Keeper]
) -> str:
    """What to tell the user of a sweep that ends before it is done; nothing where nothing of it is kept."""
    from circuitfind.runs.resume import resume_command

    if not keepers or not (len(keepers) > 1 or keepers[0].can_resume):
        return ""
    command = resume_command(options, folders[-1])
    sizes = ",".join(f"{size!r}" for size in plan.sizes)
    return f"What it has found is kept. To go on with it:\n  {command} --{plan.of} {sizes}\n"


def print_table(result: SweepResult) -> None:
    """The circuits, one a line, and where the picture lies."""
    from circuitfind.sweep import baseline, cells_of, columns, size_of, what

    typer.echo(f"{what(result.table)}: {len(result.table['circuits'])} {PLURAL[size_of(result.table)]}")
    lines = [columns(result.table), *cells_of(result.table)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    typer.echo(f"  ({baseline(result.table)})")
    if picture := find_picture(result.folder):
        typer.echo(f"picture: {picture}")
    typer.echo(f"table:   {result.folder / 'sweep.md'}")


def find_picture(folder: Path) -> Path | None:
    """The sweep's picture, in the first format that there is."""
    return next(
        (path for end in ("svg", "png", "pdf") if (path := folder / f"sweep.{end}").exists()), None
    )
