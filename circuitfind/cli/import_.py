"""``circuitfind import``: a circuit, or prompts, from a file of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from circuitfind.circuits.size import Selection

EXAMPLE = "Example: circuitfind import importances.json --edges 500 --model gpt2"
PROMPTS_SUFFIXES = (".csv", ".jsonl")
PROMPTS_FORMATS = ("eap-ig-csv", "edge-pruning-jsonl", "mib-jsonl", "autocircuit-json")
MOST_PROBLEMS = 3
"""So many problems with prompts are told; a command tells all of them."""


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A circuit (.json, .pt, .pth, .txt) or prompts (.csv, .jsonl, .json)"
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="F",
            help="eap-ig-json, eap-ig-pt, acdc-json, acdc-text, acdc-pth, autocircuit, edge-pruning; "
            "prompts: eap-ig-csv, edge-pruning-jsonl, mib-jsonl, autocircuit-json. Default: what the"
            " file is.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PLACE",
            help="A folder, or a .json for the circuit alone; of prompts a .jsonl. Default: beside FILE.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The model's name; of prompts the model whose tokens they are.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="The task's name or file.", show_default=False)
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            "--shape",
            help="Layers and heads of a model whose edges are just listed: 12x12.",
            show_default=False,
        ),
    ] = None,
    edges: Annotated[
        int | None,
        typer.Option("--edges", "-e", metavar="N", help="Keep so many edges.", show_default=False),
    ] = None,
    fraction: Annotated[
        float | None,
        typer.Option("--fraction", metavar="F", help="Keep this share of the edges.", show_default=False),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", "-t", metavar="T", help="Keep edges from this score on.", show_default=False
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            "--nodes", metavar="N", help="Keep so many nodes, of scores of nodes.", show_default=False
        ),
    ] = None,
    select: Annotated[str, typer.Option("--select", help="By what: top, top-signed or greedy.")] = "top",
    corrupted: Annotated[
        str, typer.Option("--corrupted", metavar="COLUMN", help="The column of the corrupted prompts.")
    ] = "corrupted",
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Read a circuit or prompts of another tool: EAP-IG, MIB, ACDC, AutoCircuit, Edge-Pruning.

    A circuit has the edges that the file marks as kept; with --edges, --fraction, --threshold or
    --nodes those of the largest scores. It comes out as a folder like that of a run. What of the
    file is left out is told.
    """
    _check_file(file)
    from circuitfind.exchange.prompts import holds_prompts

    is_prompts = file.suffix.lower() in PROMPTS_SUFFIXES or (format is None and holds_prompts(file))
    if is_prompts or format in PROMPTS_FORMATS:
        return _import_prompts(file, format, out, model, corrupted, force)
    from circuitfind.exchange.importing import ImportOptions, import_circuit
    from circuitfind.exchange.shape import parse_shape

    selection = _selection(edges, fraction, threshold, nodes, select)
    place = out or file.with_suffix("")
    is_alone = place.suffix.lower() == ".json"
    _check_place(file, place, is_alone, force)
    options = ImportOptions(
        file, format, model, task, selection, None if shape is None else parse_shape(shape)
    )
    imported = import_circuit(options)
    for note in imported.notes:
        typer.echo(f"{file.name}: {note}", err=True)
    _write(place, imported.files, is_alone, force)
    graph = imported.circuit.graph
    typer.echo(f"{place}: a circuit of {len(imported.circuit.edges):,} of {graph.n_edges:,} edges")
    return None


def _check_file(file: Path) -> None:
    """Raises CircuitError for a folder, such as a run's, which needs no import."""
    from circuitfind.errors import CircuitError

    if file.is_dir():
        raise CircuitError(
            f"{file} is a folder. Name the file in it; a run's own folder needs no import."
        )


def _selection(
    edges: int | None, fraction: float | None, threshold: float | None, nodes: int | None, select: str
) -> Selection | None:
    """What was asked for; None where the file is to say. Raises UsageError for a way to select that
    there is not.
    """
    from circuitfind.circuits.size import Selection, find_select

    way = find_select(select)
    if edges is fraction is threshold is nodes is None:
        return None
    return Selection(edges, fraction, threshold, way, nodes)


def _check_place(file: Path, place: Path, is_alone: bool, force: bool) -> None:
    """Raises OutputError where something lies already, or nothing can be written; before anything is read."""
    from circuitfind.circuits.record import RUN_FILE
    from circuitfind.runs.folder import check_free
    from circuitfind.runs.target import check_target

    if not is_alone:
        check_free(place, force, ("circuit.json", "scores.safetensors", RUN_FILE), inputs=(file,))
    else:
        check_target(place, [file], force, "Add --force to replace it, or give another place with --out.")


def _write(place: Path, files: dict[str, str | bytes], is_alone: bool, force: bool) -> None:
    from circuitfind.runs.folder import write, write_run

    if not is_alone:
        write_run(place, files, force)
        return
    write(place.parent, place.name, files["circuit.json"])
    if "scores.safetensors" in files:
        typer.echo(
            f"{place.name} has the circuit alone; as a folder it has the scores of all edges, too.",
            err=True,
        )


def _import_prompts(
    file: Path, format: str | None, out: Path | None, model: str | None, corrupted: str, force: bool
) -> None:
    """Writes a prompts file that a run takes; with a model its tokens are checked, too."""
    from circuitfind.cli.tasks import load_tokenizer_of
    from circuitfind.errors import OutputError
    from circuitfind.exchange.prompts import read_prompts
    from circuitfind.prompts.files import write_prompts
    from circuitfind.prompts.pairs import check_pairs
    from circuitfind.runs.folder import write

    place = out or file.with_name(f"{file.stem}.prompts.jsonl")
    if place.suffix.lower() != ".jsonl":
        raise OutputError(
            f"Prompts are written as .jsonl, and --out is {place}. Name a file that ends so."
        )
    _check_place(file, place, True, force)
    tokenizer = None if model is None else load_tokenizer_of(model)
    read = read_prompts(file, tokenizer, format, corrupted)
    problems = check_pairs(read.pairs, tokenizer) if tokenizer else []
    write(place.parent, place.name, write_prompts(read.pairs))
    for note in (*read.notes, *problems[:MOST_PROBLEMS]):
        typer.echo(f"{file.name}: {note}", err=True)
    if len(problems) > MOST_PROBLEMS:
        typer.echo(
            f"and {len(problems) - MOST_PROBLEMS:,} more: circuitfind tasks check {place} --model {model}",
            err=True,
        )
    typer.echo(f"{place}: {len(read.pairs):,} prompts")
