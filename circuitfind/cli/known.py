"""circuitfind known: the circuits that are known, and how a circuit compares with one of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitfind.cli.tasks import ListByDefault

if TYPE_CHECKING:
    from circuitfind.evaluation.reference import Ranking
    from circuitfind.known import KnownCircuit
    from circuitfind.known.compare import KnownComparison

app = typer.Typer(
    cls=ListByDefault,
    help="Known circuits: list them, show one, compare a circuit with one.",
    epilog="Example: circuitfind known show ioi",
)

ESTABLISHED = Path("results/known")
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="DIR",
        help="Besides, the circuit files (.json) in here. Default: results/known, where that is.",
        show_default=False,
    ),
]
Circuits = "A name of the list, a circuit.json or a run folder."


@app.command("list", epilog="Example: circuitfind known list --json")
def list_known(folder: Folder = None, as_json: AsJson = False) -> None:
    """Show the known circuits: name, task, model, what of it is known, paper, and how much it is."""
    from circuitfind.known import all_known

    known = all_known(folder or here())
    if as_json:
        _print_json({"known": [one.to_dict() for one in known]})
        return
    rows = [
        (one.name, one.task, one.model, one.level, one.paper or one.title, _size(one)) for one in known
    ]
    print("\n".join(_aligned(rows)) if sys.stdout.isatty() else "\n".join("\t".join(row) for row in rows))


@app.command("show", no_args_is_help=True, epilog="Example: circuitfind known show greater-than")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help=Circuits)],
    as_json: AsJson = False,
) -> None:
    """Show a known circuit: its paper, and its heads and MLPs by what they do."""
    from circuitfind.known import find_known

    known = find_known(name, here())
    if as_json:
        _print_json(known.to_dict())
        return
    print(_describe(known), end="\n\n")
    print("\n".join(_aligned([(role, " ".join(map(str, nodes))) for role, nodes in known.nodes.items()])))


@app.command(
    "compare", no_args_is_help=True, epilog="Example: circuitfind known compare results/my-run ioi"
)
def compare(
    circuit: Annotated[Path, typer.Argument(metavar="CIRCUIT", help="A circuit.json or a run folder.")],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help=f"{Circuits} Without it that of the same task and shape."),
    ] = None,
    folder: Folder = None,
    signed: Annotated[
        bool, typer.Option("--signed", help="Rank by the signed score, not by |score|.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a circuit with a known one: what of each role it has, and how well its scores rank
    what is known.

    A run folder's scores rank all edges; of a circuit.json alone the edges that it lacks count as
    0.
    """
    from circuitfind.circuits.circuit import Circuit
    from circuitfind.evaluation.reference import SCORES_FILE, read_scores
    from circuitfind.files.links import file_in
    from circuitfind.known import all_known, choose_known, find_known
    from circuitfind.known.compare import compare_with_known

    found = Circuit.load(circuit)
    folder = folder or here()
    known = find_known(name, folder) if name else choose_known(found, all_known(folder))
    file = file_in(circuit, SCORES_FILE)
    scores = None if file is None else read_scores(file, found.graph)
    comparison = compare_with_known(found, known, scores, "signed" if signed else "absolute")
    if as_json:
        _print_json(comparison.to_dict())
    else:
        print("\n".join(_lines(comparison)))


def here() -> Path | None:
    """The circuits that a project keeps, below the working directory."""
    return ESTABLISHED if ESTABLISHED.is_dir() else None


def _describe(known: KnownCircuit) -> str:
    """What a known circuit is, in one line."""
    cited = f" ({known.paper})" if known.paper else ""
    return f"{known.name}: {known.task} in {known.model}, {_size(known)}; {known.title}{cited}"


def _size(known: KnownCircuit) -> str:
    n_nodes = len(known.all_nodes)
    of_nodes = f"{n_nodes} {'heads' if known.level == 'heads' else 'nodes'}"
    return of_nodes if known.circuit is None else f"{of_nodes}, {len(known.circuit.edges):,} edges"


def _lines(comparison: KnownComparison) -> Iterator[str]:
    """The comparison on one screen: roles, then nodes, then edges where they are known."""
    from circuitfind.cli.diff import name_of

    agreement = comparison.agreement
    yield f"known:   {_describe(comparison.known)}"
    yield f"circuit: {name_of(comparison.circuit)}"
    yield ""
    rows = [("role", "found", "", "missing")]
    for role, recall in comparison.roles.items():
        count = f"{len(recall.found)} of {len(recall.found) + len(recall.missing)}"
        rows.append((role, count, _few(recall.found), _few(recall.missing)))
    yield from _aligned(rows)
    yield ""
    by = (
        f"{'score' if agreement.order == 'signed' else '|score|'} of"
        f" {'all' if comparison.is_scored else 'kept'} edges"
    )
    title = "heads" if comparison.known.level == "heads" else "nodes"
    parts = [(title, agreement.nodes, agreement.node_ranking)]
    if agreement.edges is not None and agreement.edge_ranking is not None:
        parts.append(("edges", agreement.edges, agreement.edge_ranking))
    for title, common, ranking in parts:
        yield (
            f"{title}: {common.n_common:,} of {common.n_before:,} found; the circuit has {common.n_after:,}."
            f" Precision {_share(common.precision)}, recall {_share(common.recall)}, Jaccard"
            f" {common.jaccard:.1%}; {_ranked(ranking)} by the {by}"
        )


def _ranked(ranking: Ranking) -> str:
    if ranking.auc is None or ranking.average_precision is None:
        return "nothing to rank"
    return f"ROC AUC {ranking.auc:.3f}, average precision {ranking.average_precision:.3f}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _few(nodes: Sequence[Any], most: int = 12) -> str:
    """Nodes by name, the first so many of them."""
    return " ".join(map(str, nodes[:most])) + (
        f" and {len(nodes) - most:,} more" if len(nodes) > most else ""
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{c:<{width}}" for c, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))
