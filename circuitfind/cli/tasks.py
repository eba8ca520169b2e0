"""circuitfind tasks: the built-in tasks, what a task's prompts look like, and what is wrong with
one's own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core

from circuitfind.errors import UsageError
from circuitfind.prompts.files import builtin_tasks, check_task, load_task
from circuitfind.prompts.pairs import PromptPair, Task, Tokenizer

SHOWN = 5
BELOW_THE_BAR = 1


class ListByDefault(typer.core.TyperGroup):
    """The group of commands that lists when no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["list"])


app = typer.Typer(
    cls=ListByDefault,
    help="List tasks, show their prompts, check your own.",
    epilog="Example: circuitfind tasks show ioi",
)

TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK", help="A built-in task, a task file (.py, .yaml) or prompts (.jsonl, .csv)."
    ),
]
ModelName = Annotated[
    str | None, typer.Option("--model", "-m", help="The model whose tokenizer to use, e.g. smollm2-135m.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("list", epilog="Example: circuitfind tasks list --json")
def list_tasks(as_json: AsJson = False) -> None:
    """Show the built-in tasks: what each asks, its paper and its default metric."""
    tasks = [load_task(name) for name in builtin_tasks()]
    if as_json:
        _print_json({"tasks": [_record(task) for task in tasks]})
        return
    rows = [(task.name, task.title, task.metric, task.paper) for task in tasks]
    print(_aligned(rows) if sys.stdout.isatty() else "\n".join("\t".join(row) for row in rows))


@app.command(
    "show",
    no_args_is_help=True,
    epilog="Example: circuitfind tasks show ioi --model smollm2-135m --prompts 3",
)
def show(
    task: TaskName,
    model: ModelName = None,
    prompts: Annotated[
        int | None,
        typer.Option("--prompts", "-n", min=1, help=f"How many prompts to show; {SHOWN} if not given."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The seed that the prompts are made with.")] = 0,
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out", help="With --model: prompts of its other templates, on which evaluate judges."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a task: one pair as an example; with --model the prompts that a run with that model and
    seed uses.
    """
    if prompts is not None and model is None:
        raise UsageError(
            "--prompts needs --model: which prompts a task makes depends on the model's tokenizer."
        )
    loaded = load_task(task)
    if held_out and (model is None or loaded.elsewhere is None):
        raise UsageError(
            "--held-out needs --model."
            if model is None
            else f"The task '{loaded.name}' has no held-out templates."
        )
    loaded = (loaded.elsewhere or loaded) if held_out else loaded
    pairs = [] if model is None else _make(loaded, load_tokenizer_of(model), prompts or SHOWN, seed)
    if as_json:
        _print_json(_record(loaded) | {"prompts": [pair.to_dict() for pair in pairs]})
        return
    own = f"own metrics: {', '.join(loaded.metrics)}" if loaded.metrics else ""
    about = (loaded.title, loaded.paper, f"default metric: {loaded.metric}", own)
    print("\n".join((loaded.name, *filter(None, about))))
    for pair in pairs or [loaded.example]:
        print("\n" + _spell(pair))


@app.command(
    "check",
    no_args_is_help=True,
    epilog="Example: circuitfind tasks check prompts.jsonl --model smollm2-135m",
)
def check(file: TaskName, model: ModelName = None, as_json: AsJson = False) -> None:
    """Say what is wrong with a task or prompts file, one line a problem. Exits with 1 if anything is.

    Without --model the words alone are checked; with it their tokens too: that clean and corrupted
    are equally long and that right and wrong answers begin differently.
    """
    report = check_task(file, None if model is None else load_tokenizer_of(model))
    if as_json:
        _print_json(
            {
                "task": file,
                "model": model,
                "prompts": report.n_prompts,
                "tokens_checked": report.tokens_checked,
                "problems": list(report.problems),
            }
        )
    else:
        print("\n".join(report.problems or (f"{file}: nothing wrong ({report.n_prompts} checked).",)))
    if not report.tokens_checked:
        print("The tokens were not checked: give --model for that.", file=sys.stderr)
    if report.problems:
        raise typer.Exit(BELOW_THE_BAR)


def load_tokenizer_of(model: str) -> Tokenizer:
    """The model's tokenizer; what is fetched for it is told."""
    from circuitfind.cli.terminal import TerminalProgress
    from circuitfind.models.loading.load import load_tokenizer

    with TerminalProgress() as progress:
        return load_tokenizer(model, progress)


def _make(task: Task, tokenizer: Tokenizer, n_prompts: int, seed: int) -> list[PromptPair]:
    pairs = task.make(tokenizer, n_prompts, seed)
    if len(pairs) < n_prompts:
        print(f"warning: {n_prompts} prompts were asked for; there are {len(pairs)}.", file=sys.stderr)
    return pairs


def _record(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "title": task.title,
        "paper": task.paper,
        "metric": task.metric,
        **({"own_metrics": list(task.metrics)} if task.metrics else {}),
        "example": task.example.to_dict(),
    }


def _spell(pair: PromptPair) -> str:
    """The pair as four lines for a reader, or five; a prompt's own further lines are indented under
    its first.
    """
    rows = {
        "clean": pair.clean.replace("\n", "\n" + " " * 11),
        "corrupted": pair.corrupted.replace("\n", "\n" + " " * 11),
        "right": _listed(pair.answers),
        "wrong": _listed(pair.wrong_answers),
    }
    if pair.roles:
        rows["roles"] = " ".join(
            f"{role.name} '{pair.clean[role.start : role.end]}'" for role in pair.roles
        )
    return "\n".join(f"{title:<11}{text}" for title, text in rows.items())


def _listed(answers: Sequence[str], most: int = 8) -> str:
    shown = [f"'{answer}'" for answer in answers[:most]]
    return " ".join(shown) + (f" ... {len(answers)} in all" if len(answers) > most else "")


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False))
