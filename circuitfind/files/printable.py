"""What was read from a file, as it may be printed: with no character that a terminal obeys.

A prompt, a name or an error message can hold an escape sequence that sets a terminal's title,
writes its clipboard or hides what stands before it, and marks that turn the writing direction make
a text look like another. Each such character is spelled out, as JSON spells it: ``\\u001b`` does
nothing, and a JSON document stays the same document.

A CI log obeys too: GitHub's runner takes a line that begins with ``::error``, or has ``##[``
anywhere, for a command. The first character of such a mark is spelled out likewise.

Every text goes through ``printable`` on its way out: the command line's stdout and stderr
(``cli/terminal.py``), pytest's report of circuits, IPython's line of one.
"""

from __future__ import annotations

import json
import re

_OBEYED = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")
"""C0 and C1 (ESC, OSC, CR, BEL ...) but tab and line feed, and what overrides or isolates the
writing direction.
"""
_COMMAND = re.compile(r"^\s*:(?=:)|#(?=#\[)", re.MULTILINE)
"""The marks of a workflow command in what ``_OBEYED`` leaves, at the start of a line or of what is
written at once.
"""


def printable(text: str) -> str:
    r"""The text with control characters spelled out.

    >>> printable("\x1b[31mred"), printable("tab\tstays\n")
    ('\\u001b[31mred', 'tab\tstays\n')
    """
    shown = _OBEYED.sub(lambda found: spell(found[0]), text)
    return _COMMAND.sub(lambda found: found[0][:-1] + spell(found[0][-1]), shown)


def encodable(text: str, encoding: str) -> str:
    r"""The text with the letters spelled out that the encoding lacks, and halves of characters.

    >>> encodable("caf\u00e9", "ascii")
    'caf\\u00e9'
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(letter if _has(encoding, letter) else spell(letter) for letter in text)
    return text


def spell(letter: str) -> str:
    """A letter as JSON spells it in ASCII."""
    return f"\\u{ord(letter):04x}" if letter <= "\uffff" else json.dumps(letter)[1:-1]


def _has(encoding: str, letter: str) -> bool:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
