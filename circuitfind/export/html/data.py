"""What a page shows, as plain values: no torch. ``to_dict`` is what the page's scripts read
(``scripts/data.js``).

Observations are what a model's runs on some prompt pairs showed (``circuitfind/runs/observe.py``
makes them); a page can be made without.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from circuitfind.circuits.graph import Edge, Node

DIGITS = 5
"""Significant digits of a number on the page."""


def short(value: float | None) -> float | None:
    """A number to DIGITS significant digits, None as it is.

    >>> short(0.123456789)
    0.12346
    """
    return None if value is None else float(f"{value:.{DIGITS}g}")


@dataclass(frozen=True)
class Prediction:
    """What one run says follows one prompt. ``top``: the likeliest tokens with their probabilities;
    ``answer`` and ``wrong``: the summed probabilities of the right and wrong answers;
    ``logit_diff`` in logits."""

    top: tuple[tuple[str, float], ...]
    answer: float
    wrong: float | None
    logit_diff: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "top": [[text, short(share)] for text, share in self.top],
            "answer": short(self.answer),
            "wrong": short(self.wrong),
            "diff": short(self.logit_diff),
        }


@dataclass(frozen=True)
class Prompt:
    """A prompt pair as its tokens' texts, and what the model says of clean, the circuit of clean,
    and the model of corrupted. Without a model's runs ``tokens`` are empty and the texts stand
    alone."""

    clean: str
    corrupted: str
    answers: tuple[str, ...]
    wrong_answers: tuple[str, ...]
    clean_tokens: tuple[str, ...] = ()
    corrupted_tokens: tuple[str, ...] = ()
    predictions: Mapping[str, Prediction] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "clean": self.clean,
            "corrupted": self.corrupted,
            "answers": list(self.answers),
            "wrong": list(self.wrong_answers),
        }
        if self.predictions:
            plain["predictions"] = {name: each.to_dict() for name, each in self.predictions.items()}
        return plain


@dataclass(frozen=True)
class Written:
    """What one sender adds to the logits of the right and wrong answers, in logits above the mean
    over the vocabulary, in the clean and in the corrupted run; ``wrong`` None where there are no
    wrong answers."""

    answer: tuple[float, float]
    wrong: tuple[float, float] | None

    def to_list(self) -> list[float | None]:
        """Answer and wrong answer in the clean run, then in the corrupted one."""
        wrong = self.wrong or (None, None)
        return [short(value) for run in (0, 1) for value in (self.answer[run], wrong[run])]


@dataclass(frozen=True)
class Pattern:
    """A head's attention on one prompt pair, in the clean and in the corrupted run: the lower
    triangle [query, key] row by row, a byte for each: 255 times the attention, rounded."""

    clean: bytes
    corrupted: bytes

    @property
    def size(self) -> int:
        """Its characters in the page."""
        return sum(4 * ((len(part) + 2) // 3) for part in (self.clean, self.corrupted))

    def to_list(self) -> list[str]:
        return [base64.b64encode(part).decode() for part in (self.clean, self.corrupted)]


@dataclass(frozen=True)
class Observations:
    """``prompts``: all pairs that were run; of the first ``n_pairs`` of them ``patterns`` of heads
    and what senders ``writes``. ``rest``: what position embeddings and output biases write
    together, which are no sender's; ``logits``: what all of it comes to. ``curve``: as in an
    evaluation's report.json."""

    prompts: tuple[Prompt, ...]
    n_pairs: int
    patterns: Mapping[Node, tuple[Pattern, ...]]
    writes: Mapping[Node, tuple[Written, ...]]
    rest: tuple[Written, ...]
    logits: tuple[Written, ...]
    curve: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sureness:
    """Of one edge or neuron: the confidence interval of its score and its inclusion probability."""

    lower: float
    upper: float
    inclusion: float


@dataclass(frozen=True)
class Neurons:
    """The kept neurons of a circuit at neuron level, the strongest first; ``widths``: how many each
    node has in all.
    """

    nodes: tuple[Node, ...]
    indices: tuple[int, ...]
    scores: tuple[float, ...]
    widths: Mapping[Node, int]
    sureness: tuple[Sureness, ...] = ()


@dataclass(frozen=True)
class Page:
    """``edges``: the strongest first, with their scores. ``nodes``: all that the page speaks of, in
    forward order; ``roles`` what a published circuit says they do, ``tables``: rows of text.
    ``known``: a comparison as ``KnownComparison.to_dict`` gives it, with ``missing`` edges."""

    title: str
    subtitle: str
    graph: Mapping[str, Any]
    nodes: tuple[Node, ...]
    edges: tuple[tuple[Edge, float], ...]
    roles: Mapping[Node, str]
    n_edges: int
    level: str
    summary: tuple[tuple[str, str], ...]
    evidence: tuple[tuple[str, ...], ...]
    method: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    sureness: tuple[Sureness, ...] = ()
    sureness_level: float | None = None
    neurons: Neurons | None = None
    observations: Observations | None = None
    curve: Mapping[str, Any] | None = None
    point: Mapping[str, Any] | None = None
    sweep: tuple[Mapping[str, Any], ...] = ()
    known: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        place = {node: number for number, node in enumerate(self.nodes)}
        return {
            "title": self.title,
            "subtitle": self.subtitle,
            "graph": dict(self.graph),
            "nodes": [
                [str(node), node.kind, node.layer, node.head, self.roles.get(node)] for node in self.nodes
            ],
            "edges": self._edges(place),
            "nEdges": self.n_edges,
            "level": self.level,
            "neurons": None if self.neurons is None else _neurons(self.neurons, place),
            "surenessLevel": self.sureness_level,
            "summary": _rows(self.summary),
            "evidence": _rows(self.evidence),
            "method": _rows(self.method),
            "notes": list(self.notes),
            "prompts": [prompt.to_dict() for prompt in self.prompts],
            "observations": None if self.observations is None else _observed(self.observations, place),
            "curve": None if self.curve is None else dict(self.curve),
            "point": None if self.point is None else dict(self.point),
            "sweep": [dict(point) for point in self.sweep],
            "known": None if self.known is None else dict(self.known),
        }

    def _edges(self, place: Mapping[Node, int]) -> dict[str, Any]:
        """A list for each property, all in one order."""
        roles = {role: number for number, role in enumerate(self.graph["roles"])}
        edges = [edge for edge, _ in self.edges]
        return {
            "from": [place[edge.sender] for edge in edges],
            "to": [place[edge.receiver.node] for edge in edges],
            "slot": "".join(edge.receiver.slot or "-" for edge in edges),
            "score": [short(score) for _, score in self.edges],
            **(
                {"role": [roles.get(edge.receiver.role or "", len(roles) - 1) for edge in edges]}
                if roles
                else {}
            ),
            **_sure(self.sureness),
        }


def _rows(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [list(row) for row in rows]


def _sure(sureness: Sequence[Sureness]) -> dict[str, Any]:
    names = ("lower", "upper", "inclusion")
    return {name: [short(getattr(each, name)) for each in sureness] for name in names} if sureness else {}


def _neurons(neurons: Neurons, place: Mapping[Node, int]) -> dict[str, Any]:
    return {
        "node": [place[node] for node in neurons.nodes],
        "index": list(neurons.indices),
        "score": [short(score) for score in neurons.scores],
        "widths": {str(place[node]): width for node, width in neurons.widths.items()},
        **_sure(neurons.sureness),
    }


def _observed(observed: Observations, place: Mapping[Node, int]) -> dict[str, Any]:
    """What was observed of the nodes on the page."""
    return {
        "pairs": [
            {"clean": list(prompt.clean_tokens), "corrupted": list(prompt.corrupted_tokens)}
            for prompt in observed.prompts[: observed.n_pairs]
        ],
        "patterns": {
            str(place[node]): [pattern.to_list() for pattern in patterns]
            for node, patterns in observed.patterns.items()
            if node in place
        },
        "writes": {
            str(place[node]): [written.to_list() for written in writes]
            for node, writes in observed.writes.items()
            if node in place
        },
        "rest": [written.to_list() for written in observed.rest],
        "logits": [written.to_list() for written in observed.logits],
    }


DEFAULT_PAIRS = 4
