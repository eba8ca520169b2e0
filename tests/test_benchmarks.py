"""The benchmarks run, and the figures that the project promises hold."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
        "acdc_speed", "--model", "tiny", "--prompts", "4", "--samples", "20", "--schedules", "sequential", "screened"
    )
    assert ratio(output) > 0
    assert output.count("20 decisions taken again with the whole model: all the same") == 2
    assert "screened: 0 edges other than sequential's" in output


def test_the_run_benchmark_prints_a_line_a_model() -> None:
    output = bench("run_ioi", "--models", "tiny", "--prompts", "4")
    assert re.search(r"^tiny +[\d.]+ s +[\d.]+ s +[\d.]+ s +[\d.]+ GB", output, re.MULTILINE), output


@pytest.mark.slow
def test_a_test_costs_at_most_a_fifteenth_of_a_forward_pass_on_smollm2() -> None:
    # At 0.1 the search takes two minutes; docs/performance.md has the figure at 0.02, measured by the same command.
    assert ratio(bench("acdc_speed", "--prompts", "16", "--threshold", "0.1", "--samples", "6")) >= LEAST_RATIO
