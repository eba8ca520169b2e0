"""Does a known circuit still hold? What is compared with what is stored, how far it may be off, and
the verdict.

Five things are looked at, each with a tolerance of its own:

- ``accuracy``: by how much the model may do the task worse than it did;
- ``faithfulness``: by how much the circuit's may have changed. A change to a value inside the
  interval that was stored with it, or stores inside the one that is measured now, is noise of the
  prompts and no failure;
- ``kl``: by how many nats the circuit's may have risen;
- ``jaccard``: what share of the edges of either circuit, the stored and the one that is found now,
  must be in both;
- ``heads``: what share of the stored circuit's heads must be found again.

A model that no longer does the task at all has no circuit to look for: that is said in place of the
rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from circuitfind.errors import UsageError, unknown

Status = Literal["holds", "drifted", "could not run"]
EXIT_CODES: Mapping[Status, int] = {"holds": 0, "drifted": 1, "could not run": 2}


@dataclass(frozen=True)
class Tolerances:
    """How far from what is stored each may be.

    ``jaccard`` and ``heads`` are the least shares; the others are the largest changes: ``accuracy``
    a share of the prompts, ``faithfulness`` a share of the metric's difference, ``kl`` in nats.
    """

    accuracy: float = 0.1
    faithfulness: float = 0.1
    kl: float = 0.1
    jaccard: float = 0.8
    heads: float = 0.9

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            is_number = (
                isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            )
            if not is_number or value < 0 or (name in ("accuracy", "jaccard", "heads") and value > 1):
                upper = "" if name in ("faithfulness", "kl") else " to 1"
                raise UsageError(
                    f"The tolerance of {name} is {value!r}; it must be a number from 0{upper or ' up'}."
                )

    def with_values(self, given: Mapping[str, Any]) -> Tolerances:
        """These with others in their place. Raises UsageError for one that there is not, or out of range."""
        names = [f.name for f in fields(self)]
        for name in given:
            if name not in names:
                raise UsageError(unknown("tolerance", name, names))
        return replace(self, **given)


def parse_tolerances(texts: Sequence[str]) -> dict[str, float]:
    """``jaccard=0.9,kl=0.05``, in one text or several. Raises UsageError for what is no NAME=NUMBER."""
    given: dict[str, float] = {}
    for text in (part for whole in texts for part in whole.split(",")):
        name, _, value = (part.strip() for part in text.partition("="))
        try:
            given[name.lower()] = float(value)
        except ValueError:
            raise UsageError(
                f"--tolerance is '{text}'; it must be NAME=NUMBER, e.g. --tolerance jaccard=0.9."
            ) from None
    return given


@dataclass(frozen=True)
class Finding:
    """One thing that was compared. ``holds``: it is within its tolerance; ``note``: why, where that
    is not plain.
    """

    name: str
    stored: float | None
    now: float | None
    tolerance: float
    holds: bool
    note: str = ""

    @property
    def line(self) -> str:
        """In a few words."""
        sign = ">=" if self.name in ("edges", "neurons", "heads") else "within"
        shown = (
            f"{self.name}: {_show(self.stored)} stored, {_show(self.now)} now ({sign} {self.tolerance:g})"
        )
        return f"{shown}; {self.note}" if self.note else shown


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


@dataclass(frozen=True)
class Verdict:
    """What became of one circuit. ``reason``: why it could not be run, or why the rest was not
    looked at; ``details``: what changed, most important first."""

    circuit: Path
    status: Status
    findings: tuple[Finding, ...] = ()
    details: tuple[str, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def drifted(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if not finding.holds)

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        if self.status == "holds":
            return f"{self.circuit}: holds"
        said = self.reason or "; ".join(finding.line for finding in self.drifted)
        return f"{self.circuit}: {self.status}: {said}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "circuit": str(self.circuit),
            "status": self.status,
            "reason": self.reason,
            "findings": [asdict(finding) for finding in self.findings],
            "details": list(self.details),
            "seconds": self.seconds,
            **({"diff": dict(self.report)} if self.report else {}),
        }


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """2 where one could not be run, else 1 where one has drifted, else 0."""
    return max((EXIT_CODES[verdict.status] for verdict in verdicts), default=0)


def falls_by(name: str, stored: float | None, now: float | None, tolerance: float) -> Finding:
    """Holds unless the number has fallen by more than the tolerance."""
    return Finding(
        name,
        stored,
        now,
        tolerance,
        _no_more(None if stored is None or now is None else stored - now, tolerance),
    )


def rises_by(name: str, stored: float | None, now: float | None, tolerance: float) -> Finding:
    """Holds unless the number has risen by more than the tolerance."""
    return Finding(
        name,
        stored,
        now,
        tolerance,
        _no_more(None if stored is None or now is None else now - stored, tolerance),
    )


def at_least(name: str, now: float, tolerance: float, note: str = "") -> Finding:
    """Holds where the share is the tolerance or more."""
    return Finding(name, 1.0, now, tolerance, now >= tolerance, note)


def stays(
    name: str,
    stored: float | None,
    now: float | None,
    tolerance: float,
    intervals: Sequence[tuple[tuple[float, float] | None, float | None]] = (),
) -> Finding:
    """Holds unless the number has moved by more than the tolerance, and that is more than noise.

    ``intervals``: pairs of a confidence interval and a number; a move is noise where each that
    there is holds its own.
    """
    if stored is None or now is None:
        return Finding(name, stored, now, tolerance, (stored is None) == (now is None))
    if abs(now - stored) <= tolerance:
        return Finding(name, stored, now, tolerance, True)
    known = [
        (interval, number)
        for interval, number in intervals
        if interval is not None and number is not None
    ]
    is_noise = bool(known) and all(low <= number <= high for (low, high), number in known)
    note = (
        f"inside its confidence interval, {known[0][0][0]:.3g} to {known[0][0][1]:.3g}"
        if is_noise
        else ""
    )
    return Finding(name, stored, now, tolerance, is_noise, note)


def _no_more(change: float | None, tolerance: float) -> bool:
    return change is None or change <= tolerance + 1e-12
