"""Our files in the other tools' own code, and theirs in ours: EAP-IG, ACDC, AutoCircuit, Edge-Pruning, from clones.

    python -m benchmarks.exchange EAP-IG=path/to/EAP-IG ACDC=path/to/Automatic-Circuit-Discovery \\
        AutoCircuit=path/to/auto-circuit Edge-Pruning=path/to/Edge-Pruning [--fixtures DIR]

Prints a line a check: tool, what, ok or what differs. Only the modules that know a file's layout are imported, with
empty stand-ins for what they import and don't need here (transformer_lens, pictures). A clone must be trusted: its code
is run. ``--fixtures`` also writes the small files of theirs that tests/exchange reads.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import io
import json
import sys
import tempfile
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circuitfind.circuits.graph import Graph
from circuitfind.exchange import acdc, autocircuit, eapig, edgepruning
from circuitfind.exchange.edges import ScoredEdges

SHAPES = (Graph(2, 2), Graph(2, 2, parallel=True), Graph(3, 4))
WIDTH = 4


class Anything:
    """What a stand-in's names are."""


class Templates(dict[str, Any]):
    """Plotly's, of which AutoCircuit makes one the default."""

    default = ""


def stand_in(name: str, **names: object) -> None:
    """An empty module of that name."""
    module = types.ModuleType(name)
    module.__dict__.update(names)
    sys.modules[name] = module


def package(name: str, folder: Path) -> None:
    """A package whose modules are imported from there, without its own __init__."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def config(graph: Graph) -> dict[str, Any]:
    """A model's shape as EAP-IG's cfg has it."""
    return {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": WIDTH,
    }


def drawn(graph: Graph) -> ScoredEdges:
    """Scores drawn at random in float32, and a third of the edges kept."""
    rng = np.random.default_rng(0)
    real = np.arange(len(graph.senders)) < np.array([[graph.n_readable(r)] for r in graph.receivers])
    scores = np.where(real, rng.normal(size=real.shape).astype(np.float32).astype(np.float64), np.nan)
    return ScoredEdges(graph, real & (rng.random(real.shape) < 1 / 3), scores, d_model=WIDTH)


def same(one: ScoredEdges, other: ScoredEdges) -> bool:
    """Whether both have the same edges and scores."""
    return bool((one.kept == other.kept).all()) and np.array_equal(
        one.scores, other.scores, equal_nan=True
    )


def with_eap_ig(clone: Path, fixtures: Path | None) -> Iterator[tuple[str, bool]]:
    """EAP-IG's Graph reads ours and we read its."""
    stand_in(
        "transformer_lens", HookedTransformer=Anything, HookedTransformerConfig=type("Config", (), {})
    )
    package("eap", clone / "src" / "eap")
    stand_in("eap.visualization", get_color=None, generate_random_color=None)
    theirs = importlib.import_module("eap.graph").Graph
    folder = fixtures or Path(tempfile.mkdtemp())
    for graph in SHAPES:
        yield from of_shape(theirs, graph, folder)
    yield from of_nodes(theirs, folder)


def of_shape(theirs: Any, graph: Graph, folder: Path) -> Iterator[tuple[str, bool]]:
    """Graphs of one shape, to and fro."""
    ours, shape = drawn(graph), f"{graph.n_layers}x{graph.n_heads}{'-parallel' * graph.parallel}"
    ways = (("json", eapig.write_json, theirs.from_json), ("pt", eapig.write_pt, theirs.from_pt))
    for suffix, write, read in ways:
        file = folder / f"ours.{suffix}"
        file.write_bytes(write(ours))
        opened = read(str(file))
        file.unlink()
        has_all = {str(edge) for edge in graph.edges()} == set(opened.edges)
        scores, kept = opened.scores.numpy().T, opened.in_graph.numpy().T
        is_same = np.array_equal(scores, ours.filled.astype(np.float32)) and bool(
            (kept == ours.kept).all()
        )
        yield f"opens our {suffix}, {shape}", has_all and is_same
    made = theirs.from_model(config(graph))
    torch.manual_seed(0)
    made.scores = torch.randn_like(made.scores) * made.real_edge_mask
    made.apply_topn(graph.n_edges // 3, True)
    for suffix in ("json", "pt"):
        file = folder / f"eap-ig-{shape}.{suffix}"
        getattr(made, f"to_{suffix}")(str(file))
    text = (folder / f"eap-ig-{shape}.json").read_text()
    read_json = eapig.read_json(json.loads(text), "json").edges
    content = torch.load(folder / f"eap-ig-{shape}.pt", weights_only=True)
    yield f"its json comes out again to the byte, {shape}", eapig.write_json(read_json) == text.encode()
    yield f"its json and pt are the same, {shape}", same(read_json, eapig.read_pt(content, "pt").edges)
    if graph.n_layers > 2:  # too large to keep
        for suffix in ("json", "pt"):
            (folder / f"eap-ig-{shape}.{suffix}").unlink()


def of_nodes(theirs: Any, folder: Path) -> Iterator[tuple[str, bool]]:
    """A circuit that EAP-IG chose by nodes."""
    made = theirs.from_model(config(SHAPES[0]), node_scores=True, neuron_level=True)
    torch.manual_seed(0)
    made.nodes_scores = torch.randn(made.n_forward)
    made.apply_topn(4, True, level="node", prune=False)
    made.to_pt(str(folder / "eap-ig-nodes.pt"))
    read_nodes = eapig.read_pt(torch.load(folder / "eap-ig-nodes.pt", weights_only=True), "pt").edges
    yield (
        "its circuit of nodes",
        read_nodes.by_node
        and int(read_nodes.kept.sum()) == int((made.in_graph & made.real_edge_mask).sum()),
    )


def nested(depth: int) -> dict[Any, Any]:
    """A dict of dicts, so many deep, made as they are asked for."""
    return defaultdict(lambda: nested(depth - 1)) if depth > 1 else {}


def with_acdc(clone: Path, fixtures: Path | None) -> Iterator[tuple[str, bool]]:
    """ACDC's graph has the edges that our subgraph names, and its TorchIndex reads our text."""
    package("acdc", clone / "acdc")
    stand_in(
        "acdc.acdc_utils", OrderedDefaultdict=defaultdict, make_nd_dict=lambda end_type, n: nested(n)
    )
    names = vars(importlib.import_module("acdc.TLACDCCorrespondence"))
    for graph in (SHAPES[0], SHAPES[2]):
        model = types.SimpleNamespace(cfg=types.SimpleNamespace(**config(graph), attn_only=False))
        found = names["TLACDCCorrespondence"].setup_from_model(model).all_edges()
        theirs = {
            (to, i.hashable_tuple, of, j.hashable_tuple): edge for (to, i, of, j), edge in found.items()
        }
        ours = drawn(graph)
        subgraph = torch.load(io.BytesIO(acdc.write_subgraph(ours)), weights_only=True)
        yield (
            f"load_subgraph's edges are ours, {graph.n_layers}x{graph.n_heads}",
            set(theirs) == set(subgraph),
        )
        read = eval(acdc.write_text(ours).decode(), {"TorchIndex": names["TorchIndex"]})
        keys = {(to, i.hashable_tuple, of, j.hashable_tuple) for (to, i, of, j), _ in read}
        yield f"its TorchIndex reads our text, {graph.n_layers}x{graph.n_heads}", keys <= set(theirs)
        told = acdc.read_text(repr(read), "printed", graph).edges
        yield f"what it prints, {graph.n_layers}x{graph.n_heads}", bool((told.kept == ours.kept).all())
        if fixtures and graph == SHAPES[0]:
            (fixtures / "acdc-2x2.txt").write_text("\n".join(map(repr, sorted(theirs))) + "\n")


def with_auto_circuit(clone: Path, fixtures: Path | None) -> Iterator[tuple[str, bool]]:
    """AutoCircuit's nodes have the modules and the sizes of our tensors."""
    package("auto_circuit", clone / "auto_circuit")
    look = types.SimpleNamespace(layout=types.SimpleNamespace(font=Anything(), colorway=None))
    stand_in("plotly.io", templates=Templates(plotly=look))
    stand_in("plotly", io=sys.modules["plotly.io"])
    stand_in("auto_circuit.data", BatchKey=int)
    package("auto_circuit.utils", clone / "auto_circuit" / "utils")
    stand_in("auto_circuit.utils.misc", module_by_name=None)
    stand_in("transformer_lens", HookedTransformer=Anything)
    package("auto_circuit.model_utils", clone / "auto_circuit" / "model_utils")
    utils = importlib.import_module("auto_circuit.model_utils.transformer_lens_utils")
    for graph in SHAPES:
        hooks = {
            "use_attn_result": True,
            "use_hook_mlp_in": True,
            "use_split_qkv_input": True,
            "attn_only": False,
        }
        model = types.SimpleNamespace(cfg=types.SimpleNamespace(**config(graph), **hooks))
        sources, readers = utils.factorized_src_nodes(model), utils.factorized_dest_nodes(model, True)
        shapes: dict[str, tuple[int, ...]] = {}
        for reader in readers:
            n = sum(source.layer < reader.layer for source in sources)
            shapes[reader.module_name] = (n,) if reader.head_idx is None else (graph.n_heads, n)
        ours = torch.load(io.BytesIO(autocircuit.write_scores(drawn(graph))), weights_only=True)
        yield (
            f"its modules and their sizes, {graph}",
            {name: tuple(x.shape) for name, x in ours.items()} == shapes,
        )


def with_edge_pruning(clone: Path, fixtures: Path | None) -> Iterator[tuple[str, bool]]:
    """Edge-Pruning's functions of names take ours to the places of our graph."""
    source = (clone / "src" / "modeling" / "modeling_fpt2.py").read_text()
    wanted = {"writer_name_to_idx", "writer_idx_to_name", "reader_idx_to_name"}
    found = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name in wanted
    ]
    names: dict[str, Callable[..., Any]] = {}
    exec(compile(ast.Module(found, []), "modeling_fpt2.py", "exec"), names)
    for graph in (SHAPES[0], SHAPES[2]):
        size = {"num_layers": graph.n_layers, "num_heads": graph.n_heads}
        readers = [names["reader_idx_to_name"](i, **size) for i in range(len(graph.receivers))]
        ours, is_same = drawn(graph), True
        for writer, reader in json.loads(edgepruning.write_list(ours)):
            edge = edgepruning.edge_of(writer, reader)
            sender = max(0, names["writer_name_to_idx"](writer, **size, with_embedding_nodes=True) - 1)
            is_same &= graph.order(edge) == (readers.index(reader), sender)
        yield f"its names are ours, {graph.n_layers}x{graph.n_heads}", is_same


CHECKS = {
    "EAP-IG": with_eap_ig,
    "ACDC": with_acdc,
    "AutoCircuit": with_auto_circuit,
    "Edge-Pruning": with_edge_pruning,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clones", nargs="+", metavar="TOOL=FOLDER", help=", ".join(CHECKS))
    parser.add_argument(
        "--fixtures", type=Path, help="where to write the files that tests/exchange reads"
    )
    options = parser.parse_args()
    failed = 0
    for clone in options.clones:
        tool, _, folder = clone.partition("=")
        for what, is_right in CHECKS[tool](Path(folder), options.fixtures):
            failed += not is_right
            print(f"{tool:<13}{'ok' if is_right else 'DIFFERS':<9}{what}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
