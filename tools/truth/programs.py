"""The programs that are compiled: those of tracr (arXiv:2301.05062), as a decoder computes them,
and two gates.

A decoder answers after the last token. So the prompt asks for one of what tracr's encoder says at
all positions: the k-th of the reversed or sorted letters, how often the last letter has occurred.
Distractors take the heads and MLPs that a program leaves free, so that every model has at least a
hundred edges.

Heads attend evenly, or to what matches: e^-SHARPNESS is what all else has of their attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

import numpy as np

from circuitfind.circuits.graph import Node, Slot
from circuitfind.truth.files import UNKNOWN, Words
from tools.truth.compiler import Blueprint, Matrix, Part, Vector
from tools.truth.steps import Step, categories, mlp_of_steps, one_hot

SHARPNESS = 16.0
LOGIT = 8.0
"""The answer's logit; the others' are 0, unless a program says otherwise."""
N_HEADS = 4
SPREAD = 8.0
"""By how much a mean is multiplied before it is written: its steps are far apart beside what
distractors leak.
"""
LETTERS = ("a", "b", "c", "d", "e")
BLANK, START, ASK = "_", "^", "="
QUERIES = ("?1", "?2", "?3", "?4", "?5")


@dataclass(frozen=True)
class Program:
    """What a model computes, as plain Python (``answer``), the prompts it is asked with (``draw``),
    and its parts.

    ``words`` are its vocabulary. ``build`` makes the blueprint without distractors.
    """

    name: str
    about: str
    words: Words
    answer: Callable[[Words], str]
    draw: Callable[[Random], Words]
    build: Callable[[], Blueprint]


# small pieces


def table(words: Sequence[str], values: Mapping[str, Sequence[float]]) -> Matrix:
    """What each word of a vocabulary writes; nothing where ``values`` says nothing."""
    width = len(next(iter(values.values())))
    return np.array([values.get(word, (0.0,) * width) for word in words])


def one_hots(words: Sequence[str], named: Sequence[str]) -> Matrix:
    """A coordinate for each of the words named."""
    return table(words, dict(zip(named, np.eye(len(named)).tolist(), strict=True)))


def uniform_head(
    layer: int, head: int, values: Mapping[str, Matrix], writes: Mapping[str, Matrix]
) -> Part:
    """A head that takes the mean over all positions: nothing that it compares differs between them."""
    return matching_head(layer, head, {}, {}, values, writes)


def matching_head(
    layer: int,
    head: int,
    query: Mapping[str, Matrix],
    key: Mapping[str, Matrix],
    values: Mapping[str, Matrix],
    writes: Mapping[str, Matrix],
    always: Vector | None = None,
) -> Part:
    """A head that attends to where query and key match; ``always``: keys that every query matches."""
    sharp = {name: SHARPNESS * matrix for name, matrix in query.items()}
    reads: dict[Slot | None, Mapping[str, Matrix]] = {"q": sharp, "k": key, "v": values}
    bias: dict[Slot | None, Vector] = {} if always is None else {"q": SHARPNESS * always}
    return Part(Node("head", layer, head), reads, writes, bias)


def positions(n_ctx: int) -> dict[str, Matrix]:
    return {"position": np.eye(n_ctx)}


def said(words: Sequence[str], answers: Sequence[str]) -> dict[str, Matrix]:
    """The logits: coordinate i of the variable ``answer`` speaks for answers[i]."""
    return {"answer": LOGIT * one_hots(words, answers).T}


# reverse: x1 .. xn _ .. _ ?k -> x(n + 1 - k)

N_SLOTS = 5
REVERSE_WORDS = (UNKNOWN, *LETTERS, BLANK, *QUERIES)


def reversed_letter(words: Words) -> str:
    letters = [word for word in words if word in LETTERS]
    return letters[::-1][int(words[-1][1:]) - 1]


def draw_reverse(rng: Random) -> Words:
    n = rng.randint(2, N_SLOTS)
    letters = [rng.choice(LETTERS) for _ in range(n)]
    return (*letters, *[BLANK] * (N_SLOTS - n), QUERIES[rng.randrange(n)])


def build_reverse() -> Blueprint:
    """How many letters there are (a mean), where the wanted one stands (steps), what stands there
    (a match).
    """
    n = len(LETTERS)
    is_letter = {"letter": np.ones((n, 1))}
    where = {"count": np.array([(N_SLOTS + 1) / SPREAD]), "query": -np.arange(1.0, N_SLOTS + 1)}
    steps = categories(range(N_SLOTS), where)
    return Blueprint(
        3,
        N_HEADS,
        {"letter": one_hots(REVERSE_WORDS, LETTERS), "query": one_hots(REVERSE_WORDS, QUERIES)},
        positions(N_SLOTS + 1),
        (
            uniform_head(0, 1, is_letter, {"count": np.full((1, 1), SPREAD)}),
            mlp_of_steps(1, steps, {"target": one_hot(N_SLOTS)}),
            matching_head(
                2,
                2,
                {"target": np.eye(N_SLOTS)},
                {"position": np.eye(N_SLOTS + 1, N_SLOTS)},
                {"letter": np.eye(n)},
                {"answer": np.eye(n)},
            ),
        ),
        said(REVERSE_WORDS, LETTERS),
    )


# frac-prevs: the share of x among the words

LENGTHS = (4, 5)
SHARES = sorted({Fraction(count, n) for n in LENGTHS for count in range(n + 1)})
FRAC_WORDS = (UNKNOWN, "x", "y", "z", *map(str, SHARES))


def share_of_x(words: Words) -> str:
    return str(Fraction(words.count("x"), len(words)))


def draw_frac_prevs(rng: Random) -> Words:
    n = rng.choice(LENGTHS)
    marked = rng.sample(range(n), rng.randint(0, n))
    return tuple("x" if i in marked else rng.choice(("y", "z")) for i in range(n))


def build_frac_prevs() -> Blueprint:
    """Whether a word is x (an MLP), in how many it is (a mean), which answer that is (steps)."""
    steps = categories([SPREAD * float(share) for share in SHARES], {"share": np.ones(1)})
    is_x = Step({"word": np.array([1.0, 0.0, 0.0])}, 0, 1)
    return Blueprint(
        2,
        N_HEADS,
        {"word": one_hots(FRAC_WORDS, ("x", "y", "z"))},
        positions(max(LENGTHS)),
        (
            mlp_of_steps(0, [is_x], {"is_x": np.ones((1, 1))}),
            uniform_head(1, 1, {"is_x": np.ones((1, 1))}, {"share": np.full((1, 1), SPREAD)}),
            mlp_of_steps(1, steps, {"answer": one_hot(len(SHARES))}),
        ),
        said(FRAC_WORDS, [str(share) for share in SHARES]),
    )


# sort: x1 .. x5 ?k -> the k-th of them in the alphabet's order

SORT_WORDS = (UNKNOWN, *LETTERS, *QUERIES)


def sorted_letter(words: Words) -> str:
    return sorted(words[:-1])[int(words[-1][1:]) - 1]


def draw_sort(rng: Random) -> Words:
    return (*(rng.choice(LETTERS) for _ in range(N_SLOTS)), rng.choice(QUERIES))


def build_sort() -> Blueprint:
    """How often each letter occurs (a mean), which is the k-th (steps), a place where it stands (a match)."""
    n = len(LETTERS)
    k = np.arange(1.0, N_SLOTS + 1)
    steps = [
        Step({"counts": (N_SLOTS + 1) / SPREAD * (np.arange(n) <= letter), "query": -k}, -1, 0)
        for letter in range(n)
    ]
    return Blueprint(
        3,
        N_HEADS,
        {"letter": one_hots(SORT_WORDS, LETTERS), "query": one_hots(SORT_WORDS, QUERIES)},
        positions(N_SLOTS + 1),
        (
            uniform_head(0, 2, {"letter": np.eye(n)}, {"counts": SPREAD * np.eye(n)}),
            mlp_of_steps(0, steps, {"target": np.eye(n) - np.eye(n, k=1)}),
            matching_head(
                1,
                0,
                {"target": np.eye(n)},
                {"letter": np.eye(n)},
                {"letter": np.eye(n)},
                {"answer": np.eye(n)},
            ),
        ),
        said(SORT_WORDS, LETTERS),
    )


# histogram: ^ x1 .. xn -> how many of them are xn

MOST = 5
HISTOGRAM_WORDS = (UNKNOWN, START, *LETTERS, *map(str, range(1, MOST + 1)))


def occurrences(words: Words) -> str:
    return str(words.count(words[-1]))


def draw_histogram(rng: Random) -> Words:
    last, n = rng.choice(LETTERS), rng.randint(MOST, MOST + 1)
    others = [letter for letter in LETTERS if letter != last]
    alike = rng.sample(range(n - 1), rng.randint(0, MOST - 1))
    return (START, *(last if i in alike else rng.choice(others) for i in range(n - 1)), last)


def build_histogram() -> Blueprint:
    """tracr's width of a selector: a head attends evenly to what is like the last word and to the
    start, so that the start's share is 1 / (1 + how many there are), which steps tell."""
    n = len(LETTERS)
    shares = [SPREAD / (1 + count) for count in range(MOST, 0, -1)]
    steps = categories(shares, {"start_share": np.ones(1)})
    return Blueprint(
        2,
        N_HEADS,
        {"letter": one_hots(HISTOGRAM_WORDS, LETTERS), "start": one_hots(HISTOGRAM_WORDS, (START,))},
        positions(MOST + 2),
        (
            matching_head(
                0,
                3,
                {"letter": np.eye(n, n + 1)},
                {"letter": np.eye(n, n + 1), "start": np.eye(1, n + 1, k=n)},
                {"start": np.ones((1, 1))},
                {"start_share": np.full((1, 1), SPREAD)},
                always=np.eye(n + 1)[n],
            ),
            mlp_of_steps(1, steps, {"answer": one_hot(MOST)[:, ::-1]}),
        ),
        said(HISTOGRAM_WORDS, [str(count) for count in range(1, MOST + 1)]),
    )


# dyck-1: brackets -> balanced (T), balanced if some more are closed (P), never (F)

DYCK_WORDS = (UNKNOWN, "(", ")", "T", "P", "F")
LONGEST = 8


def bracket_state(words: Words) -> str:
    balance = 0
    for word in words:
        balance += 1 if word == "(" else -1
        if balance < 0:
            return "F"
    return "P" if balance else "T"


def draw_dyck(rng: Random) -> Words:
    """Each of the three outcomes about equally often."""
    wanted, n = rng.choice("TPF"), rng.choice((4, 6, LONGEST))
    while True:
        words = tuple(rng.choice("()") for _ in range(n))
        if bracket_state(words) == wanted:
            return words


def build_dyck() -> Blueprint:
    """The shares of brackets that open and close so far (means), whether more close (a step),
    whether that was ever so (a mean), and the outcome (steps): T counts 1, P 2, F 3, and the
    highest wins."""
    opens, closes = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    one = np.ones((1, 1))
    more_close = Step({"opened": -np.ones(1), "closed": np.ones(1)}, 0, SPREAD / LONGEST)
    more_open = Step({"opened": np.ones(1), "closed": -np.ones(1)}, 0, SPREAD / LONGEST)
    ever = Step({"overdrawn": np.ones(1)}, 0, SPREAD / LONGEST)
    balanced = Step(
        {"opened": np.zeros(1)}, -2, -1
    )  # always 1: the outcome where neither of the others speaks
    return Blueprint(
        2,
        N_HEADS,
        {"bracket": one_hots(DYCK_WORDS, ("(", ")"))},
        positions(LONGEST),
        (
            uniform_head(0, 1, {"bracket": opens}, {"opened": SPREAD * one}),
            uniform_head(0, 2, {"bracket": closes}, {"closed": SPREAD * one}),
            mlp_of_steps(0, [more_close], {"is_overdrawn": one}),
            uniform_head(1, 3, {"is_overdrawn": one}, {"overdrawn": SPREAD * one}),
            mlp_of_steps(1, [balanced, more_open, ever], {"answer": np.diag([1.0, 2.0, 3.0])}),
        ),
        said(DYCK_WORDS, ("T", "P", "F")),
    )


# gates: two bits, then words that say nothing -> one bit

GATE_WORDS = (UNKNOWN, "0", "1", "p", "q", "r", ASK)


def draw_gate(rng: Random) -> Words:
    return (rng.choice("01"), rng.choice("01"), rng.choice("pqr"), rng.choice("pqr"), ASK)


def either(words: Words) -> str:
    return "1" if "1" in words[:2] else "0"


def both(words: Words) -> str:
    return "1" if words[:2] == ("1", "1") else "0"


def build_gate(least: int) -> Blueprint:
    """Whether at least so many of the bits are 1: two heads read a bit each, by its place, and a
    step counts them.
    """
    one, n_ctx = np.ones((1, 1)), 5
    is_one = {"bit": np.array([[0.0], [1.0]])}
    ones = {"first": np.ones(1), "second": np.ones(1)}
    steps = [Step({"first": np.zeros(1)}, -2, -1), Step(ones, least - 1, least)]

    def read_bit(layer: int, head: int, place: int, variable: str) -> Part:
        key = {"position": np.eye(n_ctx)[:, [place]]}
        return matching_head(layer, head, {}, key, is_one, {variable: one}, always=np.ones(1))

    return Blueprint(
        2,
        N_HEADS,
        {"bit": one_hots(GATE_WORDS, ("0", "1")), "filler": one_hots(GATE_WORDS, ("p", "q", "r", ASK))},
        positions(n_ctx),
        (
            read_bit(0, 1, 0, "first"),
            read_bit(1, 2, 1, "second"),
            mlp_of_steps(1, steps, {"answer": np.array([[1.0, 0.0], [-1.0, 1.0]])}),
        ),
        said(GATE_WORDS, ("0", "1")),
    )


PROGRAMS = (
    Program(
        "reverse",
        "the k-th letter from the end",
        REVERSE_WORDS,
        reversed_letter,
        draw_reverse,
        build_reverse,
    ),
    Program("frac-prevs", "the share of x", FRAC_WORDS, share_of_x, draw_frac_prevs, build_frac_prevs),
    Program("sort", "the k-th letter of the alphabet", SORT_WORDS, sorted_letter, draw_sort, build_sort),
    Program(
        "histogram",
        "how often the last letter occurs",
        HISTOGRAM_WORDS,
        occurrences,
        draw_histogram,
        build_histogram,
    ),
    Program("dyck-1", "whether brackets are balanced", DYCK_WORDS, bracket_state, draw_dyck, build_dyck),
    Program("or", "whether one of two bits is set", GATE_WORDS, either, draw_gate, lambda: build_gate(1)),
    Program("and", "whether both bits are set", GATE_WORDS, both, draw_gate, lambda: build_gate(2)),
)
