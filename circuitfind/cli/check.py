"""``circuitfind check``: do known circuits still hold? The gate of a CI job."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from circuitfind.cli.terminal import TerminalProgress, behind
from circuitfind.review.ci_report import SUITE, junit, lines_of, tally, workflow_commands
from circuitfind.review.tolerances import Tolerances, Verdict, exit_code, parse_tolerances

LEAST_READ = 4096
"""So many bytes of a report tell whose it is."""
EXAMPLE = "Example: circuitfind check results/known/*.json --junit report.xml"


def check(
    circuits: Annotated[
        list[Path], typer.Argument(metavar="CIRCUIT...", help="Circuit.json files, or run folders.")
    ],
    evaluate_only: Annotated[
        bool,
        typer.Option("--evaluate-only", help="Evaluate the stored circuit; do not look for it anew."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="M",
            help="Another model of the same shape: a checkpoint.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="TASK",
            help="The task's name or file, if it is elsewhere.",
            show_default=False,
        ),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run the task file and open the model that a circuit's files name, wherever they are.",
        ),
    ] = False,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerance",
            metavar="NAME=X",
            help=(
                "accuracy, faithfulness, kl, jaccard or heads; over what the file says. Several with commas."
            ),
            show_default=False,
        ),
    ] = None,
    junit_file: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Write JUnit's XML too.", show_default=False),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="D", help="auto, cpu, cuda or mps.")
    ] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find known circuits anew, or evaluate them, and compare with what is stored.

    Exits with 0 where all hold, 1 where one has drifted, 2 where one could not be run.
    """
    given = parse_tolerances(tolerance or [])
    Tolerances().with_values(given)
    from circuitfind.runs.target import check_target, write_target

    if junit_file is not None:
        check_target(
            junit_file,
            circuits,
            is_report(junit_file),
            "It is no report of this command: name another file.",
        )
    from circuitfind.review.check import CheckOptions
    from circuitfind.review.check import check as check_one
    from circuitfind.review.opening import Named

    options = CheckOptions(Named(model, task, trust), evaluate_only, given, device)
    verdicts = []
    with TerminalProgress(quiet) as progress:
        for circuit in circuits:
            progress.stage(f"checking {circuit}")
            verdicts.append(check_one(circuit, options, progress))
    if junit_file is not None:
        write_target(junit_file, junit(verdicts))
    if as_json:
        document = {
            "verdicts": [verdict.to_dict() for verdict in verdicts],
            "exit_code": exit_code(verdicts),
        }
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(line for verdict in verdicts for line in lines_of(verdict)))
        typer.echo(tally(verdicts))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for command in workflow_commands(verdicts):
            print(command, file=behind(sys.stderr))  # ``printable`` would make it a mere line
    else:
        for verdict in verdicts:
            if verdict.status == "could not run":
                typer.echo(f"error: {said_of(verdict)}", err=True)
    raise typer.Exit(exit_code(verdicts))


def said_of(verdict: Verdict) -> str:
    """Why a circuit could not be run, with its name."""
    name = str(verdict.circuit)
    return verdict.reason if name in verdict.reason else f"{name}: {verdict.reason}"


def is_report(path: Path) -> bool:
    """Whether the file is a report of an earlier run, which this one replaces as CI expects, or is empty."""
    try:
        start = path.read_bytes()[:LEAST_READ]
    except OSError:
        return False
    return not start or SUITE.encode() in start
