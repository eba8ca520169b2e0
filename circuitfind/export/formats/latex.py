r"""Text in LaTeX: every character as it is, in pdfLaTeX, LuaLaTeX and XeLaTeX, in any font and
encoding of theirs.

pdfLaTeX stops at a letter that it has no font for. Those that it has in every encoding are written
as they are, others as ``\letter{4E2D}``, which ``LETTER`` defines: the letter where engine and font
have it, else a question mark.
"""

from __future__ import annotations

import unicodedata

LETTER = r'\def\letter#1{\ifdefined\Uchar\iffontchar\font"#1 \Uchar"#1 \else?\fi\else?\fi}'
r"""Defines ``\letter``. ``\Uchar`` is what LuaLaTeX and XeLaTeX have and pdfLaTeX lacks."""

COMMANDS = {
    **{letter: "\\" + letter for letter in "{}$&#%_"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    '"': "{''}",  # no other is in every encoding, and in some languages of babel it is a command
    "\u2013": r"\textendash{}",
    "\u2014": r"\textemdash{}",
    "\u2018": r"\textquoteleft{}",
    "\u2019": r"\textquoteright{}",
    "\u201c": r"\textquotedblleft{}",
    "\u201d": r"\textquotedblright{}",
    "\u2026": r"\ldots{}",
    "\u2264": r"\ensuremath{\le}",
    "\u2265": r"\ensuremath{\ge}",
}
ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"
LETTERS = "ßæÆœŒøØłŁ"


def escape(text: str) -> str:
    r"""``text`` as LaTeX that shows it as it is, on one line.

    >>> escape("50% of a_b--c")
    '50\\% of a\\_b-{}-c'
    """
    whole = unicodedata.normalize("NFC", text)
    escaped = "".join(_escape(letter if letter.isprintable() else " ") for letter in whole)
    for twice in ("--", ",,"):  # which LaTeX makes a dash and a quote of
        while twice in escaped:
            escaped = escaped.replace(twice, f"{twice[0]}{{}}{twice[0]}")
    return escaped


def _escape(letter: str) -> str:
    if letter in COMMANDS:
        return COMMANDS[letter]
    if letter.isascii() or letter in LETTERS or _is_accented(letter):
        return letter
    return rf"\letter{{{ord(letter):X}}}"


def _is_accented(letter: str) -> bool:
    """Whether it is one of the letters with one accent that each encoding has."""
    parts = unicodedata.normalize("NFD", letter)
    return letter < "\u0180" and len(parts) == 2 and parts[0].isascii() and parts[1] in ACCENTS
