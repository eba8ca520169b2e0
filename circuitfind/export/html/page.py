"""The page: one HTML file of template, style, scripts and data, that loads nothing and runs nothing else.

The data stand in a block that is no script, JSON in which <, > and & are spelled as escapes, so
that no text can end it or begin markup; the scripts show texts as text alone. A
Content-Security-Policy names the style and the script by their hashes and allows nothing besides:
nothing is fetched, whatever the data hold.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

from circuitfind.export.drawing.subject import Subject
from circuitfind.export.html.data import Page
from circuitfind.export.html.gather import gather
from circuitfind.files.printable import printable

FOLDER = Path(__file__).parent
SCRIPTS = (
    "dom",
    "data",
    "state",
    "layout",
    "draw",
    "graph",
    "pattern",
    "writes",
    "panel",
    "prompts",
    "curve",
    "known",
    "app",
)
"""In the order in which they are put together: each uses those before it."""
MADE_BY = '<meta name="generator" content="circuitfind">'


def circuit_to_html(subject: Subject) -> bytes:
    """The page of a circuit; the same bytes for the same subject. Raises as ``gather`` does."""
    return to_html(gather(subject))


def to_html(page: Page) -> bytes:
    """The page as a file: ASCII, so that no reader can take it for another encoding."""
    style, script = read("page.css"), join_scripts()
    parts = {
        "policy": policy(style, script),
        "made-by": MADE_BY,
        "title": html.escape(printable(page.title)),
        "subtitle": html.escape(printable(page.subtitle)),
        "style": style,
        "data": data_block(page.to_dict()),
        "script": script,
    }
    text = re.sub(r"\{\{([a-z-]+)\}\}", lambda mark: parts[mark[1]], read("template.html"))
    return text.encode("ascii", "xmlcharrefreplace")


def data_block(data: dict[str, Any]) -> str:
    r"""JSON that may stand in a script element: ASCII, without <, > and &.

    >>> data_block({"a": "</script>"})
    '{"a":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def join_scripts() -> str:
    """All scripts as one function that leaves nothing behind."""
    inner = "\n".join(read(f"scripts/{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{inner}}})();\n'


def policy(style: str, script: str) -> str:
    """What the page may load and run: this style and this script."""
    allowed = {"script-src": script, "style-src": style}
    hashes = [f"{name} 'sha256-{_sha256(text)}'" for name, text in allowed.items()]
    return "; ".join(
        ["default-src 'none'", *hashes, "img-src data:", "base-uri 'none'", "form-action 'none'"]
    )


def read(name: str) -> str:
    """One of the page's parts, without its line end."""
    return (FOLDER / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
