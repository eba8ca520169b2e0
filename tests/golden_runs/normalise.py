"""What a run left, without that in which the next run of the same differs: times, memory, versions, places, processor.

All of it is done on the text, so that the layout of a file, and what stands in a page or on the screen, is held too.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

TEXTS = (".json", ".md", ".txt", ".html", ".xml")
CHANGING = (
    (r'("(?:timings|versions)": ?)\{[^{}]*\}', r"\1{...}"),
    (r'("(?:seconds|peak_memory_bytes|threads|circuitfind)": ?)[^,\n}]+', r"\1..."),
    (r'("(?:platform|task_file_sha256)": ?)"[^"]*"', r"\1..."),  # a built-in task's file names modules
    (r"(?m)^(\| (?:wall time|peak memory|versions) \|).*", r"\1 ... |"),
    (r"\b\d+(?:\.\d+)? s\b", "... s"),
    (r'\btime="[\d.]+"', 'time="..."'),
)


def normalise(path: Path, workplace: Path, root: Path) -> bytes:
    """The bytes of a file that have to stay the same. ``root`` is where circuitfind lies."""
    if path.suffix not in TEXTS:
        return path.read_bytes()
    text = without_hashes(path.read_text(), path.parent)
    for place in (workplace, root):
        text = re.sub(rf"{re.escape(str(place))}/(?:[\w.-]+/)*", ".../", text)
    for pattern, instead in CHANGING:
        text = re.sub(pattern, instead, text)
    return "".join(without_seconds(text.splitlines(keepends=True))).encode()


def without_hashes(text: str, folder: Path) -> str:
    """A record names the hash of each file beside it: whether they are right is all that counts."""
    for path in folder.iterdir():
        if path.is_file():
            text = text.replace(hashlib.sha256(path.read_bytes()).hexdigest(), f"sha256 of {path.name}")
    return text


def without_seconds(lines: list[str]) -> list[str]:
    """Tables whose last column is one of seconds, without it."""
    result, in_table = [], False
    for line in lines:
        in_table = line.rstrip(" |\n").endswith("seconds") or (
            in_table and bool(re.search(r"[\d-][ |]*$", line))
        )
        result.append(re.sub(r" [\d.]+( \|)?$", r" ...\1", line) if in_table else line)
    return result
