"""``circuitfind known`` as its user meets it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.cli.app import call
from circuitfind.evaluation.reference import edges_of

GPT2 = Graph(12, 12)
MODEL = {"name": "gpt2", "n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False}
NAMES = (
    "input->m0",
    "m0->a9.h9<v>",
    "m0->a9.h6<q>",
    "m0->a5.h0<k>",
    "a9.h9->logits",
    "a9.h6->logits",
    "a5.h0->logits",
)
Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Below the working directory no circuits are kept."""
    monkeypatch.chdir(tmp_path)


def test_the_circuits_that_a_project_keeps_are_known_where_it_lies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    assert call(["known", "list"], debug=False) == 0
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert {str(file.relative_to(root)) for file in root.glob("results/known/*.json")} <= set(names)
    assert "results/known/tiny-ioi.json" in names


def write_run(folder: Path, task: str = "ioi") -> Path:
    folder.mkdir()
    circuit = Circuit(
        GPT2, {Edge.parse(name): 1.0 for name in NAMES}, MODEL, {"name": task}, {"name": "eap"}
    )
    (folder / "circuit.json").write_text(circuit.to_json(), encoding="utf-8")
    return folder


def write_scores(folder: Path, **best: float) -> None:
    """Scores of the edges from nodes to the logits, 0 elsewhere, as a run writes them."""
    scores = np.where(edges_of(GPT2), 0.0, math.nan).astype(np.float32)
    for name, score in best.items():
        scores[-1, GPT2.sender_index[Node.parse(name.replace("_", "."))]] = score
    names = {key: json.dumps(list(map(str, getattr(GPT2, key)))) for key in ("receivers", "senders")}
    save_file({"scores": scores}, folder / "scores.safetensors", names)


def document(arguments: list[str], capsys: Printed) -> Any:
    assert call(["known", *arguments, "--json"], debug=False) == 0
    return json.loads(capsys.readouterr().out)


def test_the_list_names_task_model_level_paper_and_size(capsys: Printed) -> None:
    assert call(["known"], debug=False) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert ["ioi", "ioi", "gpt2", "heads", "arXiv:2211.00593", "26 heads"] in rows and len(rows) == 3
    listed = document(["list"], capsys)["known"]
    assert [one["name"] for one in listed] == [row[0] for row in rows]


def test_a_circuit_is_shown_by_role(capsys: Printed) -> None:
    assert call(["known", "show", "ioi"], debug=False) == 0
    printed = capsys.readouterr().out
    assert (
        "ioi in gpt2, 26 heads" in printed
        and "\nS-inhibition         a7.h3 a7.h9 a8.h6 a8.h10\n" in printed
    )
    assert document(["show", "ioi"], capsys)["nodes"]["negative name mover"] == ["a10.h7", "a11.h10"]


def test_a_circuit_alone_is_compared_by_its_kept_edges(tmp_path: Path, capsys: Printed) -> None:
    """Two of 26 heads and one of 118 others have an edge: pairs 2 * 117.5 + 24 * (117 / 2), of 26 * 118."""
    path = str(write_run(tmp_path / "run") / "circuit.json")
    assert call(["known", "compare", path], debug=False) == 0
    printed = capsys.readouterr().out
    assert "name mover           2 of 3  a9.h6 a9.h9  a10.h0\n" in printed
    assert (
        "heads: 2 of 26 found; the circuit has 3. Precision 66.7%, recall 7.7%, Jaccard 7.4%" in printed
    )
    assert "by the |score| of kept edges" in printed
    compared = document(["compare", path, "ioi"], capsys)
    assert compared["nodes"]["auc"] == pytest.approx((2 * 117.5 + 24 * 117 / 2) / (26 * 118))
    assert compared["roles"]["name mover"] == {
        "recall": 2 / 3,
        "found": ["a9.h6", "a9.h9"],
        "missing": ["a10.h0"],
    }
    assert compared["edges"] is None and compared["known"]["name"] == "ioi"


def test_the_scores_of_a_run_rank_every_head(tmp_path: Path, capsys: Printed) -> None:
    """a10.h7, a negative name mover, has the largest |score|, and signed the lowest score of all."""
    folder = write_run(tmp_path / "run")
    write_scores(folder, a10_h7=-9.0, a5_h0=1.0)
    absolute, signed = (document(["compare", str(folder), *more], capsys) for more in ([], ["--signed"]))
    assert (absolute["ranked_by"], absolute["order"], signed["order"]) == ("scores", "absolute", "signed")
    # its pairs: 118 won; of the other 25, with a5.h0 lost, with 117 others a draw
    assert absolute["nodes"]["auc"] == pytest.approx((118 + 25 * 117 / 2) / (26 * 118))
    assert absolute["nodes"]["average_precision"] > 1 / 26
    # signed, a10.h7's largest score is that of its other edges, 0
    assert signed["nodes"]["auc"] == pytest.approx(117 / 2 / 118)


def test_against_a_circuit_file_edges_are_compared_too(tmp_path: Path, capsys: Printed) -> None:
    run, known = write_run(tmp_path / "run", "mine"), tmp_path / "known"
    known.mkdir()
    (known / "mine.json").write_bytes((run / "circuit.json").read_bytes())
    compared = document(["compare", str(run), "--folder", str(known)], capsys)
    assert compared["known"]["name"] == str(known / "mine.json") and compared["edges"]["auc"] == 1.0
    assert call(["known", "compare", str(run), str(known / "mine.json")], debug=False) == 0
    assert "edges: 7 of 7 found" in capsys.readouterr().out
    assert call(["known", "list", "--folder", str(known)], debug=False) == 0
    assert (
        f"{known / 'mine.json'}\tmine\tgpt2\tedges\tfound with eap\t4 nodes, 7 edges"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "iio"], "No known circuit named 'iio'. Did you mean 'ioi'?"),
        (["compare", "RUN", "docstring"], "'docstring' (attn-only-4l) of 4 layers of 8 heads"),
        (["compare", "nowhere"], "Cannot read the circuit nowhere"),
        (["compare", "RUN", "--folder", "nowhere"], "nowhere holds no circuit files"),
    ],
)
def test_what_can_not_be_compared_is_told_in_two_lines(
    arguments: list[str], says: str, tmp_path: Path, capsys: Printed
) -> None:
    run = str(write_run(tmp_path / "run", "mine"))
    assert call(["known", *(run if word == "RUN" else word for word in arguments)], debug=False) == 2
    written = capsys.readouterr()
    assert says in written.err and written.out == "" and len(written.err.splitlines()) <= 2


def test_scores_of_another_graph_are_refused(tmp_path: Path, capsys: Printed) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "scores.safetensors").write_bytes(b"nothing")
    assert call(["known", "compare", str(folder)], debug=False) == 2
    assert "scores.safetensors is damaged, or no file of tensors" in capsys.readouterr().err


def test_a_comparison_needs_no_torch(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    write_scores(folder, a9_h9=1.0)
    code = f"import sys; from circuitfind.cli.app import call; call(['known', 'compare', {str(folder)!r}], False)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr
