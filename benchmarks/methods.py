"""Every method on the same prompts, at the same sizes: how good its circuits are, and what they cost.

    python -m benchmarks.methods [--model smollm2-135m] [--tasks ioi:8 greater-than:8 docstring:4]
                                 [--edges 100 500 2000] [--methods eap eap-ig ...] [--acdc 0.02]

Each method is a run of ``circuitfind`` in a process of its own, so that the peak memory is its own; the time is that
of scoring alone, in which loading and evaluating don't count. ``--acdc`` adds ACDC's screened schedule at a threshold,
which finds its own number of edges. Prints a table in Markdown for each task.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from circuitfind.memory import gigabytes
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.report import markdown_table, show

SLOW = {"exact", "subnetwork-probing", "edge-pruning", "ensemble"}
"""They are left out unless they are named: the first three take minutes to hours, the last is no method by itself."""


def main() -> None:
    options = parse()
    print(machine())
    for task in options.tasks:
        name, _, n_prompts = task.partition(":")
        rows = [
            row
            for method in options.methods
            for row in measure(name, n_prompts or "8", options.model, method, options.edges)
        ]
        if options.acdc is not None:
            rows += measure_acdc(name, n_prompts or "8", options.model, options.acdc)
        print(f"\n{name}, {options.model}, {n_prompts or 8} prompts; real edges, KL (nats), faithfulness\n")
        sizes = [f"{n_edges:,} edges" for n_edges in options.edges]
        print(markdown_table(("method", *sizes, "seconds", "peak memory"), rows), flush=True)


def measure(task: str, n_prompts: str, model: str, method: str, edges: Sequence[int]) -> list[tuple[str, ...]]:
    """One row: the method at every size."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        sizes = ",".join(map(str, edges))
        if not run(task, n_prompts, model, out, "--method", method, "--edges", sizes):
            return [(method, *["-"] * len(edges), "-", "-")]
        rows = json.loads((out / "sweep.json").read_text())["circuits"]
        record = json.loads((out / rows[0]["folder"] / "run.json").read_text())
        seconds = sum(row["seconds"] for row in rows)
        return [(method, *map(cell, rows), f"{seconds:.1f}", gigabytes(record["peak_memory_bytes"]))]


def measure_acdc(task: str, n_prompts: str, model: str, threshold: float) -> list[tuple[str, ...]]:
    """ACDC's row; its circuit stands in the first column, whatever its size."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        if not run(task, n_prompts, model, out, "--threshold", str(threshold), "--schedule", "screened"):
            return []
        record = json.loads((out / "run.json").read_text())
        circuit = json.loads((out / "circuit.json").read_text())
        row = {"n_edges": len(circuit["edges"]), **circuit["metrics"], "metrics": circuit["metrics"]["circuit"]}
        seconds = f"{record['timings']['search']:.1f}"
        return [(f"acdc, {threshold:g}", cell(row), "", "", seconds, gigabytes(record["peak_memory_bytes"]))]


def run(task: str, n_prompts: str, model: str, out: Path, *options: str) -> bool:
    """Whether ``circuitfind run`` ended well; what it said otherwise is printed."""
    command = [sys.executable, "-m", "circuitfind.app", "run", task, "--model", model, "--prompts", n_prompts]
    done = subprocess.run(
        [*command, "--out", str(out), "--format", "dot", "--quiet", *options], capture_output=True, text=True
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    return done.returncode == 0


def cell(row: dict[str, Any]) -> str:
    """A circuit in a few numbers."""
    faithfulness = "-" if row["faithfulness"] is None else f"{round(row['faithfulness'], 2) + 0.0:.0%}"
    return f"{row['n_edges']:,}: {show(row['metrics']['kl'])}, {faithfulness}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", nargs="+", default=["ioi:8", "greater-than:8", "docstring:4"])
    parser.add_argument("--edges", nargs="+", type=int, default=[100, 500, 2000])
    usual = [info.name for info in CATALOGUE.values() if info.scores and info.name not in SLOW]
    parser.add_argument("--methods", nargs="+", default=usual, choices=[i.name for i in CATALOGUE.values() if i.scores])
    parser.add_argument("--acdc", type=float)
    options = parser.parse_args()
    if len(options.edges) < 2:
        parser.error("give two sizes or more")
    return options


if __name__ == "__main__":
    main()
