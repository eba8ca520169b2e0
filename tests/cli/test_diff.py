"""``circuitfind diff`` as its user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.cli.app import call

MODEL = {"name": "small", "n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    paths = []
    for name, edges in (
        ("a", {"input->m0": 1.0, "m0->logits": 2.0}),
        ("b", {"input->m0": 1.5, "m1->logits": -0.5}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        circuit = Circuit(
            Graph(2, 2), {Edge.parse(k): v for k, v in edges.items()}, MODEL, {"name": "ioi"}
        )
        (folder / "circuit.json").write_text(circuit.to_json(), encoding="utf-8")
        paths.append(str(folder))
    return paths[0], paths[1]


def test_a_person_sees_what_was_lost_and_gained(
    pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["diff", *pair], debug=False) == 0
    printed = capsys.readouterr().out
    assert (
        "edges: 1 in both, 1 lost, 1 gained (Jaccard 33.3%); 1 of those in both have another score"
        in printed
    )
    assert "+2  m0->logits" in printed
    assert "-0.5  m1->logits" in printed
    assert "+1 -> +1.5  input->m0" in printed


def test_a_name_that_breaks_lines_stands_on_one(
    pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(pair[0]) / "circuit.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**stored, "task": {"name": "ioi\n::error::x"}}), encoding="utf-8")
    assert call(["diff", *pair], debug=False) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("before: ioi ::error::x, small")


def test_a_program_gets_one_json_document(
    pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["diff", *pair, "--json"], debug=False) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["lost"] == {"m0->logits": 2.0}
    assert document["gained"] == {"m1->logits": -0.5}
    assert document["changed"] == {"input->m0": [1.0, 1.5]}
    assert document["lost_nodes"] == []
    assert document["gained_nodes"] == ["m1"]
    assert document["before"]["n_edges"] == 2


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), 0),
        (("--fail",), 1),
        (("--fail", "--min-jaccard", "0.3"), 0),
        (("--fail", "--min-jaccard", "0.5"), 1),
    ],
)
def test_fail_makes_it_a_gate(pair: tuple[str, str], options: tuple[str, ...], code: int) -> None:
    assert call(["diff", *pair, *options], debug=False) == code
    assert call(["diff", pair[0], pair[0], *options], debug=False) == 0


def test_both_are_drawn_in_one_picture(pair: tuple[str, str], tmp_path: Path) -> None:
    picture = tmp_path / "both.dot"
    assert call(["diff", *pair, "--dot", str(picture)], debug=False) == 0
    text = picture.read_text(encoding="utf-8")
    colours = {
        line.partition('id="')[2].partition('"')[0]: line.partition('color="')[2][:7]
        for line in text.splitlines()
        if "->" in line and "key=" in line
    }
    assert colours == {"input->m0": "#b3b3b3", "m0->logits": "#d55e00", "m1->logits": "#0072b2"}
    assert "in both: 1" in text
    assert call(["diff", *pair, "--dot", str(picture)], debug=False) == 2
    assert call(["diff", *pair, "--dot", str(picture), "--force"], debug=False) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--min-jaccard", "0.5"), "--min-jaccard is 0.5; it goes with --fail"),
        (("--fail", "--min-jaccard", "2"), "--min-jaccard is 2.0"),
        (("--tolerance", "-1"), "--tolerance is -1.0"),
        (("--dot", "both.gif"), "No export format named 'gif'"),
        (("--dot", "both.html"), "both.html would be html, which shows one circuit alone"),
    ],
)
def test_a_bad_option_is_one_message(
    pair: tuple[str, str], options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["diff", *pair, *options], debug=False) == 2
    assert said in capsys.readouterr().err
