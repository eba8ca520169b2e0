"""The report of a hand-made circuit. Regenerate the golden file with: REGENERATE=1 pytest tests/runs/test_report.py"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.evaluation.performance import Evaluation, Performance
from circuitfind.prompts.pairs import PromptPair
from circuitfind.runs.report import Evidence, on_paths, report, summary
from circuitfind.runs.warnings import N_STRONGEST, recovery_warning, task_line, task_warning

GOLDEN = Path(__file__).parents[1] / "golden" / "report.md"


def performance(kl: float, difference: float, accuracy: float = 1.0) -> Performance:
    """Two prompts around these means."""
    return Performance(
        {
            "kl": (kl - 0.25 * kl, kl + 0.25 * kl),
            "logit-diff": (difference - 1, difference + 1),
            "prob-diff": (0.1 * difference,) * 2,
            "loss": (1.0 + kl,) * 2,
            "accuracy": (1.0, 2 * accuracy - 1),
        }
    )


FULL, KEPT, ABLATED = performance(0.0, 4.0), performance(0.5, 3.0), performance(2.0, -1.0, 0.5)
CIRCUIT = Circuit(
    Graph(2, 2),
    {
        Edge.parse("input->a0.h0<v>"): 0.5,
        Edge.parse("input->m0"): 0.02,
        Edge.parse("a0.h0->a1.h1<q>"): 1.25,
        Edge.parse("a0.h0->a1.h1<k>"): -1.5,
        Edge.parse("a0.h1->a1.h1<v>"): 0.03,  # nothing reaches a0.h1: this edge lies on no path
        Edge.parse("a1.h1->logits"): 2.0,
    },
    model={"name": "tiny", "architecture": "GPT2LMHeadModel", "sha256": "0123456789abcdef" * 4},
    task={"name": "ioi", "n_prompts": 2, "seed": 7, "prompts_sha256": "beef"},
    method={"name": "acdc", "threshold": 0.02, "metric": "kl", "ablation": "corrupted"},
)
RECORD: dict[str, Any] = {
    "warnings": [],
    "timings": {"load": 1.25, "search": 12.0},
    "versions": {"circuitfind": "0.1.0", "torch": "2.13.0"},
    "search": {
        "tested": 1234,
        "computed": 2345,
        "taken_over": 0,
        "n_undecidable": 1,
        "undecidable": ["input->m0"],
    },
    "model_difference": 2.5e-7,
    "peak_memory_bytes": 1_500_000_000,
}
PAIR = PromptPair("Ann gave Tom", "Bob gave Tom", (" it",), (" Ann", " Bob"))
EVIDENCE = Evidence(
    CIRCUIT, Evaluation(FULL, KEPT, ABLATED), PAIR, RECORD, ("circuit.dot", "circuit.svg")
)


def test_the_golden_report_is_written_to_the_letter() -> None:
    if os.environ.get("REGENERATE"):
        GOLDEN.write_text(report(EVIDENCE), encoding="utf-8")
    assert report(EVIDENCE) == GOLDEN.read_text(encoding="utf-8")


def rows(text: str, n_columns: int) -> list[str]:
    """The table lines with this many columns; a pipe after a backslash separates nothing."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [line for line in lines if line.replace("\\|", "").count("|") == n_columns + 1]


def test_a_pipe_in_a_cell_does_not_end_it() -> None:
    pair = PromptPair("a | b || c", "d | e || f", (" |",), (" x",))
    shown = report(replace(EVIDENCE, example=pair))
    assert "| clean | `a \\| b \\|\\| c` |" in shown
    assert len(rows(shown, 2)) == len(rows(report(EVIDENCE), 2))


def test_a_prompt_of_many_lines_stays_in_its_cell() -> None:
    pair = PromptPair("def f():\n    `x`", "def g():\n    `y`", (" a",), ())
    assert "| clean | `def f():\\n    'x'` |" in report(replace(EVIDENCE, example=pair))


def test_the_strongest_edges_come_first_by_size_whatever_their_sign() -> None:
    shown = [
        line.split("`")[1]
        for line in report(EVIDENCE).splitlines()
        if "->" in line and line.startswith("|")
    ]
    assert shown == [
        "a1.h1->logits",
        "a0.h0->a1.h1<k>",
        "a0.h0->a1.h1<q>",
        "input->a0.h0<v>",
        "a0.h1->a1.h1<v>",
        "input->m0",
    ]


def test_of_many_edges_a_few_are_listed_and_ties_stand_in_graph_order() -> None:
    circuit = replace(CIRCUIT, edges=dict.fromkeys(CIRCUIT.graph.edges(), 1.0))
    shown = [
        line.split("`")[1]
        for line in report(replace(EVIDENCE, circuit=circuit)).splitlines()
        if line.startswith("| `")
    ]
    assert shown == [str(edge) for edge in CIRCUIT.graph.edges()][:N_STRONGEST]


def test_an_empty_circuit_says_so_and_what_to_do() -> None:
    shown = report(replace(EVIDENCE, circuit=replace(CIRCUIT, edges={})))
    assert "a circuit of 0 edges" in shown
    assert "No edge was kept: the threshold is above what any edge carries. Lower it." in shown


def test_warnings_stand_above_the_evidence() -> None:
    shown = report(
        replace(EVIDENCE, record=RECORD | {"warnings": ["the model fails", "the circuit over-recovers"]})
    )
    assert "> **Warning:** the model fails\n" in shown
    assert shown.index("> **Warning:** the circuit over-recovers") < shown.index("## Evidence")


def test_the_first_picture_that_a_page_can_show_is_shown() -> None:
    assert "![The circuit](circuit.svg)" in report(EVIDENCE)
    assert "![The circuit](circuit.png)" in report(
        replace(EVIDENCE, pictures=("circuit.dot", "circuit.pdf", "circuit.png"))
    )
    assert "![" not in report(replace(EVIDENCE, pictures=("circuit.dot", "circuit.pdf")))


def test_without_wrong_answers_the_report_shows_what_there_is() -> None:
    def without(run: Performance) -> Performance:
        return Performance({**run.values, "logit-diff": (math.nan,) * 2, "prob-diff": (math.nan,) * 2})

    shown = report(
        replace(EVIDENCE, evaluation=Evaluation(without(FULL), without(KEPT), without(ABLATED)))
    )
    assert "| logit diff | - | - | - | - |" in shown
    assert "nan" not in shown and "None" not in shown


def test_the_worst_prompt_is_the_one_that_the_circuit_serves_least() -> None:
    # KL .5 is .375 and .625: the larger; logit difference 3 is 2 and 4: the smaller
    shown = report(EVIDENCE)
    assert "| KL(full \\|\\| run), nats | 0 | 0.5 | 2 | 0.625 |" in shown
    assert "| logit diff | 4 | 3 | -1 | 2 |" in shown


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], 0),
        (["input->logits"], 1),
        (["input->a0.h0<q>", "a0.h0->logits"], 2),
        (["input->a0.h0<q>", "a0.h0->m0"], 0),  # ends nowhere
        (["a0.h0->m0", "m0->logits"], 0),  # begins nowhere
        (["input->a0.h0<q>", "input->a0.h0<k>", "a0.h0->logits", "m0->a1.h1<v>"], 3),
    ],
)
def test_edges_on_paths_lead_from_the_input_to_the_logits(names: list[str], expected: int) -> None:
    assert on_paths(Circuit(Graph(2, 2), {Edge.parse(name): 1.0 for name in names})) == expected


def test_the_summary_counts_edges_heads_and_mlps() -> None:
    lines = dict(summary(CIRCUIT, EVIDENCE.evaluation, {}))
    assert lines["edges"] == "6 of 46 (13.04%), 4 on a path from input to logits"
    assert lines["nodes"] == "3 of 4 heads, 1 of 2 MLPs"
    assert lines["faithfulness"] == "80.0% of the logit difference"  # (3 + 1) / (4 + 1)


@pytest.mark.parametrize(
    ("run", "fails"),
    [
        (performance(0, 4, 1.0), False),
        (performance(0, 4, 0.75), False),
        (performance(0, 4, 0.5), True),
        (performance(0, -0.5, 1.0), True),
    ],
)
def test_a_model_that_fails_its_task_is_warned_of(run: Performance, fails: bool) -> None:
    warning = task_warning(run)
    assert (warning is not None) is fails
    assert warning is None or task_line(run) in warning


def test_the_task_line_says_how_well_the_full_model_does() -> None:
    assert task_line(FULL) == "accuracy 100%, logit diff 4.00, loss 1.00 nats"
    assert (
        task_line(Performance({**FULL.values, "logit-diff": (math.nan,) * 2}))
        == "accuracy 100%, loss 1.00 nats"
    )


@pytest.mark.parametrize(
    ("difference", "warned"),
    [
        (-2.0, "hardly more"),
        (-0.6, "hardly more"),
        (0.0, None),
        (4.0, None),
        (5.0, None),
        (5.5, "over-recovers"),
        (12.0, "over-recovers"),
    ],
)
def test_a_circuit_that_does_too_much_or_nothing_is_warned_of(
    difference: float, warned: str | None
) -> None:
    # faithfulness (d + 1) / 5 above 1.2, or not above 0.1
    warning = recovery_warning(Evaluation(FULL, performance(0.5, difference), ABLATED))
    assert (warning is not None) is (warned is not None)
    assert warning is None or (str(warned) in warning and f"{(difference + 1) / 5:.0%}" in warning)


def runs(
    full: list[float], circuit: list[float], ablated: list[float], right: tuple[float, ...] = ()
) -> Evaluation:
    """Three runs of these logit differences, right as often as ``right`` says."""
    kls = (0.0, 0.2, 1.0)
    shares = right or (1.0, 1.0, 0.0)
    each = [
        Performance({**performance(kl, 0).values, "kl": (kl,) * len(values), "logit-diff": tuple(values)}
                    | {"accuracy": (share,) * len(values)})
        for kl, values, share in zip(kls, (full, circuit, ablated), shares, strict=True)
    ]  # fmt: skip
    return Evaluation(*each)


def test_a_faithfulness_whose_interval_holds_zero_is_warned_of() -> None:
    warning = recovery_warning(runs([4.0] * 4, [5.0, -3.0, 4.0, 0.0], [0.0] * 4))
    assert warning is not None and "may do no more than the fully ablated model" in warning
    assert "is 38%" in warning and "nominally 95%, which 4 prompts are too few for" in warning
    assert recovery_warning(runs([4.0] * 4, [3.0, 2.9, 3.1, 3.0], [0.0] * 4)) is None


def test_a_circuit_that_answers_no_better_than_the_ablated_model_is_warned_of() -> None:
    said = {right: recovery_warning(runs([4.0] * 3, [3.0] * 3, [0.0] * 3, right))
            for right in ((0.9, 0.5, 0.56), (0.9, 0.6, 0.56), (0.9, 0.9, 0.9))}  # fmt: skip
    first, *others = said.values()
    assert (
        first is not None
        and "answers no better than the fully ablated model: 50% right, ablated 56%" in first
    )
    assert others == [None, None]


@pytest.mark.parametrize(("full", "ablated"), [([3.0, 3.02], [3.0, 2.98]), ([3.0, -1.0], [0.98, 0.98])])
def test_a_share_of_next_to_nothing_is_called_that_and_no_over_recovery(
    full: list[float], ablated: list[float]
) -> None:
    warning = recovery_warning(runs(full, [3.1, 3.1], ablated), metric="kl")
    assert warning is not None and "by 0.02 only" in warning and "says nothing" in warning
    assert (
        "over-recovers" not in warning and "--metric kl" not in warning and "By KL it is 80%" in warning
    )


def test_what_to_do_about_over_recovery_depends_on_what_the_search_went_by() -> None:
    too_much = runs([4.0] * 3, [6.0] * 3, [0.0] * 3)
    by_kl, by_difference = (recovery_warning(too_much, metric=metric) for metric in ("kl", "logit-diff"))
    assert by_kl is not None and "over-recovers" in by_kl and "--metric kl" not in by_kl
    assert by_difference is not None and by_difference.endswith("Use --metric kl, or --objective match.")


def test_where_ablation_helps_over_recovery_is_put_down_to_what_speaks_for_the_answer() -> None:
    warning = recovery_warning(runs([1.0] * 3, [0.0] * 3, [3.0] * 3))
    assert warning is not None and "raises the logit difference (1 to 3)" in warning
    assert (
        "lowers it to 0" in warning
        and "what speaks against" not in warning
        and "--metric kl" not in warning
    )
