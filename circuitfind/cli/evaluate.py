"""``circuitfind evaluate``: how good a circuit is, beyond its faithfulness on the prompts that it
was found on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuitfind.cli.terminal import TerminalProgress

if TYPE_CHECKING:
    from circuitfind.review.parts import Assessment

EXAMPLE = "Example: circuitfind evaluate results/my-run --parts ablations,held-out"


def evaluate(
    circuit: Annotated[Path, typer.Argument(metavar="CIRCUIT", help="A circuit.json or a run folder.")],
    parts: Annotated[
        str,
        typer.Option(
            metavar="PART,PART...",
            help=(
                "ablations, held-out, completeness, minimality, random, hypotheses, curve, reference; or"
                " quick. "
                "Default: all."
            ),
            show_default=False,
        ),
    ] = "",
    ablations: Annotated[
        str,
        typer.Option(
            metavar="A,A...",
            help="Under which ablations, or all. Default: all, but optimal only of small models.",
            show_default=False,
        ),
    ] = "",
    held_out: Annotated[
        int | None,
        typer.Option(
            "--held-out",
            metavar="N",
            help="How many other prompts. Default: as many as its own.",
            show_default=False,
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="TASK",
            help="Another task or prompts file to try it on, such as other templates.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="CIRCUIT",
            help="Another circuit, to compare it with edge by edge.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="What is measured. Default: logit-diff, or kl without wrong answers.", show_default=False
        ),
    ] = None,
    knock_outs: Annotated[
        int, typer.Option("--knock-outs", help="Completeness: random sets of nodes.")
    ] = 20,
    steps: Annotated[int, typer.Option(help="Completeness: steps of the greedy knock-out.")] = 5,
    candidates: Annotated[
        int,
        typer.Option("--knock-out-candidates", help="Completeness: nodes that a greedy step looks at."),
    ] = 10,
    random: Annotated[int, typer.Option("--random", help="Random circuits to compare with.")] = 50,
    most: Annotated[int, typer.Option(help="Minimality: edges looked at; of more a sample.")] = 200,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="Another model of the same shape.", show_default=False)
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The task's name or file, in place of its own.", show_default=False)
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust", help="Run the task file and open the model that its files name, wherever they are."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where the report goes. Default: beside the circuit.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a report that is there.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the parts that the report there lacks.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(help="Prompts at once. It changes no result.", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; warnings only.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of the summary.")
    ] = False,
) -> None:
    """Judge a circuit: under every ablation, on other prompts, without parts of it, against chance
    and a reference.
    """
    from circuitfind.cli.run import parse_names
    from circuitfind.review.evaluate_plan import PARTS, QUICK, EvaluateOptions, make_assessment_plan
    from circuitfind.review.opening import Named
    from circuitfind.runs.plan import CHOICES

    asked = parse_names(parts)
    options = EvaluateOptions(
        circuit=circuit,
        named=Named(model, task, trust),
        metric=metric,
        parts=QUICK if asked == ("quick",) else asked or PARTS,
        ablations=tuple(CHOICES["ablation"]) if ablations == "all" else parse_names(ablations),
        n_held_out=held_out,
        also=tuple(also or ()),
        reference=reference,
        n_knock_outs=knock_outs,
        n_steps=steps,
        n_candidates=candidates,
        n_random=random,
        most=most,
        seed=seed,
        out=out,
        force=force,
        resume=resume,
        device=device,
        batch_size=batch_size,
    )
    with TerminalProgress(quiet) as progress:
        plan = make_assessment_plan(options, progress)
        from circuitfind.review.evaluate import assess, write_report
        from circuitfind.runs.lock import hold

        with hold(plan.folder):
            assessment = assess(plan, progress, lambda so_far: write_report(so_far, plan))
    if as_json:
        typer.echo(json.dumps(assessment.to_dict(), indent=2, ensure_ascii=False))
    else:
        print_summary(assessment, plan.folder)


def print_summary(assessment: Assessment, folder: Path) -> None:
    """One screen: a line or a small table for each judgement."""
    circuit = assessment.circuit
    names = [str(circuit.task.get("name")), assessment.model, str(circuit.method.get("name"))]
    typer.echo(f"{', '.join(names)}: {circuit.size}")
    for section in assessment.sections:
        typer.echo(f"{section.title}:")
        if section.rows:
            widths = [max(map(len, column)) for column in zip(*section.rows, strict=True)]
            for row in section.rows:
                cells = [row[0].ljust(widths[0])]
                cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
                typer.echo("  " + "  ".join(cells))
        for line in section.lines:
            typer.echo(f"  {line}")
    typer.echo(f"report: {folder / 'report.md'}")
