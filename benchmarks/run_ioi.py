"""Time and peak memory of ``circuitfind run ioi``, as a whole process, on tiny and on smollm2-135m.

python -m benchmarks.run_ioi [--models tiny,smollm2-135m] [--prompts 16] [--threshold 0.02]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import machine


def main() -> None:
    options = parse()
    print(machine())
    print(f"run ioi --prompts {options.prompts} --threshold {options.threshold}")
    print(f"{'model':<14} {'whole run':>10} {'load':>8} {'search':>9} {'peak':>8} {'edges':>7} {'KL':>8}")
    for model in options.models.split(","):
        measure(model, options.prompts, options.threshold)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--models", default="tiny,smollm2-135m")
    parser.add_argument("--prompts", default="16")
    parser.add_argument("--threshold", default="0.02")
    return parser.parse_args()


def measure(model: str, prompts: str, threshold: str) -> None:
    """Runs the command once and prints its line."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "circuitfind",
            "run",
            "ioi",
            "--model",
            model,
            "--prompts",
            prompts,
        ]
        command += ["--threshold", threshold, "--out", f"{folder}/run", "--quiet", "--json"]
        start = time.perf_counter()
        done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        seconds = time.perf_counter() - start
        record = json.loads((Path(folder) / "run" / "run.json").read_text())
    timings, peak = record["timings"], record["peak_memory_bytes"] / 1e9
    kl = done["metrics"]["circuit"]["kl"]
    print(
        f"{model:<14} {seconds:8.1f} s {timings['load']:6.1f} s {timings['search']:7.1f} s {peak:5.2f} GB "
        f"{done['n_edges']:7,} {kl:8.4f}"
    )


if __name__ == "__main__":
    main()
