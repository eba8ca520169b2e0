"""``circuitfind run``: find the circuit of a task in a model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitfind.cli.resumable import resumably
from circuitfind.errors import UsageError
from circuitfind.models.loading.catalogue import DEFAULT_MODEL

if TYPE_CHECKING:
    from circuitfind.circuits.circuit import Circuit
    from circuitfind.options import RunOptions
    from circuitfind.pipeline import RunResult
    from circuitfind.progress import Progress
    from circuitfind.runs.checkpoint import Keeper
    from circuitfind.runs.plan import Plan

SWEEP_HELP = (
    "Find the circuit at several thresholds or numbers of edges: a table, and a picture of edges"
    " against KL."
)
SWEEP_EXAMPLE = "Example: circuitfind sweep ioi --model tiny --threshold 0.1,0.05,0.02"
EXAMPLE = "Example: circuitfind run ioi --model tiny --threshold 0.02 --format svg,pdf"


def run(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help=(
                "ioi, docstring, greater-than, a task file (.py, .yaml) or a prompts file (.jsonl, .csv)."
            ),
        ),
    ],
    model: Annotated[
        str,
        typer.Option(help="A name of `circuitfind models list`, a hub name, a folder or a .gguf file."),
    ] = DEFAULT_MODEL,
    method: Annotated[
        str | None,
        typer.Option(
            help=(
                "One of `circuitfind methods`. Default: acdc, or eap-ig with --edges, --nodes or"
                " --fraction."
            ),
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            help=(
                "acdc: an edge is removed if the metric then rises by less, in its unit; default:"
                " 0.02 for"
                " kl. "
                "Methods that score: the least score. Several with commas are a sweep."
            ),
            show_default=False,
        ),
    ] = None,
    edges: Annotated[
        str | None,
        typer.Option(
            help="Methods that score: how many edges to keep. Several are a sweep.", show_default=False
        ),
    ] = None,
    nodes: Annotated[
        str | None,
        typer.Option(help="With --level node: how many heads and MLPs to keep.", show_default=False),
    ] = None,
    fraction: Annotated[
        str | None,
        typer.Option(help="Methods that score: which share of all edges to keep.", show_default=False),
    ] = None,
    neurons: Annotated[
        int | None,
        typer.Option(help="With --level neuron: how many neurons to keep.", show_default=False),
    ] = None,
    select: Annotated[
        str,
        typer.Option(
            help="Which scores count: top (by size), top-signed, or greedy (from the logits back)."
        ),
    ] = "top",
    steps: Annotated[
        int | None,
        typer.Option(
            help="eap-ig: runs on the way from corrupted to clean. Default: 5.", show_default=False
        ),
    ] = None,
    bootstrap: Annotated[
        int | None,
        typer.Option(
            help=(
                "Resample the prompts so many times, e.g. 200: confidence intervals, a consensus circuit."
            ),
            show_default=False,
        ),
    ] = None,
    grad_drop: Annotated[
        bool,
        typer.Option("--grad-drop", help="atp: a pass for each layer without its gradients, averaged."),
    ] = False,
    of_methods: Annotated[
        str,
        typer.Option(
            "--of", metavar="METHOD,METHOD...", help="ensemble: its methods.", show_default=False
        ),
    ] = "",
    combine: Annotated[
        str, typer.Option(help="ensemble: mean, max, min or rank-mean of the scores.")
    ] = "mean",
    start_from: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="edge-pruning, subnetwork-probing: scores to start from.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of the method, as `circuitfind methods` shows them.",
            show_default=False,
        ),
    ] = None,
    level: Annotated[
        str,
        typer.Option(
            help=(
                "What is kept or ablated: edge, node (heads and MLPs with all edges they send) or neuron."
            )
        ),
    ] = "edge",
    kv: Annotated[
        str,
        typer.Option(
            help=(
                "grouped: the k inputs of query heads that share a key/value head are one, and their v"
                " inputs."
            )
        ),
    ] = "per-head",
    metric: Annotated[
        str | None,
        typer.Option(
            help=(
                "kl, logit-diff, prob-diff, loss or one that the task file defines. Default: the task's."
            ),
            show_default=False,
        ),
    ] = None,
    ablation: Annotated[
        str,
        typer.Option(
            help="What a removed edge carries: corrupted, zero, mean, mean-positional or optimal."
        ),
    ] = "corrupted",
    objective: Annotated[
        str,
        typer.Option(
            help=(
                "improve: lower the metric, as published. match: stay at the full model's value,"
                " prompt by"
                " prompt."
            )
        ),
    ] = "improve",
    schedule: Annotated[
        str,
        typer.Option(
            help=(
                "sequential: a test for every edge, as published. screened: approximate; gradients decide"
                " what "
                "is far from the threshold, and edges that undo each other may by a small chance go"
                " together. "
                "grouped: many edges a test; another circuit."
            )
        ),
    ] = "sequential",
    candidates: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD:N",
            help=(
                "acdc: test only the N edges with the largest scores of another method, e.g."
                " eap-ig:5000; all"
                " others "
                "are removed first. Default: test all."
            ),
            show_default=False,
        ),
    ] = None,
    positions: Annotated[
        bool,
        typer.Option(
            "--positions",
            help=(
                "Tell positions apart: an edge for each role that the task names (ioi: IO, S1, S2), or"
                " each"
                " token."
            ),
        ),
    ] = False,
    prompts: Annotated[
        int | None,
        typer.Option(
            help="How many prompt pairs, or all if there are fewer. Default: 16; 64 for learned masks.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Which prompts.")] = 0,
    batch_size: Annotated[
        str, typer.Option(help="Prompts computed together, or auto. It changes no result.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float64 or bfloat16.")] = "float32",
    bos: Annotated[
        bool | None,
        typer.Option(
            "--bos/--no-bos",
            help="Begin prompts with BOS, or not. Default: as the tokenizer does.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder. Default: a new one under results/.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the run in a folder; other files in it stay.")
    ] = False,
    format: Annotated[
        str,
        typer.Option(
            help=(
                "Beside circuit.dot: svg, png, pdf, html (a page), or any other of export; several with"
                " commas."
            )
        ),
    ] = "svg",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help=(
                "Go on with a run that was cut off: that in --out, or the latest of the same options."
                " Where"
                " there is "
                "nothing to go on with it begins anew."
            ),
        ),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(help="The most memory to take, e.g. 4GB. It changes no result.", show_default=False),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; warnings only.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of the summary.")
    ] = False,
) -> None:
    """Find the circuit of a task in a model: the few edges that carry it, with the evidence and a picture."""
    from circuitfind.options import RunOptions
    from circuitfind.runs.sweep_plan import find_sizes, with_size

    of, sizes = find_sizes({"threshold": threshold, "edges": edges, "fraction": fraction, "nodes": nodes})
    options = RunOptions(
        task, model, method, None, metric, ablation, objective, prompts, seed, parse_batch_size(batch_size),
        device, dtype, bos, out, force, parse_names(format), resume, parse_memory(memory), schedule,
        None, None, select, steps, bootstrap, grad_drop, parse_names(of_methods), combine, start_from,
        parse_settings(settings or ()), candidates, level, kv, neurons=neurons, positions=positions,
    )  # fmt: skip
    if len(sizes) > 1:
        from circuitfind.cli.sweep import sweep_and_print

        sweep_and_print(options, sizes, of, quiet, as_json)
    else:
        run_and_print(with_size(options, sizes[0], of) if sizes else options, quiet, as_json)


@wraps(run)  # the same options
def sweep(**options: Any) -> None:
    from circuitfind.methods.options import SIZES
    from circuitfind.runs.sweep_plan import find_sizes, refuse_too_few

    of, sizes = find_sizes({name: options[name] for name in SIZES})
    refuse_too_few(sizes, of)
    run(**options)


def run_and_print(options: RunOptions, quiet: bool, as_json: bool) -> None:
    """One run."""
    from circuitfind.cli.terminal import TerminalProgress
    from circuitfind.runs.plan import make_plan

    with TerminalProgress(quiet) as progress:
        plan = make_plan(options, progress)
        result = None if plan.is_finished else carry_out_safely(plan, options, progress)
    if result is None:
        print_finished(plan.folder, as_json)
    elif as_json:
        typer.echo(result_json(result.circuit, result.folder, result.warnings, result.found))
    else:
        print_summary(result)


def carry_out_safely(plan: Plan, options: RunOptions, progress: Progress) -> RunResult:
    """The run. A Ctrl-C keeps what it has decided so far, and tells how to go on with it."""
    from circuitfind.pipeline import (
        carry_out,
        make_keeper,
    )  # seconds of imports, after all that is told without them

    keeper = make_keeper(plan)
    with resumably(keeper.save_now, lambda: how_to_go_on(keeper, options)):
        return carry_out(plan, progress, keeper)


def how_to_go_on(keeper: Keeper, options: RunOptions) -> str:
    """What to tell the user of a run that ends before it is done; nothing where nothing of it is kept."""
    from circuitfind.runs.resume import resume_command

    if not keeper.can_resume:
        return ""
    return f"What it has decided is kept. To go on with it:\n  {resume_command(options, keeper.folder)}\n"


def parse_batch_size(text: str) -> int | None:
    """A number, or None for auto."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--batch-size is '{text}'; it must be a whole number, or auto.") from None


def parse_settings(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names and values, in the order of the names. Raises UsageError for what is neither, or there twice."""
    settings: dict[str, str] = {}
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise UsageError(f"--set is '{text}'; it must be NAME=VALUE, e.g. --set temperature=4.")
        if name in settings:
            raise UsageError(f"--set gives {name} twice. Give it once.")
        settings[name] = value
    return tuple(sorted(settings.items()))


def parse_memory(text: str | None) -> int | None:
    """Bytes, from a number and its unit; None for whatever is available. A bare number would be
    taken for either.
    """
    if text is None:
        return None
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b?)", text.strip().lower())
    if not parts or not any(parts.groups()[1:]):
        raise UsageError(f"--memory is '{text}'; it must be a number with its unit, e.g. 4GB or 500MB.")
    number, prefix, binary, _ = parts.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix or " "))


def parse_names(text: str) -> tuple[str, ...]:
    """Names between commas, each once."""
    return tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))


def result_json(circuit: Circuit, folder: Path, warnings: Sequence[str], found: Mapping[str, Any]) -> str:
    """The circuit file's blocks without the edges, how it came about, and where the run lies, as
    one document.
    """
    document = {
        "folder": str(folder),
        "model": circuit.model,
        "task": circuit.task,
        "method": circuit.method,
        **({} if circuit.neurons is None else {"n_neurons": len(circuit.neurons)}),
        "n_edges": len(circuit.edges),
        "n_nodes": len(circuit.nodes),
        "metrics": circuit.metrics,
        **found,
        "warnings": list(warnings),
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def print_finished(folder: Path, as_json: bool) -> None:
    """What there is of a run that was to be resumed and had nothing left to do."""
    from circuitfind.circuits.circuit import Circuit
    from circuitfind.circuits.record import RUN_FILE, read_run
    from circuitfind.files.links import file_in

    typer.echo(f"The run in {folder} is finished: there is nothing to resume.", err=True)
    if as_json:
        file_in(folder, RUN_FILE)  # no link that leads out of the folder
        record = read_run(folder / RUN_FILE)
        found: dict[str, Any] = {
            key: record[key] for key in ("search", "selection", "bootstrap") if record.get(key)
        }
        typer.echo(result_json(Circuit.load(folder), folder, record["warnings"], found))
    else:
        print_places(folder)


def print_summary(result: RunResult) -> None:
    """The circuit in a few lines, and where its picture lies."""
    from circuitfind.runs.report import summary

    circuit = result.circuit
    what = f"{circuit.task['name']} in {circuit.model['name']}, {circuit.method['name']}"
    typer.echo(f"{what}: a circuit of {circuit.size}")
    for label, value in summary(circuit, result.evaluation, result.found):
        typer.echo(f"  {label:<20} {value}")
    print_places(result.folder)


def print_places(folder: Path) -> None:
    """Where the picture and the report lie."""
    picture = next(
        (path for end in ("svg", "png", "pdf") if (path := folder / f"circuit.{end}").exists()), None
    )
    typer.echo(f"picture: {picture or folder / 'circuit.dot'}")
    if (page := folder / "circuit.html").exists():
        typer.echo(f"page:    {page}")
    typer.echo(f"report:  {folder / 'report.md'}")
