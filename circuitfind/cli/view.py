"""``circuitfind view``: a circuit as a page to explore in a browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuitfind.cli.terminal import TerminalProgress

if TYPE_CHECKING:
    from circuitfind.export import Subject
    from circuitfind.review.view_plan import ViewOptions

EXAMPLE = "Example: circuitfind view results/my-run"


def view(
    circuit: Annotated[Path, typer.Argument(metavar="CIRCUIT", help="A circuit.json or a run folder.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Default: circuit.html, beside it.", show_default=False
        ),
    ] = None,
    runs_model: Annotated[
        bool,
        typer.Option(
            "--with-model/--no-model", help="Run the model: attention, predictions, ... Or not."
        ),
    ] = True,
    pairs: Annotated[
        int, typer.Option(metavar="N", help="Prompt pairs with attention patterns and writes.")
    ] = 4,
    curve: Annotated[
        bool,
        typer.Option(
            "--curve/--no-curve", help="Run circuits of other sizes, by the run's scores. Or not."
        ),
    ] = True,
    known: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=(
                "A known circuit or a circuit.json to compare with. Default: the published one, if there is"
                " one."
            ),
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model of the same shape.", show_default=False)
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The task's name or file, in place of its own.", show_default=False)
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust", help="Run the task file and open the model that its files name, wherever they are."
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    opens: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open",
            help="Open it in a browser; else if there is a display.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no such page.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; warnings only.")] = False,
) -> None:
    """Make one HTML file of a circuit, to explore in a browser and to send: it needs no network.

    Attention patterns, what nodes write to the logits, and predictions take a run of the model on
    the run's prompts; where it can't be had the page is made without.
    """
    from circuitfind.export import export_subject
    from circuitfind.review.opening import Named
    from circuitfind.review.view_plan import ViewOptions, check_page, page_path

    path = page_path(circuit, out)
    check_page(path, circuit, force)
    options = ViewOptions(circuit, Named(model, task, trust), pairs, curve, device)
    with TerminalProgress(quiet) as progress:
        subject = find_subject(options, known, path.parent, runs_model, progress)
        export_subject(subject, "html", path)
        for line in cut_lines(subject):
            progress.warn(line)
    typer.echo(path)
    if opens or (opens is None and has_display()):
        webbrowser.open(path.resolve().as_uri())


def find_subject(
    options: ViewOptions, known: str | None, folder: Path, runs_model: bool, progress: TerminalProgress
) -> Subject:
    """The circuit with all that the page shows of it. Raises CircuitfindError; where only the model
    is missing, and no other was named, it warns."""
    from dataclasses import replace

    from circuitfind.cli.known import here
    from circuitfind.errors import CircuitfindError, UsageError
    from circuitfind.export import Subject
    from circuitfind.known import find_known
    from circuitfind.review.opening import AS_STORED
    from circuitfind.review.view_plan import make_view_plan

    subject = Subject.load(options.circuit)
    if known is not None:
        subject = replace(subject, known=find_known(known, here()))
    if not runs_model:
        return subject
    try:
        plan = make_view_plan(options, folder, progress)
        from circuitfind.review.view import observe_origin

        return replace(subject, observations=observe_origin(plan, progress))
    except CircuitfindError as error:
        if options.named != AS_STORED or isinstance(error, UsageError):
            raise
        progress.warn(f"the page is made without the model: {error}")
        return subject


def cut_lines(subject: Subject) -> tuple[str, ...]:
    """What the page leaves out."""
    from circuitfind.export import FORMATS

    return tuple(FORMATS["html"].told(subject))


def has_display() -> bool:
    """Whether a browser could show itself here."""
    if sys.platform in ("darwin", "win32"):
        return not os.environ.get("SSH_CONNECTION")
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
