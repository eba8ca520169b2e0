"""The benchmarks run, and the figures that the project promises hold."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import eap_ig_parity as parity
from benchmarks.peers.job import MODEL, Case

ROOT = Path(__file__).parents[1]
LEAST_RATIO = 15


def bench(name: str, *options: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def ratio(output: str) -> float:
    found = re.search(r"^ +ratio\s+([\d.]+) x$", output, re.MULTILINE)
    assert found is not None, output
    return float(found[1])


def test_the_speed_benchmark_checks_decisions_and_prints_a_ratio() -> None:
    output = bench(
        "acdc_speed",
        "--model",
        "tiny",
        "--prompts",
        "4",
        "--samples",
        "20",
        "--schedules",
        "sequential",
        "screened",
    )
    assert ratio(output) > 0
    assert output.count("20 decisions taken again with the whole model: all the same") == 2
    assert "screened: 0 edges other than sequential's" in output


def test_the_run_benchmark_prints_a_line_a_model() -> None:
    output = bench("run_ioi", "--models", "tiny", "--prompts", "4")
    assert re.search(r"^tiny +[\d.]+ s +[\d.]+ s +[\d.]+ s +[\d.]+ GB", output, re.MULTILINE), output


@pytest.mark.slow
def test_the_benchmark_of_methods_prints_a_row_for_each() -> None:
    output = bench("methods", "--model", "tiny", "--tasks", "ioi:4", "--methods", "eap", "random",
                   "--edges", "20", "200", "--acdc", "0.1")  # fmt: skip
    rows = [line.split("|")[1:-1] for line in output.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows] == ["method", "---", "eap", "random", "acdc, 0.1"]
    assert all(re.fullmatch(r" \d+: [\d.e-]+ \([\d.e-]+\), -?\d+% ", row[1]) for row in rows[2:]), output


def test_whole_batches_divide_the_mean_score_by_their_size() -> None:
    ours = np.random.default_rng(0).normal(size=(8, 30))
    np.testing.assert_allclose(parity.as_divided(ours, 4), ours.mean(0) / 4)
    found = parity.compare(Case("eap", "logit-diff"), "shipped", 4, ours, ours.mean(0) / 4)
    assert max(found.difference, found.as_one_factor) < 1e-12
    assert found.spearman == pytest.approx(1)
    assert found.jaccard == 1


def test_a_ragged_last_batch_counts_for_more_and_no_factor_undoes_it() -> None:
    ours = np.array(
        [[3.0, 0.0], [3.0, 0.0], [3.0, 0.0], [0.0, 3.0]]
    )  # batches of 3 and 1: 1/4 (3 * 3/3, 3/1)
    its = parity.as_divided(ours, 3)
    np.testing.assert_allclose(its, [0.75, 0.75])
    found = parity.compare(Case("eap", "logit-diff"), "shipped", 3, ours, its)
    assert found.difference < 1e-12
    assert found.as_one_factor == pytest.approx(
        1.5 / 2.25
    )  # 0.75 * 3 is the first edge's mean, and not the second's


def test_scores_that_differ_by_a_thousandth_are_seen() -> None:
    ours = np.random.default_rng(0).normal(size=(8, 30))
    its = parity.as_divided(ours, 3)
    its[np.abs(its).argmax()] *= 1.001
    assert parity.compare(Case("eap", "kl"), "shipped", 3, ours, its).difference == pytest.approx(
        1e-3, rel=0.01
    )


def test_edges_are_compared_by_name() -> None:
    assert parity.in_order(["input->m0", "m0->logits"], ["m0->logits", "input->m0"]).tolist() == [1, 0]
    with pytest.raises(SystemExit, match="graphs differ"):
        parity.in_order(["input->m0"], ["input->logits"])


def test_our_side_of_a_comparison_scores_every_edge_of_every_prompt(tmp_path: Path) -> None:
    options = argparse.Namespace(
        shape="small", prompts=3, cases=["eap", "eap-ig:kl"], batch_sizes=[2], steps=2
    )
    parity.make_job(options).write(tmp_path)
    parity.write_model(parity.SHAPES["small"], tmp_path / MODEL)
    side = parity.run_ours(tmp_path)
    assert len(side.edges) == 479
    assert {name: scores.shape for name, scores in side.scores.items()} == {
        "eap:logit-diff": (3, 479),
        "eap-ig:kl": (3, 479),
    }


@pytest.mark.slow
def test_a_test_costs_at_most_a_fifteenth_of_a_forward_pass_on_smollm2() -> None:
    # At 0.1 the search takes two minutes; docs/performance.md has the figure at 0.02, measured by the same command.
    assert (
        ratio(bench("acdc_speed", "--prompts", "16", "--threshold", "0.1", "--samples", "6"))
        >= LEAST_RATIO
    )
