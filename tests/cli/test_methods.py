"""``circuitfind methods`` as its user meets it."""

from __future__ import annotations

import json
import sys

import pytest

from circuitfind.cli.app import call
from circuitfind.methods.catalogue import CATALOGUE, DEFAULT_SCORES, DEFAULT_SEARCH


def test_the_list_is_one_method_a_line_with_its_paper_its_cost_and_its_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(["methods"], debug=False) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == list(CATALOGUE)
    assert all(len(row) == 6 for row in rows)
    by_name = {row[0]: row for row in rows}
    assert by_name["eap-ig"][2:5] == [
        "arXiv:2403.17806",
        "steps + 1 forward, steps backward",
        "--level node --level neuron --kv grouped --positions --steps",
    ]
    assert by_name["atp"][4] == "--level node --kv grouped --positions --grad-drop --set qk_fix=true"
    assert by_name["hisp"][4] == "--level node"
    assert by_name["ifr"][4] == "--set inputs=qkv"
    assert by_name["edge-pruning"][4].endswith("--set node_sparsity=none")


def test_a_terminal_gets_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    assert call(["methods"], debug=False) == 0
    printed = capsys.readouterr()
    assert all(name in printed.out for name in CATALOGUE)
    assert "Methods that score edges need the circuit's size" in printed.err


def test_the_json_document_has_every_method_and_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["methods", "--json"], debug=False) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["defaults"] == {"search": DEFAULT_SEARCH, "scores": DEFAULT_SCORES}
    assert [method["name"] for method in document["methods"]] == list(CATALOGUE)
    levels = {method["name"]: (method["levels"], method["kv"]) for method in document["methods"]}
    assert levels["acdc"] == (["edge", "node", "neuron"], ["per-head", "grouped"])
    assert levels["hisp"] == (["edge", "node"], ["per-head"])
    assert levels["random"] == (["edge"], ["per-head"])
    assert next(m for m in document["methods"] if m["name"] == "gim")["settings"] == {"temperature": 2.0}
