"""DOT text to SVG, PNG and PDF, with no system graphviz and no system fonts.

The ``dot`` program draws where it is on the PATH and can; elsewhere the libraries do that
pygraphviz's wheels carry. They run in a Python process of their own, because they write warnings
straight to stderr, read the font configuration from the environment once, and take the whole
process with them when they crash. The text is set in a font that is shipped here (fonts/, SIL Open
Font License), with the system's fonts behind it for letters that it lacks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

from circuitfind.errors import OutputError, UsageError, unknown
from circuitfind.export.drawing.text import FONT

PICTURE_FORMATS = ("pdf", "png", "svg")
SECONDS = 120  # far beyond the 2 s that the largest picture takes: a broken graphviz must not hang a run
PNG_DPI = 192  # twice a monitor's, so that small letters are sharp in print and on slides
_DATES = re.compile(
    rb"(/(?:Creation|Mod)Date \(D:)\d{14}"
)  # a PDF's; the same length in its place keeps it valid

# What the Python process runs: DOT on stdin, the picture on stdout, one line on stderr if it
# cannot.
_DRAW = """
import sys
try:
    import pygraphviz
    graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode("utf-8"))
    sys.stdout.buffer.write(graph.draw(format=sys.argv[1], prog=sys.argv[2], args=" ".join(sys.argv[3:])))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""

_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <cachedir>{folder}/cache</cachedir>
  <dir>{folder}</dir>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
</fontconfig>
"""


def render(dot: str, format: str) -> bytes:
    """The picture of ``dot`` as ``svg``, ``png`` or ``pdf``: the same bytes for the same text on one machine.

    Raises UsageError for another format and OutputError, with graphviz's reason, if it cannot be
    drawn.
    """
    if format not in PICTURE_FORMATS:
        raise UsageError(unknown("picture format", format, PICTURE_FORMATS))
    reasons = []
    for command in _commands(format):
        picture, reason = _run(command, dot)
        if picture:
            return picture
        reasons.append(reason)
    raise OutputError(
        f"Graphviz could not draw the {format}: {reasons[-1]}\nExport --format dot instead and draw it"
        " elsewhere."
    )


def _commands(format: str) -> list[list[str]]:
    """The ways to draw, best first."""
    dot = shutil.which("dot")
    resolution = [f"-Gdpi={PNG_DPI}"] if format == "png" else []
    own = [sys.executable, "-P", "-c", _DRAW, format, "nop2", *resolution]
    return [[dot, f"-T{format}", *resolution], own] if dot else [own]


def _run(command: list[str], dot: str) -> tuple[bytes, str]:
    """What the command draws (nothing if it fails) and why it failed."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(FONT, folder)  # a copy, because fontconfig leaves a file of its own beside every font
        config = Path(folder, "fonts.conf")
        config.write_text(_FONTS.format(folder=escape(folder)), encoding="utf-8")
        environment = {**os.environ, "FONTCONFIG_FILE": str(config), "SOURCE_DATE_EPOCH": "946684800"}
        try:
            done = subprocess.run(
                command, input=dot.encode(), capture_output=True, env=environment, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return b"", f"it took longer than {SECONDS} seconds."
        except OSError as error:
            return b"", f"{command[0]}: {error.strerror}."
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return b"", said[-1] if said else f"it ended with code {done.returncode}."
    return _DATES.sub(rb"\g<1>20000101000000", done.stdout), "it drew nothing."
