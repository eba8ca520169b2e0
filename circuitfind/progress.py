"""The one way the library tells how far it is. The app decides what a terminal shows; the default
says nothing.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """What long work reports to. Every call returns at once and may be made often."""

    def stage(self, name: str) -> None:
        """A new stage begins, e.g. ``"loading smollm2-135m"``."""

    def update(self, done: float, total: float, note: str = "") -> None:
        """``done`` of ``total`` units of the present stage; ``note`` is shown beside the bar."""

    def warn(self, message: str) -> None:
        """Something the user must know, though the run goes on."""


class Silent:
    """Progress that goes nowhere."""

    def stage(self, name: str) -> None:
        pass

    def update(self, done: float, total: float, note: str = "") -> None:
        pass

    def warn(self, message: str) -> None:
        pass


SILENT = Silent()
