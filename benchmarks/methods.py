"""Every method on the same prompts, at the same sizes: how good its circuits are, and what they cost.

    python -m benchmarks.methods [--model smollm2-135m] [--tasks ioi:8 greater-than:8 docstring:4]
                                 [--edges 100 500 2000] [--methods eap eap-ig ...] [--acdc 0.02] [--keep FOLDER]

Each method is a run of ``circuitfind`` in a process of its own, so that the peak memory is its own; the time is that
of scoring alone, in which loading and evaluating don't count. ``--acdc`` adds ACDC's screened schedule at a threshold,
which finds its own number of edges. Every circuit is tried on OTHERS other prompts of the task, too, which no method
has seen. Prints a table in Markdown for each task. With ``--keep`` the runs stay in a folder: those that are there
already are taken as they are, those that were cut off go on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.masks import kept_of
from circuitfind.evaluation.performance import Evaluation, evaluate
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.options import RunOptions
from circuitfind.progress import Silent
from circuitfind.review.evaluate import on_prompts
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.memory import gigabytes
from circuitfind.runs.plan import make_plan
from circuitfind.runs.prepare import make_ready
from circuitfind.runs.prompt_sets import other_prompts
from circuitfind.runs.report import markdown_table, show
from circuitfind.runs.result import Ready

SLOW = {"exact", "subnetwork-probing", "edge-pruning", "ensemble"}
"""They are left out unless they are named: the first three take minutes to hours, the last is no method by itself."""
OTHERS = 32


class OtherPrompts:
    """Prompts of a task that no method was run on, and the model to try circuits on."""

    def __init__(self, task: str, n_prompts: int, model: str) -> None:
        notes = Noted(Silent())
        options = RunOptions(task, model=model, n_prompts=n_prompts)
        ready = make_ready(make_plan(options, notes), notes, Clock())
        n_pos = ready.batch.n_pos  # the model was made ready for no more
        pairs = other_prompts(ready.task, ready.tokenizer, ready.pairs, ready.options, OTHERS, n_pos)
        self._ready: Ready = on_prompts(ready, pairs)
        self._known: Evaluation | None = None

    def kl(self, circuit: Path) -> float:
        """KL(full || circuit) in nats, the mean over these prompts."""
        ready = self._ready
        kept, size = kept_of(Circuit.load(circuit)), ready.work.batch_size
        self._known = evaluate(ready.model.transformer, ready.batch, kept, "corrupted", size, self._known)
        kl = self._known.circuit.mean("kl")
        assert kl is not None
        return kl


@dataclass(frozen=True)
class Case:
    """What all methods of one table have in common; their runs go into folders of ``keep``."""

    task: str
    n_prompts: int
    model: str
    keep: Path
    others: OtherPrompts

    def measure(self, method: str, edges: Sequence[int]) -> tuple[str, ...]:
        """One row: the method at every size."""
        sizes = ",".join(map(str, edges))
        out = self.run(f"{method}-{sizes}", "sweep.json", "--method", method, "--edges", sizes)
        if out is None:
            return (method, *["-"] * len(edges), "-", "-")
        rows = json.loads((out / "sweep.json").read_text())["circuits"]
        seconds = sum(row["seconds"] for row in rows)
        records = [json.loads((out / row["folder"] / "run.json").read_text()) for row in rows]
        memory = max(record["peak_memory_bytes"] for record in records)
        cells = [self.cell(row, out / row["folder"]) for row in rows]
        return (method, *cells, f"{seconds:.1f}", gigabytes(memory))

    def measure_acdc(self, threshold: float, n_sizes: int) -> tuple[str, ...]:
        """ACDC's row; its circuit stands in the first column, whatever its size."""
        name, blank = f"acdc, {threshold:g}", [""] * (n_sizes - 1)
        out = self.run(
            f"acdc-{threshold:g}", "run.json", "--threshold", str(threshold), "--schedule", "screened"
        )
        if out is None:
            return (name, "-", *blank, "-", "-")
        record = json.loads((out / "run.json").read_text())
        circuit = json.loads((out / "circuit.json").read_text())
        row = {
            "n_edges": len(circuit["edges"]),
            **circuit["metrics"],
            "metrics": circuit["metrics"]["circuit"],
        }
        seconds, memory = record["timings"]["search"], record["peak_memory_bytes"]
        return (name, self.cell(row, out), *blank, f"{seconds:.1f}", gigabytes(memory))

    def run(self, name: str, last: str, *options: str) -> Path | None:
        """The folder of a run of ``circuitfind``, of which ``last`` is written last; None if it failed, which is
        printed. One that is finished is taken as it is."""
        out = self.keep / Path(self.model).name / f"{self.task}-{self.n_prompts}" / name
        if not (out / last).exists():
            begun = ["--resume"] if next(out.rglob("search.safetensors"), None) else []
            command = [sys.executable, "-m", "circuitfind", "run", self.task, "--model", self.model]
            command += ["--prompts", str(self.n_prompts), "--out", str(out), "--format", "dot", "--quiet"]
            done = subprocess.run([*command, *options, *begun], capture_output=True, text=True)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return None
        return out

    def cell(self, row: dict[str, Any], folder: Path) -> str:
        """A circuit in a few numbers."""
        faithfulness = (
            "-" if row["faithfulness"] is None else f"{round(row['faithfulness'], 2) + 0.0:.0%}"
        )
        elsewhere = self.others.kl(folder / "circuit.json")
        return f"{row['n_edges']:,}: {show(row['metrics']['kl'])} ({show(elsewhere)}), {faithfulness}"


def main() -> None:
    options = parse()
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        for task in options.tasks:
            name, _, given = task.partition(":")
            n_prompts = int(given or 8)
            others = OtherPrompts(name, n_prompts, options.model)
            case = Case(name, n_prompts, options.model, options.keep or Path(scratch), others)
            rows = [case.measure(method, options.edges) for method in options.methods]
            if options.acdc is not None:
                rows.append(case.measure_acdc(options.acdc, len(options.edges)))
            print(
                f"\n{name}, {options.model}, {n_prompts} prompts; edges, KL in nats (on other prompts), faithfulness"
            )
            sizes = [f"{n_edges:,} edges" for n_edges in options.edges]
            print("\n" + markdown_table(("method", *sizes, "seconds", "peak memory"), rows), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", nargs="+", default=["ioi:8", "greater-than:8", "docstring:4"])
    parser.add_argument("--edges", nargs="+", type=int, default=[100, 500, 2000])
    usual = [info.name for info in CATALOGUE.values() if info.scores and info.name not in SLOW]
    parser.add_argument(
        "--methods", nargs="*", default=usual, choices=[i.name for i in CATALOGUE.values() if i.scores]
    )
    parser.add_argument("--acdc", type=float)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    if len(options.edges) < 2:
        parser.error("give two sizes or more")
    return options


if __name__ == "__main__":
    main()
