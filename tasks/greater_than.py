"""Greater-than: a span of years must end after it began.

    clean      The voyage lasted from the year 1732 to the year 17     -> "33" to "99", not "01" to
    "32" corrupted  The voyage lasted from the year 1701 to the year 17

From 1701 on nearly every year of the century is possible, so that the corrupted prompt asks for no
lower bound.

The answers are the tokens that this tokenizer really makes of years, found by tokenising them. The
prompt ends where the years of a century part: after the century for two digits a token (GPT-2) and
one digit a token (Gemma, Qwen, SmolLM2: "4" to "9", not "0" to "2"), before it for three digits a
token (Llama 3: "174" to "179", not "170" to "172"). A token is right if every year that it begins
is later than the first year, and wrong if none is; one that begins both (here "3" and "173") is
left out. First years that leave no right or no wrong answer are never asked, nor are years and
centuries that the tokenizer splits differently from the rest.

Roles: NOUN, what lasted; XX and YY, the century of the first year and the year in it. The last
token is END. Where one token holds digits of both (Llama 3: "173") it is XX's.

Paper: Hanna et al., "How does GPT-2 compute greater-than?", arXiv:2305.00586. Default metric: kl
(the paper's own is prob-diff).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from circuitfind.errors import TaskError
from circuitfind.prompts import (
    PromptPair,
    Role,
    Task,
    Tokenizer,
    draw_distinct,
    fill,
    is_single_token,
    words,
)

TEMPLATE = "The {noun} lasted from the year {year} to the year{shown}"
HELD_OUT = (
    "The {noun} began in the year {year} and came to its end in the year{shown}",
    "Begun in the year {year}, the {noun} was over in the year{shown}",
    "It is known that the {noun} of the year {year} did not end before the year{shown}",
)
"""As TEMPLATE they end with "the year": the years after it are split alike."""
NOUNS = words(
    """
    alliance battle blockade boycott building campaign conflict construction contract crisis debate
    dispute drought dynasty embargo empire epidemic expansion expedition exploration famine
    friendship invasion journey marriage migration mission occupation partnership peace pilgrimage
    plague project rebellion reform reign restoration rule siege strike struggle tour trade treaty
    trial uprising voyage war work
    """
)
CENTURIES = range(11, 20)
MOST = 90  # years of a century that must be split alike for the century to be used


@dataclass(frozen=True)
class Century:
    """How a tokenizer splits the years of a century: ``shown`` belongs to the prompt, an answer follows.

    ``years`` has, for each answer of one token, the years that it begins.
    """

    number: int
    shown: str
    years: Mapping[str, tuple[int, ...]]

    def answers(self, first: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The right and the wrong answers for a span from the year ``first`` on."""
        right = tuple(answer for answer, years in self.years.items() if min(years) > first)
        wrong = tuple(answer for answer, years in self.years.items() if max(years) <= first)
        return right, wrong

    def first_years(self) -> list[int]:
        """The years with both a right and a wrong answer."""
        years = sorted(year for begun in self.years.values() for year in begun)
        return [year for year in years if year % 100 > 1 and all(self.answers(year))]


def make(tokenizer: Tokenizer, n_prompts: int, seed: int) -> list[PromptPair]:
    """``n_prompts`` different pairs. Raises TaskError where the tokenizer splits no century's years
    regularly.
    """
    return make_from((TEMPLATE,), tokenizer, n_prompts, f"greater-than {seed}")


def make_held_out(tokenizer: Tokenizer, n_prompts: int, seed: int) -> list[PromptPair]:
    """The same from other templates."""
    return make_from(HELD_OUT, tokenizer, n_prompts, f"greater-than held out {seed}")


def make_from(
    templates: Sequence[str], tokenizer: Tokenizer, n_prompts: int, seed: str
) -> list[PromptPair]:
    """Pairs from these templates."""
    spans = [(century, first) for century in centuries(tokenizer) for first in century.first_years()]
    if not spans:
        raise TaskError(
            "greater-than needs years that are split into tokens regularly; this tokenizer has none. "
            "Use another model."
        )

    def draw(rng: Random, index: int) -> PromptPair | None:
        noun, (century, first) = rng.choice(NOUNS), rng.choice(spans)
        template = templates[0] if len(templates) == 1 else rng.choice(templates)
        clean, places = fill(template, noun=noun, year=str(first), shown=century.shown)
        corrupted = template.format(noun=noun, year=century.number * 100 + 1, shown=century.shown)
        if len(tokenizer.encode(clean)) != len(tokenizer.encode(corrupted)):
            return None
        return PromptPair(
            clean, corrupted, *century.answers(first), name_roles(*places["noun"], *places["year"])
        )

    return draw_distinct(draw, n_prompts, seed)


def name_roles(noun: int, noun_end: int, year: int, year_end: int) -> tuple[Role, ...]:
    """The noun, and of the first year the century and what follows it."""
    return Role("NOUN", noun, noun_end), Role("XX", year, year + 2), Role("YY", year + 2, year_end)


def centuries(tokenizer: Tokenizer) -> list[Century]:
    """The centuries whose years share the longest text before they part: those that are split alike."""
    found = [century for number in CENTURIES if (century := split_century(tokenizer, number))]
    longest = max((len(century.shown) for century in found), default=0)
    return [century for century in found if len(century.shown) == longest]


def split_century(tokenizer: Tokenizer, number: int) -> Century | None:
    """The century as the tokenizer splits its years; None where it splits too many differently."""
    stem = TEMPLATE.format(noun=NOUNS[0], year=number * 100 + 1, shown="")
    for shown in (f" {number}", f" {number // 10}", " ", ""):
        years: dict[str, tuple[int, ...]] = {}
        for year in range(number * 100, number * 100 + 100):
            answer = first_answer(tokenizer, stem + shown, f" {year}".removeprefix(shown))
            if answer:
                years[answer] = (*years.get(answer, ()), year)
        if sum(map(len, years.values())) >= MOST and len(years) > 1:
            return Century(number, shown, years)
    return None


def first_answer(tokenizer: Tokenizer, prompt: str, rest: str) -> str | None:
    """The start of ``rest`` that is the next token when both texts are tokenised as one; None if no
    start is.
    """
    before, whole = tokenizer.encode(prompt), tokenizer.encode(prompt + rest)
    if whole[: len(before)] != before:
        return None
    starts = (rest[:length] for length in range(1, len(rest) + 1))
    token = whole[len(before) : len(before) + 1]
    return next(
        (s for s in starts if tokenizer.continuation(s) == token and is_single_token(tokenizer, s)), None
    )


TASK = Task(
    name="greater-than",
    title="A span of years ends after it began",
    paper="arXiv:2305.00586",
    metric="kl",
    example=PromptPair(
        "The voyage lasted from the year 1732 to the year 17",
        "The voyage lasted from the year 1701 to the year 17",
        tuple(f"{year:02}" for year in range(33, 100)),
        tuple(f"{year:02}" for year in range(1, 33)),
        name_roles(4, 10, 32, 36),
    ),
    make=make,
    held_out=make_held_out,
)
