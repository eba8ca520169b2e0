"""``circuitfind diff``: what has become of a circuit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from circuitfind.circuits.compare import CHANGED, compare

if TYPE_CHECKING:
    from circuitfind.circuits.circuit import Circuit
    from circuitfind.circuits.compare import Comparison, Overlap

T = TypeVar("T")
BELOW_THE_BAR = 1
SHOWN = 10
EXAMPLE = "Example: circuitfind diff results/known/ioi.json results/my-run --fail"


def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A circuit.json or a run folder.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another, of a model of the same shape.")],
    fail: Annotated[
        bool, typer.Option("--fail", help="Exit with 1 where edges were gained or lost: for CI.")
    ] = False,
    min_jaccard: Annotated[
        float | None,
        typer.Option(
            "--min-jaccard",
            metavar="J",
            help="With --fail: only where they share less than this of their edges (0 to 1).",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", metavar="SHARE", help="A smaller relative change of a score is none."
        ),
    ] = CHANGED,
    dot: Annotated[
        Path | None,
        typer.Option(
            "--dot",
            metavar="FILE",
            help="Draw both in one picture: svg, png, pdf, dot, tex, mmd.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a picture that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare two circuits: edges and nodes gained and lost, scores that changed, by layer and by
    what edges lead into.

    Models may differ in their weights, not in their shape.
    """
    from circuitfind.circuits.circuit import Circuit, uncollected
    from circuitfind.errors import UsageError

    if min_jaccard is not None and not (fail and 0 <= min_jaccard <= 1):
        raise UsageError(
            f"--min-jaccard is {min_jaccard}; it goes with --fail and is a number from 0 to 1."
        )
    comparison = compare(Circuit.load(before), Circuit.load(after), tolerance)
    if dot is not None:
        draw(comparison, dot, force, (before, after))
    with uncollected():
        if as_json:
            typer.echo(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
        else:
            typer.echo("\n".join(lines_of(comparison)))
        if fail and not holds(comparison, min_jaccard):
            raise typer.Exit(BELOW_THE_BAR)


def draw(comparison: Comparison, path: Path, force: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Both circuits in one picture. Raises OutputError where something else is there."""
    from circuitfind.export import export_comparison
    from circuitfind.runs.target import check_target

    check_target(path, inputs, force, "Add --force to replace it, or name another file.")
    export_comparison(comparison, path)


def holds(comparison: Comparison, min_jaccard: float | None) -> bool:
    """Whether the second circuit still is the first, or shares enough of its edges."""
    return comparison.is_same if min_jaccard is None else comparison.kept.jaccard >= min_jaccard


def lines_of(comparison: Comparison) -> Iterator[str]:
    """The comparison on one screen, the whole first, then the largest of what is different."""
    yield f"before: {name_of(comparison.before)}"
    yield f"after:  {name_of(comparison.after)}"
    yield ""
    n_changed = f"{len(comparison.changed):,} of those in both have another score"
    yield f"{comparison.noun}: {shared(comparison.kept)}; {n_changed}"
    yield f"nodes: {shared(comparison.nodes)}"
    yield from _edges("lost", comparison.lost, "{:+.4g}".format)
    yield from _edges("gained", comparison.gained, "{:+.4g}".format)
    yield from _edges(
        "another score", comparison.changed, lambda pair: "{:+.4g} -> {:+.4g}".format(*pair)
    )
    for title, nodes in (
        ("nodes lost", comparison.lost_nodes),
        ("nodes gained", comparison.gained_nodes),
    ):
        if nodes:
            yield f"\n{title}: " + ", ".join(map(str, nodes))
    if not comparison.is_same:
        of = "into" if comparison.noun == "edges" else "of"
        yield from _table(f"{of} layer", comparison.by_layer())
        yield from _table(of, comparison.by_role())


def name_of(circuit: Circuit) -> str:
    """A circuit in one line."""
    from circuitfind.export.drawing.facts import one_line

    names = [
        one_line(block["name"])
        for block in (circuit.task, circuit.model, circuit.method)
        if block.get("name")
    ]
    return f"{', '.join(names)}: {circuit.size}"


def shared(overlap: Overlap) -> str:
    """How much is common, in a few words."""
    n_lost, n_gained = overlap.n_before - overlap.n_common, overlap.n_after - overlap.n_common
    return (
        f"{overlap.n_common:,} in both, {n_lost:,} lost, {n_gained:,} gained (Jaccard"
        f" {overlap.jaccard:.1%})"
    )


def _edges(title: str, edges: Mapping[Any, T], spell: Callable[[T], str]) -> Iterator[str]:
    if edges:
        shown = [(edge, spell(score)) for edge, score in islice(edges.items(), SHOWN)]
        width = max(len(score) for _, score in shown)
        yield f"\n{title}, the largest first:"
        yield from (f"  {score.rjust(width)}  {edge}" for edge, score in shown)
        if len(edges) > SHOWN:
            yield f"  and {len(edges) - SHOWN:,} more: --json has all"


def _table(title: str, parts: Mapping[str, Overlap]) -> Iterator[str]:
    rows = [(title, "before", "after", "in both")]
    rows += [(name, f"{p.n_before:,}", f"{p.n_after:,}", f"{p.n_common:,}") for name, p in parts.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield ""
    for row in rows:
        yield "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
