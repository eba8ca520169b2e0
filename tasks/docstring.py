r"""The next parameter of a docstring: which name of the definition does the third ``:param`` document?

    clean      def send(self, path, size, color, limit, state):
                   \"""river table

                   :param path: green window
                   :param size: paper morning
                   :param
               -> " color", not " path", " size", " limit" or " state"
    corrupted  the same text with five other names in the definition and two others in the ``:param``
               lines

The model must find the name that stands after the last documented one in the definition. In the
corrupted prompt the documented names are not in the definition and neither holds the answer, so
that it can't be known.

Roles: A_def to E_def, the names of the definition (the answer is C_def); A_doc and B_doc, the
documented ones. The last token is END.

Paper: Heimersheim and Janiak, "A circuit for Python docstrings in a 4-layer attention-only
transformer", 2023, https://www.lesswrong.com/posts/u6KXXmKFbXfWzoAXn. Default metric: kl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from circuitfind.errors import TaskError
from circuitfind.prompts import PromptPair, Role, Task, Tokenizer, draw_distinct, is_single_token, words

FUNCTIONS = words(
    "build call check create draw find load merge open parse print read save send show start test update"
)
PARAMETERS = words(
    """
    action address amount angle base body cache case child client code color column command config
    content count data date default depth device end error event field file filter first flag format
    group handle head height host id image index input item key label language last left length
    level limit line list map mask max message method min mode model name node number object offset
    option order output owner page parent password path pattern point port position prefix query
    range rate request result right role root row scale score section seed shape size source speed
    start state status step string style tag target task text time title token total type unit url
    user value version weight width window word
    """
)
WORDS = words(
    """
    apple autumn bird bread bridge cloud coffee desert dinner dream engine evening forest garden
    glass gold green island kitchen lake mirror moon morning mountain music ocean paper river road
    salt shadow silver snow stone storm summer table tower train valley village wind winter yellow
    """
)
N_PARAMETERS = 5  # in the definition
LETTERS = "ABCDE"  # what the paper calls them, in their order; the third is asked for
N_DOCUMENTED = 2  # in the docstring, before the one asked for


@dataclass(frozen=True)
class Style:
    """How a function is begun, and what stands before the name of a documented parameter."""

    function: str
    marker: str


STYLE = Style("def", ":param")
HELD_OUT = (Style("def", "@param"), Style("async def", ":param"), Style("def", ":arg"))
"""Epytext's marker, a coroutine, and Sphinx's other marker."""


def make(tokenizer: Tokenizer, n_prompts: int, seed: int) -> list[PromptPair]:
    """``n_prompts`` different pairs. Raises TaskError where too few parameter names are one token."""
    return make_from((STYLE,), tokenizer, n_prompts, f"docstring {seed}")


def make_held_out(tokenizer: Tokenizer, n_prompts: int, seed: int) -> list[PromptPair]:
    """The same in other styles."""
    return make_from(HELD_OUT, tokenizer, n_prompts, f"docstring held out {seed}")


def make_from(
    styles: Sequence[Style], tokenizer: Tokenizer, n_prompts: int, seed: str
) -> list[PromptPair]:
    """Pairs in these styles."""
    names = [name for name in PARAMETERS if is_single_token(tokenizer, f" {name}")]
    needed = 2 * N_PARAMETERS + N_DOCUMENTED
    if len(names) < needed:
        raise TaskError(
            f"docstring needs {needed} parameter names that are one token each; "
            f"this tokenizer has {len(names)}. Use another model."
        )

    def draw(rng: Random, index: int) -> PromptPair | None:
        function, plain = rng.choice(FUNCTIONS), rng.sample(WORDS, 2 + 2 * N_DOCUMENTED)
        drawn = rng.sample(names, needed)
        defined, others, documented = (
            drawn[:N_PARAMETERS],
            drawn[N_PARAMETERS:-N_DOCUMENTED],
            drawn[-N_DOCUMENTED:],
        )
        style = styles[0] if len(styles) == 1 else rng.choice(styles)
        clean = spell(function, defined, defined[:N_DOCUMENTED], plain, style)
        corrupted = spell(function, others, documented, plain, style)
        if len(tokenizer.encode(clean)) != len(tokenizer.encode(corrupted)):
            return None
        answer, wrong = defined[N_DOCUMENTED], [*defined[:N_DOCUMENTED], *defined[N_DOCUMENTED + 1 :]]
        roles = name_roles(clean, defined, style)
        return PromptPair(clean, corrupted, (f" {answer}",), tuple(f" {name}" for name in wrong), roles)

    return draw_distinct(draw, n_prompts, seed)


def name_roles(text: str, defined: Sequence[str], style: Style = STYLE) -> tuple[Role, ...]:
    """The names of the definition, A_def and on, and those that are documented, A_doc and on."""
    roles, place = [], text.index("(self, ")
    for letter, name in zip(LETTERS, defined, strict=True):
        place = text.index(f" {name}", place) + 1
        roles.append(Role(f"{letter}_def", place, place + len(name)))
        place += len(name)
    for letter, name in zip(LETTERS, defined[:N_DOCUMENTED], strict=False):
        place = text.index(f"{style.marker} {name}:", place) + len(f"{style.marker} ")
        roles.append(Role(f"{letter}_doc", place, place + len(name)))
    return tuple(roles)


def spell(
    function: str,
    defined: Sequence[str],
    documented: Sequence[str],
    plain: Sequence[str],
    style: Style = STYLE,
) -> str:
    """The text up to the ``:param`` that asks; ``plain`` gives two words for the summary and for
    each parameter.
    """
    pairs = [f"{first} {second}" for first, second in zip(plain[::2], plain[1::2], strict=True)]
    lines = [
        f"    {style.marker} {name}: {text}" for name, text in zip(documented, pairs[1:], strict=True)
    ]
    head = f'{style.function} {function}(self, {", ".join(defined)}):\n    """{pairs[0]}\n\n'
    return "\n".join([head + lines[0], *lines[1:], f"    {style.marker}"])


EXAMPLE_NAMES = words("path size color limit state data host label mode title index width")
EXAMPLE_WORDS = words("river table green window paper morning")
EXAMPLE = spell("send", EXAMPLE_NAMES[:5], EXAMPLE_NAMES[:2], EXAMPLE_WORDS)
TASK = Task(
    name="docstring",
    title="The next parameter of a docstring",
    paper="https://www.lesswrong.com/posts/u6KXXmKFbXfWzoAXn",
    metric="kl",
    example=PromptPair(
        EXAMPLE,
        spell("send", EXAMPLE_NAMES[5:10], EXAMPLE_NAMES[10:], EXAMPLE_WORDS),
        (" color",),
        (" path", " size", " limit", " state"),
        name_roles(EXAMPLE, EXAMPLE_NAMES[:5]),
    ),
    make=make,
    held_out=make_held_out,
)
