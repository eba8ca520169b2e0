"""What the parts of a picture look like: colours that the colour-blind tell apart, and a line style each for print."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from circuitfind.graph import Edge

FONT = "Source Sans Pro,Helvetica,Arial,sans-serif"  # the first is shipped; a browser without it takes another
INK = "#333333"
STRIP = "#f5f5f5"
FULL = "#e69f00"  # of a node whose neurons weigh most; dark letters can be read on it


@dataclass(frozen=True)
class Stroke:
    """How an edge into one kind of receiver is drawn, and where on the receiver's underside it arrives (-1 to 1; None:
    anywhere)."""

    label: str
    colour: str
    style: str
    port: float | None


STROKES = {
    "q": Stroke("q", "#0072b2", "dashed", -0.55),
    "k": Stroke("k", "#d55e00", "dotted", 0.0),
    "v": Stroke("v", "#009e73", "solid", 0.55),
    "": Stroke("into MLP, logits", "#4d4d4d", "solid", None),
}

MARKS = {
    "both": Stroke("in both", "#b3b3b3", "solid", None),
    "lost": Stroke("lost", "#d55e00", "dashed", None),
    "gained": Stroke("gained", "#0072b2", "solid", None),
}
"""How an edge is drawn where two circuits are compared, whatever it enters."""

NODE_STYLES = {
    "input": 'style=filled, fillcolor="#333333", fontcolor=white',
    "head": 'style="filled,rounded", fillcolor=white',
    "mlp": 'style=filled, fillcolor="#f3e6c4"',
    "logits": 'style=filled, fillcolor="#333333", fontcolor=white',
}


def tint(faintest: float, share: float) -> str:
    """What fills a node: from the faintest, of a strength of 0, to the full colour."""
    opacity = faintest + (1 - faintest) * share
    return f"{FULL}{round(255 * opacity):02x}"


def stroke_of(edge: Edge) -> Stroke:
    """The stroke of the receiver that the edge enters."""
    return STROKES[edge.receiver.slot or ""]


@dataclass(frozen=True)
class Widths:
    """Line widths in points: from ``thinnest`` at score 0 to ``thickest`` at |score| = ``reference`` and beyond."""

    reference: float
    thinnest: float
    thickest: float

    def share(self, score: float) -> float:
        """How far between thinnest (0) and thickest (1)."""
        return min(1.0, math.sqrt(abs(score) / self.reference)) if self.reference else 0.0

    def width(self, score: float) -> float:
        return self.thinnest + (self.thickest - self.thinnest) * self.share(score)


def reference(scores: Iterable[float]) -> float:
    """The |score| drawn thickest: of the scores that aren't 0 the 95th percentile, to 1, 2 or 5 times a power of ten.

    0 where every score is 0.
    """
    sizes = sorted(abs(score) for score in scores if score)
    if not sizes:
        return 0.0
    high = sizes[math.ceil(0.95 * len(sizes)) - 1]
    power = math.floor(math.log10(high))
    steps = [float(f"{digit}e{power + shift}") for shift, digit in ((0, 1), (0, 2), (0, 5), (1, 1))]
    return min(steps, key=lambda step: abs(math.log(max(step, 5e-324) / high)))
