"""MIB's circuit track (arXiv:2504.13151): the models and tasks that it takes, their shapes, and its
budgets. No torch.

A submission has a folder for each task and model, ioi_gpt2, arc-easy_llama3, ..., with one file of
importances of all edges or nine circuits, one for each budget; of two models and two tasks at
least.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from circuitfind.circuits.graph import Graph
from circuitfind.errors import UsageError

BUDGETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Of all edges a circuit may have so many; the whole model, 1, needs no file."""
LEAST_MODELS = LEAST_TASKS = 2
IMPORTANCES = "importances"
"""The name of the file of all scores, as MIB's own code has it."""


@dataclass(frozen=True)
class MibModel:
    """``graph``: its shape, None where it is not known. ``names``: what it is called elsewhere, in
    lower case.
    """

    graph: Graph | None
    tasks: tuple[str, ...]
    names: tuple[str, ...] = ()


MODELS: Mapping[str, MibModel] = MappingProxyType(
    {
        "gpt2": MibModel(Graph(12, 12), ("ioi",), ("gpt2-small", "openai-community/gpt2")),
        "qwen2.5": MibModel(Graph(24, 14), ("ioi", "mcqa"), ("qwen/qwen2.5-0.5b", "qwen2.5-0.5b")),
        "gemma2": MibModel(
            Graph(26, 8), ("ioi", "mcqa", "arc-easy"), ("google/gemma-2-2b", "gemma-2-2b")
        ),
        "llama3": MibModel(
            Graph(32, 32),
            ("ioi", "mcqa", "arithmetic-addition", "arithmetic-subtraction", "arc-easy", "arc-challenge"),
            ("meta-llama/llama-3.1-8b", "llama-3.1-8b"),
        ),
        "interpbench": MibModel(None, ("ioi",)),
    }
)
TASKS = tuple(dict.fromkeys(task for model in MODELS.values() for task in model.tasks))


def folder_name(task: str | None, model: str | None) -> str:
    """The folder of a circuit of that task and model, by MIB's own names for them where it has some.

    >>> folder_name("arc_easy", "meta-llama/Llama-3.1-8B")
    'arc-easy_llama3'

    Raises UsageError where a circuit doesn't say.
    """
    if not task or not model:
        raise UsageError(
            "The circuit does not say its task and model. Name its folder, as in ioi_gpt2=RUN."
        )
    known = next((name for name, said in MODELS.items() if model.lower() in (name, *said.names)), None)
    return f"{task.replace('_', '-')}_{known or model.rpartition('/')[2]}"


def name_problems(name: str) -> list[str]:
    """What is wrong with a folder's name."""
    task, _, model = name.partition("_")
    if model not in MODELS:
        return [f"'{model}' is no model of MIB's: {', '.join(MODELS)}"]
    if task not in TASKS:
        return [f"'{task}' is no task of MIB's: {', '.join(TASKS)}"]
    tasks = MODELS[model].tasks
    return [] if task in tasks else [f"MIB has {model} on {', '.join(tasks)}, not on {task}"]


def shape_of(name: str) -> Graph | None:
    """The shape of the model that a folder is of, where it is known."""
    model = MODELS.get(name.partition("_")[2])
    return None if model is None else model.graph


def most_edges(graph: Graph, budget: float) -> int:
    """How many edges a circuit of that budget may have."""
    return int(budget * graph.n_edges)
