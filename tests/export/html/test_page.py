"""The page is one file that loads nothing, whatever texts are in it, and says what it shows."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from circuitfind.circuits.bases import Neuron
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.export import Look, Subject
from circuitfind.export.html import circuit_to_html, gather, to_html, what_was_cut
from circuitfind.export.html.data import Observations, Pattern, Prediction, Prompt, Written
from circuitfind.export.html.gather import PATTERN_BUDGET, fit_budget
from circuitfind.export.html.page import FOLDER, SCRIPTS, join_scripts, read
from circuitfind.known import all_known

SMALL = Circuit(
    Graph(1, 2),
    {
        Edge.parse("input->a0.h1<k>"): -0.5,
        Edge.parse("a0.h1->logits"): 0.25,
        Edge.parse("a0.h1->m0"): 2.0,
    },
    {"name": "one", "n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "sha256": "ab"},
    {"name": "ioi"},
    {"name": "acdc"},
)
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\u2028\u2029",
    "a\"b'c`d",
    "&lt;&amp;",
    "$\\frac{1}{2}$",
]
HOSTILE += [
    "{{data}}{{script}}",
    "]]>",
    "\x00\x1b\x7f",
    "\u202eabc",
    "<img src=x onerror=alert(1)>",
    "\\u003c",
    "é漢🙂",
]
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30))


class Seen(HTMLParser):
    """The tags of a page, and what stands in its scripts, styles and data."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.inside: dict[str, str] = {}
        self._key = ""
        self.feed(page.decode("ascii"))
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attributes]
        self._key = dict(attributes).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self._key = "between"

    def handle_data(self, data: str) -> None:
        self.inside[self._key] = self.inside.get(self._key, "") + data

    @property
    def data(self) -> dict:
        return json.loads(self.inside["data"])

    @property
    def policy(self) -> str:
        return next(
            value or ""
            for tag, name, value in self.attributes
            if name == "content" and "default-src" in str(value)
        )


def observe(nodes: list[Node], n_pairs: int, n_tokens: int, text: str = " a") -> Observations:
    """Made-up observations of these nodes."""
    triangle = n_tokens * (n_tokens + 1) // 2
    said = Prediction(((text, 0.5),), 0.5, 0.25, 1.0)
    tokens = (text,) * n_tokens
    prompt = Prompt(
        text,
        text,
        (text,),
        (text,),
        tokens,
        tokens,
        dict.fromkeys(("clean", "circuit", "corrupted"), said),
    )
    written = (Written((1.0, 0.5), (-1.0, 0.25)),) * n_pairs
    patterns = (Pattern(bytes(triangle), bytes([255]) * triangle),) * n_pairs
    heads = {node: patterns for node in nodes if node.kind == "head"}
    return Observations(
        (prompt,) * n_pairs, n_pairs, heads, dict.fromkeys(nodes, written), written, written
    )


def test_a_small_circuit_is_told_as_worked_out_by_hand() -> None:
    data = gather(Subject(SMALL)).to_dict()
    names = [name for name, *_ in data["nodes"]]
    assert names == ["input", "a0.h1", "m0", "logits"]
    assert data["edges"] == {
        "from": [1, 0, 1],
        "to": [2, 1, 3],
        "slot": "-k-",
        "score": [2.0, -0.5, 0.25],
    }
    assert (data["title"], data["subtitle"]) == ("ioi in one", "3 edges of 13 (23.08%)")
    assert (
        data["observations"] is data["curve"] is data["known"] is None
        and data["notes"] == data["prompts"] == []
    )


@settings(max_examples=25)
@given(st.tuples(*[texts] * 6))
def test_no_text_escapes_from_the_data_and_all_come_back_equal(given: tuple[str, ...]) -> None:
    task, model, method, text, warning, role = given
    circuit = replace(
        SMALL,
        task={"name": task},
        model={**SMALL.model, "name": model},
        method={"name": method, text: role},
    )
    observed = replace(observe(list(SMALL.graph.senders), 1, 3, text or "a"), warnings=(warning,))
    page = replace(gather(Subject(circuit, observations=observed)), roles={Node("head", 0, 1): role})
    plain = Seen(circuit_to_html(Subject(SMALL, observations=observe(list(SMALL.graph.senders), 1, 3))))
    seen = Seen(to_html(page))
    assert seen.data == json.loads(json.dumps(page.to_dict())) and "<" not in seen.inside["data"]
    assert seen.tags == plain.tags and len(seen.attributes) == len(plain.attributes)
    assert seen.inside["script"] == plain.inside["script"] and seen.policy == plain.policy


def test_the_policy_allows_this_style_and_script_and_nothing_from_anywhere() -> None:
    seen = Seen(circuit_to_html(Subject(SMALL)))
    texts = [seen.inside[tag].encode() for tag in ("script", "style")]
    hashes = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in texts]
    assert seen.policy == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    loads = [
        (tag, value) for tag, name, value in seen.attributes if name in ("src", "href", "action", "style")
    ]
    assert loads == [("link", "data:,"), ("a", "#panel")]


def test_the_scripts_make_no_markup_of_text_and_are_all_there() -> None:
    written = join_scripts() + read("page.css")
    wrong = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|fetch\(|import\(|@import|url\(|</"
    assert re.findall(wrong, written) == []
    assert [
        url for url in re.findall(r"https?://[^\"']+", written) if url != "http://www.w3.org/2000/svg"
    ] == []
    assert {path.stem for path in (FOLDER / "scripts").iterdir()} == set(SCRIPTS)


def test_two_thousand_edges_of_270_heads_with_their_patterns_stay_below_3_mb(grow) -> None:
    circuit = grow(Graph(30, 9), 2000)
    page = circuit_to_html(Subject(circuit, observations=observe(list(circuit.nodes), 4, 40)))
    kept = Seen(page).data["observations"]["patterns"]
    assert len(page) < 3_000_000 and len(kept) > 100


def test_heads_beyond_the_budget_lose_their_patterns_the_weakest_first() -> None:
    nodes = [Node("head", 0, 0), Node("head", 0, 1), Node("logits")]
    observed = observe(nodes, 1, 3)
    huge = Pattern(bytes(PATTERN_BUDGET // 2), b"")
    both = replace(observed, patterns={nodes[0]: (huge,), nodes[1]: (huge,)})
    edges = [(Edge.parse("a0.h1->logits"), -3.0), (Edge.parse("a0.h0->logits"), 1.0)]
    fitting, n_dropped = fit_budget(both, nodes, edges)
    assert fitting is not None and list(fitting.patterns) == [nodes[1]] and n_dropped == 1


def test_of_a_huge_circuit_the_strongest_edges_are_shown_and_it_says_so() -> None:
    graph = Graph(12, 12)
    edges = dict(zip(graph.edges(), np.arange(1, 30_001, dtype=float).tolist(), strict=False))
    subject = Subject(replace(SMALL, graph=graph, edges=edges))
    said = what_was_cut(subject)
    page = gather(subject).to_dict()
    assert said == ("the circuit has 30,000 edges; the page has the 2,000 strongest by |score|.",)
    assert page["notes"] == [said[0].capitalize()]
    assert page["nEdges"] == 30_000 and page["edges"]["score"] == [
        float(x) for x in range(30_000, 28_000, -1)
    ]
    assert what_was_cut(Subject(subject.circuit, Look(most_edges=30_000))) == ()


def test_the_same_circuit_gives_the_same_bytes_in_every_process(grow, tmp_path: Path) -> None:
    (tmp_path / "circuit.json").write_text(grow(Graph(3, 4), 40).to_json(), encoding="utf-8")
    code = (
        "import sys, hashlib, pathlib; from circuitfind.export import Subject, FORMATS; "
        "page = FORMATS['html'].write(Subject.load(pathlib.Path(sys.argv[1]))); "
        "print(hashlib.sha256(page).hexdigest(), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    said = {
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1 and said.pop().endswith(" False\n")


def test_intervals_are_those_of_the_edges_that_they_stand_at(tmp_path: Path) -> None:
    graph = SMALL.graph
    lower = np.arange(len(graph.receivers) * len(graph.senders), dtype=np.float32).reshape(
        len(graph.receivers), -1
    )
    names = {"receivers": graph.receivers, "senders": graph.senders}
    metadata = {key: json.dumps([str(node) for node in nodes]) for key, nodes in names.items()}
    tensors = {"lower": lower, "upper": lower + 1, "inclusion": lower / 100}
    save_file(tensors, tmp_path / "bootstrap.safetensors", metadata)
    record = {
        "model_sha256": "ab",
        "command": {},
        "bootstrap": {"level": 0.9, "resamples": 5, "jaccard": 0.5},
    }
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    page = gather(Subject(SMALL, folder=tmp_path)).to_dict()
    places = [graph.order(Edge.parse(name)) for name in ("a0.h1->m0", "input->a0.h1<k>", "a0.h1->logits")]
    assert page["edges"]["lower"] == [lower[place] for place in places]
    assert page["surenessLevel"] == 0.9
    (tmp_path / "bootstrap.safetensors").write_bytes(b"damaged")
    assert "lower" not in gather(Subject(SMALL, folder=tmp_path)).to_dict()["edges"]
    other = replace(SMALL, model={**SMALL.model, "sha256": "cd"})
    assert gather(Subject(other, folder=tmp_path)).to_dict()["surenessLevel"] is None


def test_roles_are_those_of_the_published_circuit_of_the_same_task_and_model() -> None:
    known = next(one for one in all_known() if one.name == "ioi")
    edges = {Edge.parse("input->a9.h9<q>"): 1.0, Edge.parse("a9.h9->logits"): 1.0}
    circuit = replace(SMALL, graph=known.graph, edges=edges, model={"name": "openai-community/gpt2"})
    page = gather(Subject(circuit)).to_dict()
    roles = {name: role for name, *_, role in page["nodes"]}
    assert roles["a9.h9"] == "name mover" and roles["a5.h5"] == "induction" and roles["input"] is None
    assert page["known"]["roles"]["name mover"]["found"] == ["a9.h9"]
    for other in (replace(circuit, model={"name": "opt"}), replace(circuit, task={"name": "mine"})):
        assert gather(Subject(other)).to_dict()["known"] is None


def test_a_known_circuit_of_edges_is_told_edge_by_edge(tmp_path: Path) -> None:
    from circuitfind.known import load_known

    other = replace(SMALL, edges={Edge.parse("a0.h1->m0"): 1.0, Edge.parse("input->m0"): 1.0})
    (tmp_path / "other.json").write_text(other.to_json(), encoding="utf-8")
    known = gather(Subject(SMALL, known=load_known(tmp_path / "other.json"))).to_dict()["known"]
    assert (known["common"], known["missing"]) == (["a0.h1->m0"], ["input->m0"])
    assert known["extra"] == ["input->a0.h1<k>", "a0.h1->logits"]
    assert str(tmp_path) not in json.dumps(known)


@pytest.mark.parametrize("kind", ["empty", "roles", "neurons"])
def test_every_kind_of_circuit_has_a_page(kind: str) -> None:
    graph = Graph(1, 2, roles=("S1", "END"))
    made = {
        "empty": replace(SMALL, edges={}),
        "roles": replace(
            SMALL, graph=graph, edges={Edge.parse("input->m0@S1"): 1.0, Edge.parse("m0->logits"): 2.0}
        ),
        "neurons": replace(
            SMALL,
            edges={},
            model={**SMALL.model, "d_head": 4, "d_mlp": 8},
            neurons={Neuron.parse("m0.n3"): 1.0, Neuron.parse("a0.h1.d2"): -2.0},
        ),
    }
    data = Seen(circuit_to_html(Subject(made[kind]))).data
    if kind == "roles":
        assert data["edges"]["role"] == [1, 0] and data["graph"]["roles"] == ["S1", "END"]
    if kind == "neurons":
        names = [name for name, *_ in data["nodes"]]
        assert names == ["input", "a0.h1", "m0", "logits"]
        assert data["neurons"] == {
            "node": [1, 2],
            "index": [2, 3],
            "score": [-2.0, 1.0],
            "widths": {"1": 4, "2": 8},
        }
