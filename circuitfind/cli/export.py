"""``circuitfind export``: a circuit as a picture or as a file for another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from circuitfind.export import Look, Subject

STDOUT = Path("-")


def export(
    circuit: Annotated[Path, typer.Argument(metavar="CIRCUIT", help="A circuit.json or a run folder.")],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="F",
            help=(
                "dot, svg, png, pdf, html, tikz, mermaid, graphml or gexf; for other tools eap-ig-json,"
                " eap-ig-pt, "
                "acdc-json, acdc-text, acdc-pth, autocircuit or edge-pruning. Several with commas. Without it"
                " what --out "
                "ends in, else svg."
            ),
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where to; - for stdout.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    style: Annotated[
        str,
        typer.Option(
            "--style", metavar="S", help="Of pictures: paper (print) or screen (dark, for slides)."
        ),
    ] = "paper",
    max_edges: Annotated[
        int | None,
        typer.Option(
            "--max-edges",
            metavar="N",
            help="Draw the N strongest edges. Default: 2,000.",
            show_default=False,
        ),
    ] = None,
    collapse: Annotated[
        str | None,
        typer.Option(
            "--collapse",
            metavar="C",
            help="heads: one edge for those into q, k and v; layers: one node for the heads of a layer.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels",
            metavar="NODE=LABEL",
            help=(
                'What a node does, such as "a9.h9=Name mover": text and colour. Several with commas, again,'
                " or as a "
                "JSON file of them."
            ),
            show_default=False,
        ),
    ] = None,
    roles: Annotated[
        bool,
        typer.Option(
            "--roles/--no-roles",
            help="Label nodes as the published circuit of the same task and model does.",
        ),
    ] = True,
    highlight: Annotated[
        str | None,
        typer.Option(
            "--highlight",
            metavar="KNOWN",
            help=(
                "Show what is common with another circuit, missing of it and extra: a file, a run folder or a"
                " name of "
                "`circuitfind known list`."
            ),
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a circuit: a picture (svg, png, pdf), its source (dot, tikz, mermaid), a page, a
    network (graphml, gexf) or a file for another tool.

    The file lies beside the circuit unless --out is given. What a file for another tool can't hold
    is told. A page (html) is made of what the run left; `circuitfind view` makes it with runs of
    the model.

    Example: circuitfind export results/my-run --format svg,pdf
    """
    from dataclasses import replace

    from circuitfind.export import Subject, export_subject, find_format

    formats = _formats(format, out)
    for name in formats:
        find_format(name)
    targets = _targets(circuit, formats, out, force)
    look = _look(style, max_edges, collapse, roles)
    subject = Subject.load(circuit, look)
    subject = replace(subject, look=_look_of(subject, labels or [], highlight))
    if out == STDOUT:
        print_file(find_format(formats[0]).write(subject))
        _tell(subject, formats[0], "the output")
        return
    for name, path in targets.items():
        export_subject(subject, name, path)
        typer.echo(path)
        _tell(subject, name, path.name)


def print_file(content: bytes) -> None:
    """A text file on stdout: byte for byte into a pipe or a file, as a text on a terminal."""
    import sys

    from circuitfind.cli.terminal import behind

    if sys.stdout.isatty():
        sys.stdout.write(content.decode())
        return
    sys.stdout.flush()
    binary = behind(sys.stdout).buffer
    binary.write(content)
    binary.flush()


def _tell(subject: Subject, format: str, file: str) -> None:
    """Says on stderr what a user should know of the file, such as what it lacks of the circuit."""
    from circuitfind.export import find_format

    for line in find_format(format).told(subject):
        typer.echo(f"{file}: {line}", err=True)


def _look(style: str, max_edges: int | None, collapse: str | None, roles: bool) -> Look:
    """How the picture is to look, whatever the circuit. Raises UsageError."""
    from circuitfind.export.drawing.subject import MOST_EDGES, Look, find_collapse

    most = MOST_EDGES if max_edges is None else max_edges
    return Look(most, style, find_collapse(collapse) if collapse is not None else None, roles=roles)


def _look_of(subject: Subject, labels: list[str], highlight: str | None) -> Look:
    """The look with what names parts of the circuit. Raises UsageError and CircuitError."""
    from dataclasses import replace

    from circuitfind.export.drawing.highlight import read_highlight
    from circuitfind.export.drawing.labels import read_labels

    circuit, look = subject.circuit, subject.look
    known = None if highlight is None else read_highlight(circuit, highlight)
    return replace(look, labels=read_labels(labels, circuit.graph, look.collapse), highlight=known)


def _formats(format: str | None, out: Path | None) -> list[str]:
    """The formats asked for, each once; they may not exist."""
    from circuitfind.export.catalogue import format_of

    if format is None:
        if out is None or not out.suffix:
            return ["svg"]
        return [format_of(out.name) or out.suffix.removeprefix(".").lower()]
    return list(dict.fromkeys(name.strip().lower() for name in format.split(",")))


def _targets(circuit: Path, formats: list[str], out: Path | None, force: bool) -> dict[str, Path]:
    """The file of each format. Raises UsageError or OutputError before anything is written."""
    from circuitfind.errors import UsageError
    from circuitfind.export import FORMATS
    from circuitfind.runs.target import check_target

    if out and len(formats) > 1:
        raise UsageError(
            f"--out {out} names one file, but --format asks for {len(formats)}. Leave one of them out."
        )
    if out == STDOUT:
        if not FORMATS[formats[0]].is_text:
            raise UsageError(
                f"--out - writes text, and {formats[0]} is none. Give a file, or a format that is text, such"
                " as dot."
            )
        return {}
    stem = circuit / "circuit" if circuit.is_dir() else circuit.with_suffix("")
    targets = {name: out or stem.with_name(f"{stem.name}.{FORMATS[name].suffix}") for name in formats}
    for path in targets.values():
        check_target(
            path, [circuit], force, "Add --force to replace it, or give another place with --out."
        )
    return targets
