"""``circuitfind export``: a circuit as a picture or as a file for another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from circuitfind.export import Subject

STDOUT = Path("-")


def export(
    circuit: Annotated[Path, typer.Argument(metavar="CIRCUIT", help="A circuit.json or a run folder.")],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="F",
            help="dot, svg, png, pdf, html, tikz, mermaid, graphml or gexf; for other tools eap-ig-json, eap-ig-pt, "
            "acdc-json, acdc-text, acdc-pth, autocircuit or edge-pruning. Several with commas. Without it what --out "
            "ends in, else svg.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to; - for stdout.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a circuit: a picture (svg, png, pdf), its source (dot, tikz, mermaid), a page, a network (graphml, gexf) or
    a file for another tool.

    The file lies beside the circuit unless --out is given. What a file for another tool can't hold is told. A page
    (html) is made of what the run left; `circuitfind view` makes it with runs of the model.

    Example: circuitfind export results/my-run --format svg,pdf
    """
    from circuitfind.export import Subject, export_subject, find_format

    formats = _formats(format, out)
    for name in formats:
        find_format(name)
    targets = _targets(circuit, formats, out, force)
    subject = Subject.load(circuit)
    if out == STDOUT:
        typer.echo(find_format(formats[0]).write(subject), nl=False)
        _tell(subject, formats[0], "the output")
        return
    for name, path in targets.items():
        export_subject(subject, name, path)
        typer.echo(path)
        _tell(subject, name, path.name)


def _tell(subject: Subject, format: str, file: str) -> None:
    """Says on stderr what a user should know of the file, such as what it lacks of the circuit."""
    from circuitfind.export import find_format

    for line in find_format(format).told(subject):
        typer.echo(f"{file}: {line}", err=True)


def _formats(format: str | None, out: Path | None) -> list[str]:
    """The formats asked for, each once; they may not exist."""
    from circuitfind.export.formats import format_of

    if format is None:
        if out is None or not out.suffix:
            return ["svg"]
        return [format_of(out.name) or out.suffix.removeprefix(".").lower()]
    return list(dict.fromkeys(name.strip().lower() for name in format.split(",")))


def _targets(circuit: Path, formats: list[str], out: Path | None, force: bool) -> dict[str, Path]:
    """The file of each format. Raises UsageError or OutputError before anything is written."""
    from circuitfind.errors import OutputError, UsageError
    from circuitfind.export import FORMATS

    if out and len(formats) > 1:
        raise UsageError(f"--out {out} names one file, but --format asks for {len(formats)}. Leave one of them out.")
    if out == STDOUT:
        if not FORMATS[formats[0]].is_text:
            raise UsageError(
                f"--out - writes text, and {formats[0]} is none. Give a file, or a format that is text, such as dot."
            )
        return {}
    stem = circuit / "circuit" if circuit.is_dir() else circuit.with_suffix("")
    targets = {name: out or stem.with_name(f"{stem.name}.{FORMATS[name].suffix}") for name in formats}
    for path in targets.values():
        if path.is_dir():
            raise OutputError(f"Cannot write {path}: it is a folder. Name a file, for instance {path / 'circuit.svg'}.")
        if path.exists() and not force:
            raise OutputError(f"{path} is there already. Add --force to replace it, or give another place with --out.")
    return targets
