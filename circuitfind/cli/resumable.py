"""Saves the state of long work on Ctrl-C or a signal, and tells how to resume it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def resumably(save: Callable[[], None], how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """Inside, a Ctrl-C saves what has been decided so far, and whatever ends the work tells how to
    go on with it.
    """
    from circuitfind.cli.interrupt import leaving_soon
    from circuitfind.cli.streams import say
    from circuitfind.files.printable import printable

    def last_words() -> str:
        save()
        return printable(how_to_go_on())

    with leaving_soon(last_words):
        try:
            yield
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                save()
            if said := how_to_go_on():
                say(said.rstrip("\n"))
            raise
