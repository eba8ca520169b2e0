"""A sweep: one question at several sizes, each a complete run in a folder of its own, and a table
of them all.

What depends on no size is made once: the model, loaded and checked, the prompts, how well the full
model does and the fully ablated one; and a method that scores edges scores once. From one threshold
to the next smaller a search takes over every decision up to the first that differs; no larger
threshold before that one shares more, since whatever two thresholds decide alike those between them
do too. The files of each run are the same, to the byte, as those of that run alone. (Learned masks
are trained anew for each size that is their target.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import field

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.record import RUN_FILE, Record, read_run
from circuitfind.circuits.schema import Number
from circuitfind.errors import CircuitError
from circuitfind.export.formats.chart import Point, draw_sweep
from circuitfind.export.formats.picture import PICTURE_FORMATS
from circuitfind.files.json_file import Schema, fit, json_file
from circuitfind.files.links import file_in
from circuitfind.methods.make import make_method
from circuitfind.methods.options import SIZES
from circuitfind.methods.outcome import Found
from circuitfind.methods.scored import Scored
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.reuse import start_from
from circuitfind.options import RunOptions, SettledOptions
from circuitfind.pipeline import find_circuit, make_keeper, settle
from circuitfind.progress import Progress, Silent
from circuitfind.runs.checkpoint import Keeper, check_same
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.files import write_findings
from circuitfind.runs.folder import claim, write_run
from circuitfind.runs.lock import hold
from circuitfind.runs.plan import Plan
from circuitfind.runs.prepare import make_ready
from circuitfind.runs.report import markdown_table, options_line, show
from circuitfind.runs.result import Findings, Ready, TakenOver, method_block, task_block
from circuitfind.runs.resume import identity
from circuitfind.runs.session import Session
from circuitfind.runs.sweep_plan import PLURAL, WHOLE, Size, SweepPlan, folder_name, make_sweep_plan

FORMAT, VERSION = "circuitfind.sweep", 1
COLUMNS = ("edges", "nodes", "KL", "logit diff", "faithfulness", "accuracy")
ASKED = {"threshold": "threshold", "edges": "asked for", "fraction": "fraction", "nodes": "asked for"}
"""The title of what was asked for, by what it is the size of."""
COUNTED = {"search": ("tests", "tested"), "selection": ("before pruning", "nominal")}
"""What a row counts besides, by the block of run.json that has it: the column's title, and its key there."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep leaves behind: its table, as in sweep.json, and the folder where all of it lies."""

    table: dict[str, Any]
    folder: Path


def sweep(
    options: RunOptions, sizes: Sequence[Size], progress: Progress | None = None, of: str = "threshold"
) -> SweepResult:
    """Find the circuit at each of the sizes (``of``: threshold, edges, fraction or nodes) and write
    the sweep's folder.

    Raises CircuitfindError.
    """
    progress = progress or Silent()
    return carry_out_sweep(make_sweep_plan(options, tuple(sizes), progress, of), progress)


def carry_out_sweep(
    plan: SweepPlan,
    progress: Progress,
    watch: Callable[[Path, Keeper], None] = lambda folder, keeper: None,
) -> SweepResult:
    """The sweep itself. ``watch`` is told of the sweep's folder, and each run's keeper, before its
    search begins.
    """
    with claimed(plan.base) as folder:
        if not all(plan.run_at(size, folder).is_finished for size in plan.sizes):
            find_circuits(plan, folder, Noted(progress, plan.base.cautions), watch)
        progress.stage("drawing the sweep")
        table = make_table(folder, plan)
        files = write_run(folder, make_files(table, plan.base.options.formats), force=True)
        return SweepResult({**table, "files": files}, folder)


def find_circuits(
    plan: SweepPlan, folder: Path, notes: Noted, watch: Callable[[Path, Keeper], None]
) -> None:
    """Every run that is not finished yet, from the smallest circuit to the largest, in ``folder``.

    Scores that all of them share are kept there until the last run is done.
    """
    clock, earlier = Clock(), None
    ready = make_ready(plan.base, notes, clock)
    runs = [plan.run_at(size, folder) for size in plan.sizes]
    shared = Keeper(folder, force=True, state=plan.base.state) if share_scores(runs, ready) else None
    for run in runs:
        if run.is_finished:
            check_finished(run, ready)
            continue
        keeper = shared or make_keeper(run)
        watch(folder, keeper)
        state = plan.base.state if shared and run is runs[0] else run.state
        with hold(run.folder) if shared else keeper:  # the shared one's folder is the sweep's own
            earlier = find_and_write(ready, run, earlier, keeper, notes.fork(), clock.fork(state))


def share_scores(runs: Sequence[Plan], ready: Ready) -> bool:
    """Whether the runs' method scores once for all of them, since it does not depend on their size."""
    first, *others = (make_method(settle(run.options), ready.graph) for run in runs)
    return not isinstance(first, ACDC) and all(method == first for method in others)


@contextmanager
def claimed(base: Plan) -> Iterator[Path]:
    """The sweep's folder, made now and held; if nothing has been written to it, it goes again."""
    options = base.options
    folder = claim(base.folder, options.out is None, options.force or options.resume)
    try:
        with hold(folder):
            yield folder
    finally:
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def check_finished(run: Plan, ready: Ready) -> None:
    """Raises OutputError where the finished run in a resumed sweep is not of the same prompts,
    model and options.
    """
    circuit = Circuit.load(run.folder)
    options = settle(run.options)
    method = make_method(options, ready.graph)
    now = identity(ready.model.to_dict(), task_block(ready), method_block(ready, method, options))
    check_same(run.folder, identity(circuit.model, circuit.task, circuit.method), now)


def find_and_write(
    ready: Ready, run: Plan, earlier: Findings | None, keeper: Keeper, notes: Noted, clock: Clock
) -> Findings:
    """One of the runs, with all that ``earlier``, that of the size before, has for it."""
    options = replace(run.options, device=ready.options.device)
    findings = find_circuit(Session(ready, options, notes, clock, keeper, take_over(earlier, options)))
    write_findings(findings, run.folder, notes, clock, keeper.has_folder and keeper.folder == run.folder)
    return findings


def take_over(earlier: Findings | None, options: SettledOptions) -> TakenOver:
    """What a run of ``options`` need not find out again."""
    if earlier is None:
        return TakenOver()
    outcome, graph, model = earlier.outcome, earlier.graph, earlier.ready.model.transformer
    method = make_method(settle(options), graph)
    if isinstance(outcome, Scored):
        per_prompt = outcome.per_prompt if method == earlier.method else None
        return TakenOver(per_prompt=per_prompt, evaluation=earlier.evaluation)
    assert isinstance(outcome, Found)
    assert isinstance(method, ACDC)
    assert isinstance(earlier.method, ACDC)
    shortlist = earlier.shortlist
    among = None if shortlist is None else shortlist.edges
    start = start_from(graph, outcome, earlier.method, method, model.dtype, among)
    return TakenOver(start, evaluation=earlier.evaluation, shortlist=shortlist)


def make_table(folder: Path, plan: SweepPlan) -> dict[str, Any]:
    """sweep.json: what the runs have in common, and a row for each; read from their files."""
    rows = [make_row(folder / folder_name(size, plan.of), plan.of) for size in plan.sizes]
    first = Circuit.load(folder / folder_name(plan.sizes[0], plan.of))
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": first.model,
        "task": first.task,
        "method": {key: value for key, value in first.method.items() if key != plan.of},
        "graph": first.graph.to_dict(),
        "metrics": {run: first.metrics[run] for run in ("full", "ablated")},
        "circuits": rows,
    }


class SweptMeans(Schema, frozen=True):
    """What a table shows of a run under one mask."""

    kl: Number
    accuracy: Number
    logit_diff: Number | None = field(name="logit-diff")


class SweptMetrics(Schema, frozen=True):
    """What a table shows of a circuit's metrics."""

    full: SweptMeans
    circuit: SweptMeans
    ablated: SweptMeans
    faithfulness: Number | None


class SweptTimings(Schema, frozen=True):
    """What a run took, in seconds."""

    search: Number


class SweptRecord(Record, frozen=True, kw_only=True):
    """The record of a finished run, as far as a table shows it."""

    timings: SweptTimings


def make_row(folder: Path, of: str) -> dict[str, Any]:
    """What one run found, and what it took. Raises CircuitError where its files lack what a run writes."""
    file = file_in(folder, RUN_FILE) or folder / RUN_FILE  # no link that leads out of the folder
    circuit, record = Circuit.load(folder), read_run(file, SweptRecord)
    fit(circuit.metrics, SweptMetrics, str(folder / "circuit.json"), where="metrics")
    counted = {block: dict(record[block]) for block in COUNTED if record.get(block)}
    if of not in circuit.method or not counted:
        raise CircuitError(
            f"{folder} is no finished run of this sweep. Give --force in place of --resume to redo it."
        )
    for block in counted.values():
        block.pop("undecidable", None)
    return {
        of: circuit.method[of],
        "folder": folder.name,
        "n_edges": len(circuit.edges),
        "n_nodes": len(circuit.nodes),
        "metrics": circuit.metrics["circuit"],
        "faithfulness": circuit.metrics["faithfulness"],
        **counted,
        "seconds": record["timings"]["search"],
        "warnings": record["warnings"],
    }


def size_of(table: dict[str, Any]) -> str:
    """What the sizes of a table are sizes of."""
    return next(of for of in SIZES if of in table["circuits"][0])


def columns(table: dict[str, Any]) -> tuple[str, ...]:
    """The titles of ``cells_of``."""
    return (ASKED[size_of(table)], *COLUMNS, COUNTED[_counted(table)][0], "seconds")


def _counted(table: dict[str, Any]) -> str:
    """Which block of COUNTED the table's rows have."""
    return next(block for block in COUNTED if block in table["circuits"][0])


def make_files(table: dict[str, Any], formats: Sequence[str]) -> dict[str, str | bytes]:
    """The sweep's own files by name."""
    of = size_of(table)
    points = [Point(row[of], row["n_edges"], row["metrics"]["kl"]) for row in table["circuits"]]
    title, ablated = f"{what(table)}; labels are {PLURAL[of]}", table["metrics"]["ablated"]["kl"]
    pictures = {
        f"sweep.{format}": draw_sweep(points, ablated, title, format)
        for format in formats
        if format in PICTURE_FORMATS
    }
    return {**pictures, "sweep.md": page(table, list(pictures)), "sweep.json": json_file(table)}


def what(table: dict[str, Any]) -> str:
    """What was asked, in a few words."""
    return f"{table['task']['name']} in {table['model']['name']}, {table['method']['name']}"


def page(table: dict[str, Any], pictures: Sequence[str]) -> str:
    """sweep.md."""
    image = next((name for name in pictures if name.endswith((".svg", ".png"))), None)
    rows = [
        (f"[{cells[0]}]({row['folder']}/report.md)", *cells[1:])
        for row, cells in zip(table["circuits"], cells_of(table), strict=True)
    ]
    options = options_line(table["method"])
    sections = [
        f"# {what(table)}: {len(rows)} {PLURAL[size_of(table)]}",
        f"![Edges against KL]({image})" if image else "",
        markdown_table(columns(table), rows),
        f"KL(full || circuit) in nats; {baseline(table)}. {options}. Seconds are those of the search.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def baseline(table: dict[str, Any]) -> str:
    """The two runs that the circuits lie between, in one line."""
    full, ablated = table["metrics"]["full"], table["metrics"]["ablated"]
    differences = f"logit diff {show(full['logit-diff'])} full, {show(ablated['logit-diff'])} ablated"
    return f"everything ablated: KL {show(ablated['kl'])}; {differences}"


def cells_of(table: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table's rows as text, a cell for each of ``columns``."""
    block, of = _counted(table), size_of(table)
    return [
        (
            f"{row[of]:,}" if of in WHOLE else f"{row[of]:g}",
            f"{row['n_edges']:,}",
            f"{row['n_nodes']:,}",
            show(row["metrics"]["kl"]),
            show(row["metrics"]["logit-diff"]),
            "-" if row["faithfulness"] is None else f"{row['faithfulness']:.1%}",
            f"{row['metrics']['accuracy']:.0%}",
            f"{row[block][COUNTED[block][1]]:,}",
            f"{row['seconds']:.1f}",
        )
        for row in table["circuits"]
    ]
