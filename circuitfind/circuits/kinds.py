"""The kinds of nodes that a graph has: one entry for each, from which its names follow everywhere.

A new kind is an entry of ``KINDS`` and a stage of ``Graph.stages``. How nodes of a kind are computed
is the engines' to know, how they are drawn the palette's (``export/drawing/style.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Slot = Literal["q", "k", "v"]
SLOTS: tuple[Slot, ...] = ("q", "k", "v")
KindName = Literal["input", "head", "mlp", "logits"]

_NUMBER = r"(0|[1-9]\d{0,8})"  # one spelling for each number: m01 would be a second name of m1


@dataclass(frozen=True)
class NodeKind:
    """What is told of a kind of node.

    ``spell``: a node's name from its layer and, where a layer has several, its number in it (below
    0: that of all of them at once, as a picture may show them). ``spelling`` matches the name, with
    a group for each number. ``slots``: where it reads the stream (None: at one input without a
    name); the input reads nowhere. ``noun``: one for people; they write an s behind it. ``unit``:
    the letter in the names of its neurons. ``paint``: the colour of its box, by the palette's name.
    ``reads``, ``writes``: TransformerLens's hooks within a block at what it reads (with a place for
    the slot) and at what it writes.
    """

    name: KindName
    noun: str
    spell: Callable[[int, int], str]
    spelling: str
    slots: tuple[Slot | None, ...]
    unit: str = ""
    paint: Literal["bar", "head", "mlp"] = "bar"
    reads: str = ""
    writes: str = ""

    @cached_property
    def n_numbers(self) -> int:
        """How many numbers a name has: none, the layer, or the layer and the number in it."""
        return self.spelling.count(_NUMBER)

    @cached_property
    def is_inner(self) -> bool:
        """Whether its nodes lie in the layers: they read and write, and have neurons."""
        return self.n_numbers > 0

    @cached_property
    def is_several(self) -> bool:
        """Whether a layer may have several, which are numbered."""
        return self.n_numbers > 1

    @property
    def likeness(self) -> str:
        """What matches every name, and others with numbers that none has."""
        return self.spelling.replace(_NUMBER, r"\d+")

    def read_hook(self, slot: Slot | None) -> str:
        """TransformerLens's hook at what it reads there."""
        return self.reads.format(slot=slot)


KINDS: dict[str, NodeKind] = {
    kind.name: kind
    for kind in (
        NodeKind("input", "input", lambda layer, number: "input", "input", ()),
        NodeKind(
            "head",
            "head",
            lambda layer, head: f"a{layer}.h{head}" if head >= 0 else f"a{layer}",
            rf"a{_NUMBER}\.h{_NUMBER}",
            SLOTS,
            unit="d",
            paint="head",
            reads="hook_{slot}_input",
            writes="attn.hook_result",
        ),
        NodeKind(
            "mlp",
            "MLP",
            lambda layer, number: f"m{layer}",
            rf"m{_NUMBER}",
            (None,),
            unit="n",
            paint="mlp",
            reads="hook_mlp_in",
            writes="hook_mlp_out",
        ),
        NodeKind("logits", "logits", lambda layer, number: "logits", "logits", (None,)),
    )
}
"""In forward order."""
INNER = tuple(kind for kind in KINDS.values() if kind.is_inner)
"""Those in the layers."""

_NODE = re.compile("|".join(f"(?P<{kind.name}>{kind.spelling})" for kind in KINDS.values()), re.ASCII)


def parse(name: str) -> tuple[NodeKind, int, int] | None:
    """The kind of the node of that name, its layer and its number in it, -1 where it has none; None
    of a name that no node can have.
    """
    match = _NODE.fullmatch(name)
    if match is None or match.lastindex is None:
        return None
    kind = KINDS[match.lastgroup or ""]
    numbers = match.groups()[match.lastindex : match.lastindex + kind.n_numbers]
    layer, number, *_ = (*map(int, numbers), -1, -1)
    return kind, layer, number


def node_examples() -> str:
    """A name of each kind of node.

    >>> node_examples()
    'input, a0.h1, m0 and logits'
    """
    return _listed(kind.spell(0, 1) for kind in KINDS.values())


def receiver_examples() -> str:
    """A name of each kind of receiver.

    >>> receiver_examples()
    'a0.h1<q>, a0.h1<k>, a0.h1<v>, m0 and logits'
    """
    return _listed(
        kind.spell(0, 1) + (f"<{slot}>" if slot else "") for kind in KINDS.values() for slot in kind.slots
    )


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}"
