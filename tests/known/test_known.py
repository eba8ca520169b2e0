"""The known circuits that come along are what their papers state; files that are wrong are refused; roles are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.errors import CircuitError
from circuitfind.known import KnownCircuit, all_known, choose_known, find_known, load_known
from circuitfind.known.compare import compare_with_known
from circuitfind.prompts.files import builtin_tasks, load_task

GPT2 = Graph(12, 12)
GOOD: dict[str, Any] = {
    "format": "circuitfind.known",
    "version": 1,
    "name": "mine",
    "task": "ioi",
    "model": {"name": "small", "n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False},
    "paper": {"id": "arXiv:1", "title": "A title"},
    "level": "nodes",
    "nodes": {"mover": ["a1.h0", "a1.h1"], "early": ["m0"]},
}
SMALL = Circuit(
    Graph(2, 2),
    {
        Edge.parse(name): score
        for name, score in {"input->m0": 1.0, "m0->a1.h0<v>": 2.0, "a1.h0->logits": 3.0}.items()
    },
    GOOD["model"],
    {"name": "ioi"},
    {"name": "acdc"},
)


def heads(*numbers: str) -> set[str]:
    return {"a{}.h{}".format(*number.split(".")) for number in numbers}


def names(known: KnownCircuit) -> dict[str, set[str]]:
    return {role: {str(node) for node in nodes} for role, nodes in known.nodes.items()}


def test_ioi_has_the_papers_26_heads() -> None:
    ioi = find_known("ioi")
    assert (ioi.task, ioi.model, ioi.graph, ioi.level, ioi.paper) == (
        "ioi",
        "gpt2",
        GPT2,
        "heads",
        "arXiv:2211.00593",
    )
    assert len(ioi.all_nodes) == 26
    assert names(ioi) == {
        "name mover": heads("9.9", "10.0", "9.6"),
        "backup name mover": heads("10.10", "10.6", "10.2", "10.1", "11.2", "9.7", "9.0", "11.9"),
        "negative name mover": heads("10.7", "11.10"),
        "S-inhibition": heads("7.3", "7.9", "8.6", "8.10"),
        "induction": heads("5.5", "5.8", "5.9", "6.9"),
        "duplicate token": heads("0.1", "0.10", "3.0"),
        "previous token": heads("2.2", "4.11"),
    }


def test_greater_than_has_the_papers_heads_and_mlps() -> None:
    known = find_known("greater-than")
    assert (known.model, known.graph, known.level, known.paper) == (
        "gpt2",
        GPT2,
        "nodes",
        "arXiv:2305.00586",
    )
    expected = heads("5.1", "5.5", "6.1", "6.9", "7.10", "8.8", "8.11", "9.1")
    assert set(map(str, known.all_nodes)) == expected | {
        f"m{layer}" for layer in (0, 1, 2, 3, 8, 9, 10, 11)
    }
    assert names(known)["decisive late MLPs"] == {"m9", "m10"}


def test_docstring_has_the_heads_of_its_report() -> None:
    known = find_known("docstring")
    assert (known.model, known.graph, known.level) == ("attn-only-4l", Graph(4, 8), "heads")
    assert list(map(str, known.all_nodes)) == ["a0.h5", "a1.h4", "a2.h0", "a3.h0", "a3.h6"]


def test_every_known_circuit_is_of_a_built_in_task_with_its_paper() -> None:
    for known in all_known():
        assert known.task in builtin_tasks() and load_task(known.task).paper == known.paper
        assert json.loads(json.dumps(known.to_dict())) == known.to_dict()
        assert len(set(known.all_nodes)) == len(known.all_nodes) and known.title


def written(folder: Path, data: Any, name: str = "mine.json") -> Path:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"format": "circuit"}, 'lacks "format": "circuitfind.known"'),
        ({"version": 2}, '"version": 1'),
        ({"model": {**GOOD["model"], "n_layers": 0}}, '"model.n_layers" is 0'),
        ({"model": []}, '"model" is an empty list; it must be an object'),
        ({"task": ""}, "\"task\" is ''; it must be a text of at least 1"),
        ({"task": "a\nb"}, "\"task\" is 'a\\nb'; it must be a text of other characters"),
        ({"paper": {"id": 7, "title": "A title"}}, '"paper.id" is 7; it must be a text'),
        ({"level": "edges"}, "\"level\" is 'edges'; it must be 'heads' or 'nodes'"),
        ({"level": "heads"}, "'m0' is none of the heads"),
        ({"nodes": {}}, "names no nodes"),
        ({"nodes": {"mover": "a1.h0"}}, "\"nodes.mover\" is 'a1.h0'; it must be a list"),
        ({"nodes": {"mover": []}}, '"nodes.mover" is an empty list; it must be a list of at least 1'),
        ({"nodes": {"mover": ["head 1"]}}, "'head 1' is no node"),
        ({"nodes": {"mover": ["a2.h0"]}}, "'a2.h0' is none of the nodes of a model of 2 layers"),
        ({"nodes": {"mover": ["input"]}}, "'input' is none of the nodes"),
        ({"nodes": {"mover": ["a1.h0"], "other": ["a1.h0"]}}, "'a1.h0' stands in it twice"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_what_is_wrong(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    assert load_known(written(tmp_path, GOOD)).name == "mine"
    with pytest.raises(CircuitError) as refused:
        load_known(written(tmp_path, GOOD | changed))
    assert says in str(refused.value) and "mine.json" in str(refused.value)


def test_a_folder_of_circuit_files_is_known_edge_by_edge_and_goes_by_path(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL.to_json(), "ioi.json")
    published, established = all_known(), all_known(tmp_path)[-1]
    assert (*published, established) == all_known(tmp_path)
    assert (established.name, established.level, established.circuit) == (str(path), "edges", SMALL)
    assert names(established) == {"heads": {"a1.h0"}, "MLPs": {"m0"}}
    assert find_known(str(path)) == find_known(str(path), tmp_path) == established
    assert find_known("ioi", tmp_path).paper == "arXiv:2211.00593"
    with pytest.raises(CircuitError, match="holds no circuit files"):
        all_known(tmp_path / "none")


def test_what_is_neither_a_name_nor_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CircuitError, match="Did you mean 'ioi'"):
        find_known("ioy")
    with pytest.raises(CircuitError, match="not whole JSON"):
        find_known(str(written(tmp_path, "{")))
    (tmp_path / "bytes.json").write_bytes(b"\xff")
    with pytest.raises(CircuitError, match=r"Cannot read .*it is not text"):
        find_known(str(tmp_path / "bytes.json"))


def test_without_a_name_it_is_that_of_the_same_task_and_shape(tmp_path: Path) -> None:
    gpt2 = Circuit(GPT2, {}, {}, {"name": "greater-than"})
    assert choose_known(gpt2, all_known()).name == "greater-than"
    with pytest.raises(
        CircuitError, match="No known circuit is of the task 'ioi' in a model of 2 layers of 2"
    ):
        choose_known(SMALL, all_known())
    for name in ("a.json", "b.json"):
        written(tmp_path, SMALL.to_json(), name)
    with pytest.raises(CircuitError, match=r"2 known circuits are .* Name one: .*a\.json, .*b\.json"):
        choose_known(SMALL, all_known(tmp_path))


def test_of_each_role_what_is_found_and_what_is_missing(tmp_path: Path) -> None:
    """Of a1.h0, a1.h1 and m0 the circuit has a1.h0 and m0; by |score| of what leaves them (3, 0, 2; others 0) the two
    are above a0.h0, a0.h1 and m1, with which a1.h1 is level: 3 + 3 + 1.5 of 9 pairs."""
    compared = compare_with_known(SMALL, load_known(written(tmp_path, GOOD)))
    found = {
        role: (recall.found, recall.missing, recall.share) for role, recall in compared.roles.items()
    }
    h0, h1, m0 = Node("head", 1, 0), Node("head", 1, 1), Node("mlp", 0)
    assert found == {"mover": ((h0,), (h1,), 0.5), "early": ((m0,), (), 1.0)}
    nodes = compared.agreement.nodes
    assert (nodes.precision, nodes.recall, nodes.jaccard) == (1.0, 2 / 3, 2 / 3)
    assert compared.agreement.node_ranking.auc == pytest.approx(7.5 / 9)
    assert compared.agreement.edges is None and compared.to_dict()["ranked_by"] == "kept edges"


def test_of_a_paper_on_heads_alone_mlps_do_not_count(tmp_path: Path) -> None:
    data = GOOD | {"level": "heads", "nodes": {"mover": ["a1.h0"]}}
    compared = compare_with_known(SMALL, load_known(written(tmp_path, data)))
    assert compared.agreement.nodes.precision == 1.0  # m0 is no mistake
    assert compared.agreement.node_ranking.n_negative == 3


def test_another_shape_is_refused() -> None:
    with pytest.raises(
        CircuitError, match=r"2 layers of 2 heads .* 'ioi' \(gpt2\) of 12 layers of 12 heads"
    ):
        compare_with_known(SMALL, find_known("ioi"))
    with pytest.raises(CircuitError, match="parallel blocks"):
        compare_with_known(Circuit(Graph(12, 12, parallel=True), {}), find_known("ioi"))
