"""Silence for the loaders underneath, which print, log, warn and draw bars. What matters is raised,
not printed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that runs inside prints, logs, warns or draws a bar; all is as before afterwards.

    A progress bar of our own stays alive if it holds the stream it was made with.
    """
    void = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(void),
        contextlib.redirect_stderr(void),
        no_logs(),
        _no_bars(),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def no_logs() -> Iterator[None]:
    """Nothing that runs inside writes a log line."""
    level, handler = logging.root.manager.disable, logging.NullHandler()
    logging.disable(logging.CRITICAL)
    logging.root.addHandler(handler)  # else logging.warning() would install a handler on stderr for good
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
        logging.disable(level)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
