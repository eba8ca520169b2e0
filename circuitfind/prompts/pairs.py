"""Prompt pairs and the tasks that make them: words, no torch.

A task turns a tokenizer, a number and a seed into prompt pairs. The clean prompt asks for the
behaviour; the corrupted one has the same number of tokens and asks for something else, so that
patching between the two isolates what carries it (causal tracing, arXiv:2202.05262; interchange
interventions as in ACDC, arXiv:2304.14997).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from string import Formatter
from typing import Any, Protocol, runtime_checkable

from circuitfind.circuits.graph import END, LONGEST_ROLE, REST, is_role
from circuitfind.errors import cut, shown

LONGEST_TEXT = 131_072
"""Characters of a prompt: some 30,000 tokens."""
LONGEST_ANSWER = 1000
MOST_ANSWERS = 10_000
MOST_TRIED = 100
"""So many answers of a prompt are tried behind it: of years and verbs any will do."""
MOST_PIECES = 1000
"""So many different words of a prompt are tried alone, to name those that a model does not know."""
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Role:
    """What a part of the clean prompt is to the task, e.g. ``S1``: its characters from ``start`` up
    to ``end``.
    """

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class PromptPair:
    """One clean and one corrupted prompt, with the answers told right and wrong after the clean one.

    An answer counts by its first token after the prompt; write its leading space where it has one.
    ``roles`` are parts of the clean prompt, of the same names in every prompt of a task; the
    corrupted one has them at the same tokens.
    """

    clean: str
    corrupted: str
    answers: tuple[str, ...]
    wrong_answers: tuple[str, ...]
    roles: tuple[Role, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The pair as one line of a prompts file holds it."""
        pair: dict[str, Any] = {
            "clean": self.clean,
            "corrupted": self.corrupted,
            "answers": list(self.answers),
            "wrong_answers": list(self.wrong_answers),
        }
        return (
            pair | {"roles": {role.name: [role.start, role.end] for role in self.roles}}
            if self.roles
            else pair
        )


@runtime_checkable
class Tokenizer(Protocol):
    """What tasks and batches need of a model's tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` as a prompt, special tokens added as the model's own tokenizer adds them."""

    def continuation(self, text: str) -> list[int]:
        """Token ids of ``text`` as it goes on from a prompt: no special tokens."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text that the ids spell."""


@runtime_checkable
class Locator(Tokenizer, Protocol):
    """A tokenizer that tells where its tokens stand, as roles need it."""

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """From which character up to which each token of ``encode(text)`` stands; (0, 0) for a
        special token.
        """


def is_single_token(tokenizer: Tokenizer, text: str) -> bool:
    """Whether ``text`` goes on from a prompt as exactly one token that spells it (never the unknown
    token).
    """
    tokens = tokenizer.continuation(text)
    return len(tokens) == 1 and tokenizer.decode(tokens) == text


@dataclass(frozen=True)
class Source:
    """A Python file that a task was read from."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Task:
    """A behaviour to find the circuit of.

    ``make(tokenizer, n_prompts, seed)`` returns at most ``n_prompts`` pairs (fewer only where no
    more exist). It must depend on its arguments alone, and the first k pairs of n must be the pairs
    that ``make`` returns for k. ``metrics``: functions of logits by name
    (``prompts/task_metric.py``), beside the built-in ones. ``source`` is set where the task is read
    from a file. ``held_out`` makes pairs of the same behaviour in other words, from templates that
    no pair of ``make`` has: no circuit is found on them, and ``evaluate`` tells how it does there.
    """

    name: str
    title: str
    paper: str
    metric: str
    example: PromptPair
    make: Callable[[Tokenizer, int, int], list[PromptPair]]
    metrics: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    source: Source | None = None
    held_out: Callable[[Tokenizer, int, int], list[PromptPair]] | None = None

    @property
    def elsewhere(self) -> Task | None:
        """The task on its held-out templates; None where it has none."""
        return None if self.held_out is None else replace(self, make=self.held_out, held_out=None)

    @property
    def file_sha256(self) -> str | None:
        """What tells its own metrics from others of the same names; None where it has none."""
        return self.source.sha256 if self.metrics and self.source else None


def fill(template: str, **values: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """The template with these values in it, and from which character up to which each of them stands.

    >>> fill("{who} ran to {where}.", who="Ann", where="town")
    ('Ann ran to town.', {'who': (0, 3), 'where': (11, 15)})
    """
    text, places = "", {}
    for literal, name, _, _ in Formatter().parse(template):
        text += literal
        if name is not None:
            places[name] = (len(text), len(text) + len(values[name]))
            text += values[name]
    return text, places


def words(text: str) -> tuple[str, ...]:
    """The words of ``text``: how a task lists its names and nouns."""
    return tuple(text.split())


PATIENCE = 10_000  # draws in a row without a new prompt before a task counts as exhausted


def draw_distinct(
    draw: Callable[[Random, int], PromptPair | None], n_prompts: int, seed: str
) -> list[PromptPair]:
    """The first ``n_prompts`` pairs of different clean prompts that ``draw(rng, index)`` brings;
    ``index`` counts them.

    ``draw`` returns None for a draw to be left out. Fewer pairs come back only where nothing new
    turns up in ``PATIENCE`` draws in a row. The first k pairs of n are those of k, in every
    process: the generator is seeded by a string, which Python hashes the same way everywhere.
    """
    rng = Random(seed)
    pairs: list[PromptPair] = []
    seen: set[str] = set()
    misses = 0
    while len(pairs) < n_prompts and misses < PATIENCE:
        pair = draw(rng, len(pairs))
        if pair is None or pair.clean in seen:
            misses += 1
            continue
        misses = 0
        seen.add(pair.clean)
        pairs.append(pair)
    return pairs


def check_pairs(pairs: Sequence[PromptPair], tokenizer: Tokenizer, most: int | None = None) -> list[str]:
    """Everything wrong with the pairs as prompts of this tokenizer, each with the number of its
    prompt from 1.

    With ``most`` no more than so many problems are looked for.
    """
    problems = (
        f"Prompt {number}: {problem}"
        for number, pair in enumerate(pairs, start=1)
        for problem in check_pair(pair, tokenizer)
    )
    return list(islice(problems, most))


def check_pair(pair: PromptPair, tokenizer: Tokenizer | None = None) -> list[str]:
    """Everything wrong with one pair; without a tokenizer what its words alone show."""
    problems = _check_words(pair)
    return problems if problems or tokenizer is None else _check_tokens(pair, tokenizer)


def _check_words(pair: PromptPair) -> list[str]:
    problems = []
    if not pair.clean or not pair.corrupted:
        problems.append(f"the {'corrupted' if pair.clean else 'clean'} prompt is empty. Write one.")
    elif pair.clean == pair.corrupted:
        problems.append(
            "clean and corrupted are the same text. Change what the answer depends on in the corrupted one."
        )
    if any(is_broken(text) for text in (pair.clean, pair.corrupted, *pair.answers, *pair.wrong_answers)):
        problems.append(
            "a text holds half a character (a lone surrogate such as \\ud800). Write the whole one."
        )
    if not pair.answers:
        problems.append("there is no right answer. Give at least one.")
    if "" in pair.answers or "" in pair.wrong_answers:
        kind = "right" if "" in pair.answers else "wrong"
        problems.append(
            f"a {kind} answer is empty. Write it with its leading space where it has one, or leave it out."
        )
    return problems


def check_roles(pair: PromptPair, first: PromptPair, tokenizer: Tokenizer | None = None) -> list[str]:
    """Everything wrong with the roles of a pair, the names beside those of the first pair; without
    a tokenizer what the text alone shows."""
    problems = _check_names(pair, first) + _check_spans(pair)
    return (
        problems
        if problems or tokenizer is None or not pair.roles
        else _check_role_tokens(pair, tokenizer)
    )


def _check_names(pair: PromptPair, first: PromptPair) -> list[str]:
    """What is wrong with the names of a pair's roles beside those of the first pair."""
    names, expected = ([role.name for role in each.roles] for each in (pair, first))
    if sorted(names) == sorted(expected):
        return []
    own, wanted = (cut(", ".join(some)) or "none" for some in (names, expected))
    return [f"its roles are {own}; those of the first prompt {wanted}. Give every prompt the same."]


def _check_spans(pair: PromptPair) -> list[str]:
    """What is wrong with the roles as parts of the clean text."""
    problems = [problem for role in pair.roles if (problem := _span_problem(role, len(pair.clean)))]
    names = [role.name for role in pair.roles]
    twice = [name for name, times in Counter(names).items() if times > 1]
    problems += [f"the role '{name}' is there twice. Give each a name of its own." for name in twice]
    ordered = sorted(pair.roles, key=lambda role: role.start)
    return problems or [
        f"the roles '{one.name}' and '{other.name}' share characters. Give each its own part of the prompt."
        for one, other in pairwise(ordered)
        if other.start < one.end
    ]


def _span_problem(role: Role, length: int) -> str:
    if not is_role(role.name):
        return (
            f"the role '{role.name}' has no possible name: up to {LONGEST_ROLE} letters, digits and _ . + -, "
            "the first a letter or digit."
        )
    if role.name in (END, REST):
        which = "the last token" if role.name == END else "what no other role names"
        return f"'{role.name}' is {which} by itself. Leave it out, or give the role another name."
    if not 0 <= role.start < role.end <= length:
        return (
            f"the role '{role.name}' is from character {role.start} to {role.end}; it must be a part of the"
            f" clean prompt, of 1 character or more between 0 and {length}."
        )
    return ""


def _check_role_tokens(pair: PromptPair, tokenizer: Tokenizer) -> list[str]:
    """What is wrong with the roles as tokens."""
    if not isinstance(tokenizer, Locator):
        return ["this tokenizer does not tell where its tokens stand. Leave the roles out."]
    has = set(tokens_of_roles(pair, tokenizer))
    return [
        f"the role '{role.name}' has no token of its own in this model: the last token is {END}, and a token"
        " that two roles touch belongs to the first. Choose another part, or leave it out."
        for role in pair.roles
        if role.name not in has
    ]


def tokens_of_roles(pair: PromptPair, tokenizer: Locator) -> list[str]:
    """The role of each token of the clean prompt."""
    ordered = sorted(pair.roles, key=lambda role: role.start)
    roles = [
        next((role.name for role in ordered if start < role.end and role.start < end), REST)
        for start, end in tokenizer.offsets(pair.clean)
    ]
    return [*roles[:-1], END]


def is_broken(text: str) -> bool:
    """Whether no file can hold the text: JSON's escapes can spell half a character."""
    return _HALF_CHARACTER.search(text) is not None


def _check_tokens(pair: PromptPair, tokenizer: Tokenizer) -> list[str]:
    """Everything wrong with the tokens of a pair."""
    clean, corrupted = tokenizer.encode(pair.clean), tokenizer.encode(pair.corrupted)
    n_tokens, n_ctx = max(len(clean), len(corrupted)), getattr(tokenizer, "n_ctx", None)
    if n_ctx is not None and n_tokens > n_ctx:
        return [f"it has {n_tokens:,} tokens; this model knows {n_ctx:,} positions. Shorten it."]
    problems = list(_check_sequences(clean, corrupted))
    for text in (pair.clean, pair.corrupted):
        problems += [
            f"the model does not know {shown(word)}. Choose another word."
            for word in unknown_words(tokenizer, text)
        ]
    return list(dict.fromkeys([*problems, *_check_answers(pair, clean, tokenizer)]))


def _check_sequences(clean: Sequence[int], corrupted: Sequence[int]) -> Iterator[str]:
    """What is wrong with clean and corrupted as tokens side by side."""
    if len(clean) != len(corrupted):
        yield (
            f"clean has {len(clean)} tokens, corrupted {len(corrupted)}. Both must have as many: choose other"
            " words."
        )
    elif clean == corrupted:
        yield (
            "clean and corrupted are the same tokens in this model. Change what the answer depends on in the "
            "corrupted one."
        )


def _check_answers(pair: PromptPair, clean: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """What is wrong with the answers as tokens that follow the clean prompt's, which are ``clean``."""
    right, right_problems = _first_tokens(pair.answers, tokenizer)
    wrong, wrong_problems = _first_tokens(pair.wrong_answers, tokenizer)
    both = [
        f"the right answer '{right[token]}' and the wrong answer '{wrong[token]}' begin with the same token "
        f"'{tokenizer.decode([token])}', by which an answer is scored. Choose others."
        for token in right
        if token in wrong
    ]
    problems = [*right_problems, *wrong_problems, *both]
    return problems or [
        f"no {kind} answer can follow the prompt: {shown(pair.clean[-20:] + answers[0])} does not have the"
        f" prompt's tokens and then '{tokenizer.decode([next(iter(first))])}'. A space between them belongs"
        " to the answer."
        for kind, answers, first in (("right", pair.answers, right), ("wrong", pair.wrong_answers, wrong))
        if answers
        and not any(_can_follow(pair.clean, clean, answer, tokenizer) for answer in answers[:MOST_TRIED])
    ]


def _can_follow(prompt: str, tokens: Sequence[int], answer: str, tokenizer: Tokenizer) -> bool:
    """Whether a text of prompt and answer has the prompt's tokens, and then the one that the answer
    is scored by.

    "to " and "Mary" do not: "to Mary" has " Mary" in one token, so that a model never sees "to" and
    " " before it.
    """
    whole = tokenizer.encode(prompt + answer)
    return whole[: len(tokens) + 1] == [*tokens, tokenizer.continuation(answer)[0]]


def _first_tokens(answers: Sequence[str], tokenizer: Tokenizer) -> tuple[dict[int, str], list[str]]:
    """The first answer that begins with each token; and what is wrong with answers that no known
    token begins.
    """
    first: dict[int, str] = {}
    problems = []
    for answer in answers:
        tokens = tokenizer.continuation(answer)
        if not tokens:
            problems.append(f"the answer {shown(answer)} has no token in this model. Choose another.")
        elif not _knows(tokenizer, answer, tokens):
            problems.append(f"the model does not know the answer {shown(answer)}. Choose another.")
        else:
            first.setdefault(tokens[0], answer)
    return first, problems


def unknown_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of ``text`` that this tokenizer spells with its unknown token only."""
    if _knows(tokenizer, text):
        return []
    pieces = list(dict.fromkeys(re.findall(r"\s*\w+|\s*[^\w\s]+|\s+", text)))[:MOST_PIECES]
    found = [piece.strip() or piece for piece in pieces if not _knows(tokenizer, piece)]
    return list(dict.fromkeys(found)) or [text]


def _knows(tokenizer: Tokenizer, text: str, tokens: Sequence[int] | None = None) -> bool:
    """Whether the tokenizer spells ``text``, as ``tokens``, without its unknown token.

    Byte-level tokenizers know all text; some name their BOS as the unknown token, which a text may
    spell out.
    """
    unknown: int | None = getattr(tokenizer, "unknown_token", None)
    if unknown is None or unknown not in (tokenizer.continuation(text) if tokens is None else tokens):
        return True
    return tokenizer.decode([unknown]) in text
