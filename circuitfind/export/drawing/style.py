"""What the parts of a picture look like: colours that the colour-blind tell apart, and a line style
each for print.

A ``Palette`` is one way for a picture to look, and ``PALETTES`` has them by name: ``paper`` on
white, calm, for print; ``screen`` on a dark ground, bright, for slides and monitors. In both, edges
into q, k and v differ in colour and in line style, and those of one line style differ in lightness.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from circuitfind.circuits.graph import Edge
from circuitfind.circuits.kinds import KINDS
from circuitfind.errors import UsageError, unknown

FONT = (  # the first is shipped; a browser without it takes another
    "Source Sans Pro,Helvetica,Arial,sans-serif"
)
INK = "#333333"


@dataclass(frozen=True)
class Stroke:
    """How an edge into one kind of receiver is drawn, and where on the receiver's underside it
    arrives (-1 to 1; None: anywhere)."""

    label: str
    colour: str
    style: str
    port: float | None = None


STROKES = {
    "q": Stroke("q", "#0072b2", "dashed", -0.55),
    "k": Stroke("k", "#d55e00", "dotted", 0.0),
    "v": Stroke("v", "#009e73", "solid", 0.55),
    "head": Stroke("into heads", "#3d8fc9", "solid"),
    "": Stroke("into MLP, logits", "#4d4d4d", "solid"),
}
"""By the receiver's slot; ``head``: an edge that stands for those into a head's q, k and v."""

MARKS = {
    "both": Stroke("in both", "#b3b3b3", "solid"),
    "lost": Stroke("lost", "#d55e00", "dashed"),
    "gained": Stroke("gained", "#0072b2", "solid"),
    "common": Stroke("common", "#0072b2", "solid"),
    "missing": Stroke("missing", "#d55e00", "dashed"),
    "extra": Stroke("extra", "#b3b3b3", "solid"),
}
"""How an edge is drawn where two circuits are compared, whatever it enters: what is new stands out
where one circuit follows another, what is known where one is held against a known one."""


@dataclass(frozen=True)
class Paint:
    """How a node is drawn. ``border``: solid or dashed; ``width``: the border's, in points."""

    fill: str
    ink: str
    line: str
    border: str = "solid"
    width: float = 0.8
    rounded: bool = False


@dataclass(frozen=True)
class Palette:
    """The colours of a picture. ``bar``: of input and logits; ``roles``: of nodes with a role, in
    the order of the legend; ``full``: of the node whose neurons weigh most."""

    ground: str
    ink: str
    faint: str
    strip: str
    link: str
    bar: Paint
    head: Paint
    mlp: Paint
    roles: tuple[str, ...]
    role_ink: str
    full: str
    strokes: Mapping[str, Stroke]
    marks: Mapping[str, Stroke]

    def paint(self, kind: str) -> Paint:
        """Of a node of that kind of which nothing more is known."""
        return {"bar": self.bar, "head": self.head, "mlp": self.mlp}[KINDS[kind].paint]

    def marked(self, paint: Paint, mark: str) -> Paint:
        """The paint of a node so marked: what both circuits have has a thick border, what is not
        there an empty box with a broken one."""
        stroke = self.marks[mark]
        if stroke.style == "dashed":
            return replace(
                paint, fill=self.ground, ink=self.faint, line=stroke.colour, border="dashed", width=1.4
            )
        return replace(paint, width=2.6) if mark in ("both", "common") else paint

    def tint(self, faintest: float, share: float) -> str:
        """What fills a node whose neurons weigh so much: from the faintest, at 0, to the full colour."""
        return fade(self.full, faintest + (1 - faintest) * share)


def fade(colour: str, opacity: float) -> str:
    """The colour with an opacity of 0 to 1, as #rrggbbaa."""
    return f"{colour}{round(255 * opacity):02x}"


def _recolour(strokes: Mapping[str, Stroke], colours: Mapping[str, str]) -> dict[str, Stroke]:
    return {name: replace(stroke, colour=colours[name]) for name, stroke in strokes.items()}


PAPER = Palette(
    ground="#ffffff",
    ink=INK,
    faint="#757575",
    strip="#f5f5f5",
    link="#b8a9c9",
    bar=Paint(INK, "#ffffff", INK),
    head=Paint("#ffffff", "#000000", INK, rounded=True),
    mlp=Paint("#f3e6c4", "#000000", INK),
    # Of Paul Tol's "light" scheme, made to be told apart under black text by any eye:
    # https://sronpersonalpages.nl/~pault
    roles=("#77aadd", "#ee8866", "#44bb99", "#ffaabb", "#bbcc33", "#99ddff", "#aaaa00", "#dddddd"),
    role_ink="#000000",
    full="#e69f00",
    strokes=STROKES,
    marks=MARKS,
)

SCREEN = Palette(
    ground="#14171c",
    ink="#eceff3",
    faint="#98a2af",
    strip="#1e232a",
    link="#8a78b0",
    bar=Paint("#eceff3", "#14171c", "#eceff3"),
    head=Paint("#2a313b", "#ffffff", "#98a2af", rounded=True),
    mlp=Paint("#54482a", "#ffffff", "#c9a94f"),
    roles=("#7cc4ff", "#ff9d76", "#4fdcb0", "#ffb3c4", "#d3e34a", "#b5ecff", "#c9c92e", "#e4e4e4"),
    role_ink="#0c0e11",
    full="#9a6a00",
    strokes=_recolour(
        STROKES, {"q": "#56b4ff", "k": "#ffa64d", "v": "#3df0b5", "head": "#9fd8ff", "": "#8f9aa8"}
    ),
    marks=_recolour(
        MARKS,
        {"both": "#6b7683", "lost": "#ffa64d", "gained": "#56c4ff"}
        | {"common": "#56c4ff", "missing": "#ffa64d", "extra": "#6b7683"},
    ),
)

PALETTES: Mapping[str, Palette] = {"paper": PAPER, "screen": SCREEN}


def find_palette(name: str) -> Palette:
    """The palette of that name. Raises UsageError, suggesting the nearest, if there is none."""
    if name not in PALETTES:
        raise UsageError(unknown("style", name, PALETTES))
    return PALETTES[name]


def kind_of(edge: Edge) -> str:
    """The key of the edge's stroke: its receiver's slot, or ``head`` for one into a head as a whole."""
    return edge.receiver.slot or ("head" if len(edge.receiver.node.of_kind.slots) > 1 else "")


@dataclass(frozen=True)
class Widths:
    """Line widths in points: from ``thinnest`` at score 0 to ``thickest`` at |score| =
    ``reference`` and beyond.
    """

    reference: float
    thinnest: float
    thickest: float

    def share(self, score: float) -> float:
        """How far between thinnest (0) and thickest (1)."""
        return min(1.0, math.sqrt(abs(score) / self.reference)) if self.reference else 0.0

    def width(self, score: float) -> float:
        return self.thinnest + (self.thickest - self.thinnest) * self.share(score)


def reference(scores: Iterable[float]) -> float:
    """The |score| drawn thickest: of the scores that aren't 0 the 95th percentile, to 1, 2 or 5
    times a power of ten.

    0 where every score is 0.
    """
    sizes = sorted(abs(score) for score in scores if score)
    if not sizes:
        return 0.0
    high = sizes[math.ceil(0.95 * len(sizes)) - 1]
    power = math.floor(math.log10(high))
    steps = [float(f"{digit}e{power + shift}") for shift, digit in ((0, 1), (0, 2), (0, 5), (1, 1))]
    return min(steps, key=lambda step: abs(math.log(max(step, 5e-324) / high)))
