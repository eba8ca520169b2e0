"""A circuit and its file. Regenerate the golden file with: REGENERATE=1 pytest tests/circuits/test_circuit.py"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.circuits.schema import LARGEST
from circuitfind.errors import CircuitError

GOLDEN = Path(__file__).parents[1] / "golden" / "circuit.json"

MODEL = {
    "name": "tiny",
    "architecture": "GPT2LMHeadModel",
    "n_layers": 2,
    "n_heads": 2,
    "d_model": 16,
    "parallel_attn_mlp": False,
    "sha256": "0123abcd",
}
SMALL = Circuit(
    Graph(2, 2),
    {
        Edge.parse("a1.h1->logits"): 2,
        Edge.parse("input->m0"): 1e-7,
        Edge.parse("a0.h0->a1.h1<k>"): -0.3,
        Edge.parse("input->a0.h0<v>"): 0.1 + 0.2,
    },
    model=MODEL,
    task={"name": "größer-als", "n_prompts": 2, "seed": 0, "prompts_sha256": "beef"},
    method={"name": "acdc", "metric": "kl", "ablation": "corrupted", "threshold": 0.02},
    metrics={"full": {"kl": 0.0}, "circuit": {"kl": 0.5}, "ablated": {"kl": 3.25}, "faithfulness": None},
)

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=5,
)
blocks = st.dictionaries(names, values, max_size=3)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.booleans())
scores = st.dictionaries(st.integers(0, 10**6), st.floats(-LARGEST, LARGEST), max_size=12)


def make_circuit(
    shape: tuple[int, int, bool], scores: dict[int, float], *blocks: dict[str, Any]
) -> Circuit:
    """The edges of these numbers (around and around) with these scores."""
    graph = Graph(*shape)
    edges = list(graph.edges())
    model = dict(zip(("n_layers", "n_heads", "parallel_attn_mlp"), shape, strict=True))
    return Circuit(
        graph,
        {edges[place % len(edges)]: s for place, s in scores.items()},
        blocks[0] | model,
        *blocks[1:],
    )


@given(shapes, scores, st.tuples(blocks, blocks, blocks, blocks))
def test_a_circuit_survives_its_file(shape: Any, scores: Any, blocks: Any) -> None:
    circuit = make_circuit(shape, scores, *blocks)
    text = circuit.to_json()
    again = Circuit.from_json(text)
    assert again == circuit
    assert list(again.edges) == list(circuit.edges)
    assert again.to_json() == text


@given(shapes, scores)
def test_every_edge_has_a_line_of_its_own_in_graph_order(shape: Any, scores: Any) -> None:
    circuit = make_circuit(shape, scores, {})
    lines = circuit.to_json().split("\n")
    start = next(place for place, line in enumerate(lines) if line.startswith('  "edges":'))
    shown = [line.strip().rstrip(",") for line in lines[start + 1 :] if line.startswith("    ")]
    ordered = sorted(circuit.edges, key=circuit.graph.order)
    assert shown == [f'"{edge}": {circuit.edges[edge]!r}' for edge in ordered]


def test_the_golden_file_is_written_to_the_byte() -> None:
    if os.environ.get("REGENERATE"):
        GOLDEN.write_text(SMALL.to_json(), encoding="utf-8")
    assert SMALL.to_json() == GOLDEN.read_text(encoding="utf-8")


def test_an_older_file_is_still_read() -> None:
    assert Circuit.load(GOLDEN) == SMALL


def test_a_removed_edge_is_a_removed_line() -> None:
    gone = Edge.parse("input->m0")
    fewer = Circuit(
        SMALL.graph,
        {e: s for e, s in SMALL.edges.items() if e != gone},
        SMALL.model,
        SMALL.task,
        SMALL.method,
        SMALL.metrics,
    )
    lines = SMALL.to_json().splitlines()
    lines.remove('    "input->m0": 1e-07,')
    assert fewer.to_json().splitlines() == lines


def test_the_order_in_which_edges_come_changes_no_byte() -> None:
    backwards = dict(reversed(SMALL.edges.items()))
    assert (
        Circuit(SMALL.graph, backwards, SMALL.model, SMALL.task, SMALL.method, SMALL.metrics).to_json()
        == SMALL.to_json()
    )


def test_the_graphs_size_is_in_the_file() -> None:
    assert json.loads(SMALL.to_json())["graph"] == {
        "n_edges": SMALL.graph.n_edges,
        "n_nodes": SMALL.graph.n_nodes,
    }


def test_the_nodes_are_those_that_kept_edges_touch_in_forward_order() -> None:
    assert [str(node) for node in SMALL.nodes] == ["input", "a0.h0", "m0", "a1.h1", "logits"]
    assert Circuit(Graph(2, 2), {}).nodes == ()
    assert Node("logits") not in Circuit(Graph(2, 2), {Edge.parse("input->m1"): 1.0}).nodes


def test_a_circuit_is_loaded_from_its_file_or_its_folder(tmp_path: Path) -> None:
    (tmp_path / "circuit.json").write_text(SMALL.to_json(), encoding="utf-8")
    assert Circuit.load(tmp_path) == Circuit.load(tmp_path / "circuit.json") == SMALL


def test_an_edge_that_the_model_lacks_cannot_be_in_a_circuit() -> None:
    with pytest.raises(CircuitError, match="'m1->m0' cannot exist in a model of 2 layers of 2 heads"):
        Circuit(Graph(2, 2), {Edge.parse("m1->m0"): 1.0})


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), 1e308])
def test_a_score_is_a_finite_number_that_can_be_summed_and_squared(score: float) -> None:
    with pytest.raises(CircuitError, match=r"'input->m0' has the score (nan|-?inf|1e\+308)"):
        Circuit(Graph(2, 2), {Edge.parse("input->m0"): score})


# bad files


def changed(**blocks: Any) -> str:
    """The small circuit's file with some blocks replaced; None takes one out."""
    data = json.loads(SMALL.to_json()) | blocks
    return json.dumps({key: value for key, value in data.items() if value is not None})


def of_shape(**shape: Any) -> str:
    return changed(model={**MODEL, **shape}, edges={})


def with_edges(**edges: Any) -> str:
    return changed(edges=edges)


TEXT = SMALL.to_json()
BAD = {
    "empty": ("", "not whole JSON"),
    "truncated": (TEXT[: len(TEXT) // 2], "not whole JSON: .* in line"),
    "a list": ("[]", "is no circuit"),
    "a number": ("3", "is no circuit"),
    "other JSON": ('{"cfg": {}}', "is no circuit: it lacks .*circuitfind.circuit"),
    "another format": (changed(format="circuitfind.sweep"), "is no circuit"),
    "newer": (changed(version=2), "has version 2; this circuitfind reads version 1. Upgrade"),
    "no version": (changed(version=None), "has version null"),
    "no model": (changed(model=None), 'lacks "model"'),
    "no task": (changed(task=None), 'lacks "task"'),
    "no method": (changed(method=None), 'lacks "method"'),
    "no graph": (changed(graph=None), 'lacks "graph"'),
    "no edges": (changed(edges=None), 'lacks "edges"'),
    "no metrics": (changed(metrics=None), 'lacks "metrics"'),
    "edges as a list": (
        changed(edges=["input->m0"]),
        r"\"edges\" is \['input->m0'\]; it must be an object",
    ),
    "edge twice": (TEXT.replace('"input->m0"', '"a1.h1->logits"'), "'a1.h1->logits' stands in it twice"),
    "two spellings": (with_edges(**{"input->m0": 1, "input->m00": 2}), "'m00' is no receiver"),
    "block twice": (TEXT.replace('"task"', '"model"'), "'model' stands in it twice"),
    "impossible edge": (with_edges(**{"m1->m0": 1}), "'m1->m0' cannot exist"),
    "edge of a larger model": (with_edges(**{"a7.h1->logits": 1}), "'a7.h1->logits' cannot exist"),
    "bad edge": (with_edges(**{"input->a0.h1<z>": 1}), "'a0.h1<z>' is no receiver"),
    "no edge": (with_edges(**{"m0": 1}), "'m0' is no edge"),
    "NaN score": (with_edges(**{"input->m0": float("nan")}), "holds NaN, which is no number"),
    "infinite score": (TEXT.replace("1e-07", "1e999"), "the number '1e999' is too large"),
    "huge score": (TEXT.replace("1e-07", "9" * 400), 'edges.input->m0" is 9{40}...; it must be smaller'),
    "word as score": (with_edges(**{"input->m0": "1"}), "edges.input->m0\" is '1'; it must be a number"),
    "true as score": (with_edges(**{"input->m0": True}), 'edges.input->m0" is true; it must be a number'),
    "no score": (with_edges(**{"input->m0": None}), 'edges.input->m0" is null; it must be a number'),
    "NaN elsewhere": (changed(metrics={"full": float("nan")}), "holds NaN, which is no number"),
    "half a character": (changed(task={"name": "\ud800"}), 'its block "task" holds half a character'),
    "other number of edges": (changed(graph={"n_edges": 7}), "has 7 edges; a model of its shape has 46"),
    "unknown number of edges": (changed(graph={}), 'lacks "graph.n_edges"'),
    "no layers": (of_shape(n_layers=0), '"model.n_layers" is 0; it must be a whole number of at least 1'),
    "fewer than no heads": (of_shape(n_heads=-1), '"model.n_heads" is -1'),
    "half a layer": (of_shape(n_layers=2.0), '"model.n_layers" is 2.0; it must be a whole number'),
    "true layers": (of_shape(n_layers=True), '"model.n_layers" is true'),
    "layers not said": (of_shape(n_layers=None), '"model.n_layers" is null'),
    "parallel not said": (
        of_shape(parallel_attn_mlp=0),
        '"model.parallel_attn_mlp" is 0; it must be true or false',
    ),
    "a billion layers": (
        of_shape(n_layers=10**9),
        '"model.n_layers" is 1000000000; it must be .* at most 200,000',
    ),
    "a billion heads": (of_shape(n_heads=10**9), '"model.n_heads" is 1000000000'),
    "many layers of many heads": (
        of_shape(n_layers=10**3, n_heads=10**3),
        "1,001,000 heads and MLPs; no model has",
    ),
    "score of 1e308": (
        TEXT.replace("1e-07", "1e308"),
        'edges.input->m0" is 1e\\+308; it must be a number of at most',
    ),
    "model named by a list": (of_shape(name=[1]), r'"model.name" is \[1\]; it must be a text or null'),
    "model named by a NUL": (
        of_shape(name="a\0b"),
        r'"model.name" is .*; it must be a text of other characters',
    ),
    "task named by a number": (changed(task={"name": 5}), '"task.name" is 5; it must be a text or null'),
    "a word of prompts": (
        changed(task={"n_prompts": "x"}),
        "\"task.n_prompts\" is 'x'; it must be a whole number or null",
    ),
    "10^12 prompts": (
        changed(task={"n_prompts": 10**12}),
        '"task.n_prompts" is 1000000000000; .* at most 100,000',
    ),
    "a word as seed": (changed(task={"seed": "x"}), "\"task.seed\" is 'x'; it must be a whole number"),
    "a seed of 30 digits": (
        changed(task={"seed": 10**30}),
        '"task.seed" is 10*; it must be a whole number of at most',
    ),
    "metric as a list": (
        changed(method={"metric": [1]}),
        r'"method.metric" is \[1\]; it must be a text or null',
    ),
    "dtype as an object": (
        changed(method={"dtype": {"a": 1}}),
        '"method.dtype" is {.*}; it must be a text or null',
    ),
    "threshold as a word": (
        changed(method={"threshold": "x"}),
        "\"method.threshold\" is 'x'; it must be a number",
    ),
    "members as a number": (changed(method={"of": 5}), '"method.of" is 5; it must be a list or null'),
    "a member's steps": (changed(method={"of": [{"steps": "x"}]}), "\"method.of.0.steps\" is 'x'"),
    "candidates as a word": (
        changed(method={"candidates": "x"}),
        "\"method.candidates\" is 'x'; it must be an object or",
    ),
    "half an interval": (
        changed(metrics={"faithfulness_interval": [1]}),
        'faithfulness_interval" is .1.; .* of 2',
    ),
    "a word of an interval": (
        changed(metrics={"faithfulness_interval": [0, "x"]}),
        "faithfulness_interval.1\" is 'x'",
    ),
    "a metric as a word": (
        changed(metrics={"full": {"kl": "x"}}),
        "\"metrics.full.kl\" is 'x'; it must be a number or",
    ),
    "a tolerance as a word": (
        changed(tolerances={"kl": "x"}),
        "\"tolerances.kl\" is 'x'; it must be a number",
    ),
    "a tolerance above 1": (
        changed(tolerances={"jaccard": 2}),
        '"tolerances.jaccard" is 2; it must be a number of at',
    ),
    "roles as words": (
        changed(graph={"n_edges": 1, "positions": "END"}),
        '"graph.positions" is .*; it must be a list',
    ),
    "300,000 roles": (
        changed(graph={"n_edges": 1, "positions": [f"r{n}" for n in range(300_000)]}),
        r'"graph.positions" is \[.*; it must be a list of at most 10,000',
    ),
    "metrics 100 deep": (
        changed(metrics={"new": json.loads("[" * 100 + "]" * 100)}),
        "is nested too deeply",
    ),
    "a number of digits without end": (TEXT.replace("1e-07", "9" * 9999), "a number that is too long"),
    "brackets without end": ("[" * 200_000, "nested too deeply"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_name_and_the_reason(name: str, tmp_path: Path) -> None:
    text, reason = BAD[name]
    file = tmp_path / "bad.json"
    file.write_text(text, encoding="utf-8")
    start = time.perf_counter()
    with pytest.raises(CircuitError, match=reason) as caught:
        Circuit.load(file)
    assert str(file) in str(caught.value)
    assert str(caught.value).count("\n") <= 1
    assert len(str(caught.value)) < len(str(file)) + 200
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.mkdir(), "No such file"),
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"\x89PNG\xff\xfe"), "it is not text"),
        (lambda path: (path.mkdir(), (path / "circuit.json").mkdir()), "Is a directory"),
    ],
    ids=["folder without one", "nothing there", "picture", "folder in its place"],
)
def test_what_cannot_be_read_is_told_with_what_to_give(
    make: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    make(tmp_path / "run")
    with pytest.raises(CircuitError, match=rf"run.*{reason}.*Give a circuit.json or a run folder"):
        Circuit.load(tmp_path / "run")


@pytest.mark.parametrize("n_bytes", range(0, len(TEXT) - 2, 97))
def test_a_file_cut_anywhere_is_refused(n_bytes: int) -> None:
    with pytest.raises(CircuitError, match="not whole JSON"):
        Circuit.from_json(TEXT[:n_bytes])


def test_the_circuit_of_a_large_model_is_read() -> None:
    shape = {"n_layers": 80, "n_heads": 64, "parallel_attn_mlp": False}  # Llama 3.3 70B
    circuit = Circuit(Graph(80, 64), {Edge.parse("a79.h63->logits"): 1.0}, shape)
    assert Circuit.from_json(circuit.to_json()) == circuit
