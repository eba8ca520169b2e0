"""Indirect object identification: of two people named, who receives what the one named again gives away?

    clean      While Laura and Kevin waited outside the station, Kevin passed a camera to      -> "
    Laura", not " Kevin" corrupted  While Simon and Helen waited outside the station, Peter passed a
    camera to

Half of the prompts name the receiver first (ABBA), half second (BABA). The corrupted prompt has
three other names in place of the three, so that no name is repeated and nothing in it tells the
answer.

Roles: IO, the receiver; S1 and S2, the giver's first and second mention. The last token is END.

Paper: Wang et al., "Interpretability in the wild", arXiv:2211.00593. Default metric: kl.
"""

from __future__ import annotations

from collections.abc import Sequence
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

TEMPLATES = (
    "Yesterday {first} and {second} met near the {place}, and {giver} gave a {thing} to",
    "Since {first} and {second} both liked the {place}, {giver} mailed a {thing} to",
    "Because {first} and {second} were at the {place}, {giver} gave a {thing} to",
    "Last night {first} and {second} met at the {place}, and {giver} gave a {thing} to",
    "At the {place}, {first} and {second} sat down, and {giver} gave a {thing} to",
    "If {first} and {second} go to the {place}, {giver} will give a {thing} to",
    "Outside the {place}, {first} and {second} met, and {giver} handed a {thing} to",
    "Whenever {first} and {second} go to the {place}, {giver} gives a {thing} to",
    "While {first} and {second} waited outside the {place}, {giver} passed a {thing} to",
    "As {first} and {second} were leaving the {place}, {giver} handed a {thing} to",
    "On Monday {first} and {second} went to the {place}, where {giver} gave a {thing} to",
    "Near the {place}, {first} and {second} stopped, and {giver} gave a {thing} to",
)
HELD_OUT = (
    "At the {place}, {first} and {second} stopped, and {giver} passed a {thing} to",
    "Because {first} and {second} both went to the {place}, {giver} mailed a {thing} to",
    "Last night {first} and {second} sat down outside the {place}, where {giver} gave a {thing} to",
    "On Monday {first} and {second} waited near the {place}, and {giver} handed a {thing} to",
    "While {first} and {second} were leaving the {place}, {giver} gave a {thing} to",
    "Yesterday {first} and {second} were both at the {place}, where {giver} passed a {thing} to",
)
"""Of the words of TEMPLATES, so that a model of few words knows them too."""
NAMES = words(
    """
    Aaron Adam Alan Albert Alex Alice Amanda Amy Andrea Andrew Angela Ann Anna Anne Anthony Arthur
    Barbara Ben Benjamin Bob Brandon Brian Carl Carol Caroline Catherine Charles Chris Christina
    Claire Daniel David Dennis Diana Donald Donna Dorothy Douglas Edward Elizabeth Emily Emma Eric
    Eva Evan Frank Fred Gary George Gordon Greg Harry Heather Helen Henry Howard Ian Jack Jacob
    James Jamie Jane Jason Jeff Jennifer Jeremy Jessica Jim Joe John Jonathan Joseph Joshua Julia
    Julie Justin Karen Kate Keith Kelly Kenneth Kevin Kim Larry Laura Lauren Linda Lisa Louis Lucy
    Margaret Maria Martha Martin Mary Matthew Megan Melissa Michael Michelle Mike Nancy Nathan Neil
    Nick Nicole Oliver Patricia Patrick Paul Peter Philip Rachel Ralph Rebecca Richard Robert Roger
    Ronald Russell Ruth Ryan Sam Samantha Samuel Sandra Sara Sarah Scott Sean Simon Sophie Stephen
    Steve Steven Stuart Susan Thomas Tim Tom Tony Victor Victoria Vincent Walter Wendy William
    """
)
PLACES = words(
    "bank beach church farm garden hospital hotel house library market museum park school station store"
)
THINGS = words("ball basket book bottle box camera card coin hat key letter map phone ring ticket")


def make(tokenizer: Tokenizer, n_prompts: int, seed: int) -> list[PromptPair]:
    """``n_prompts`` different pairs, ABBA and BABA in turn. Raises TaskError where too few names
    are one token.
    """
    return make_from(TEMPLATES, tokenizer, n_prompts, f"ioi {seed}")


def make_held_out(tokenizer: Tokenizer, n_prompts: int, seed: int) -> list[PromptPair]:
    """The same from other templates."""
    return make_from(HELD_OUT, tokenizer, n_prompts, f"ioi held out {seed}")


def make_from(
    templates: Sequence[str], tokenizer: Tokenizer, n_prompts: int, seed: str
) -> list[PromptPair]:
    """Pairs from these templates."""
    names = [name for name in NAMES if is_single_token(tokenizer, f" {name}")]
    if len(names) < 5:
        raise TaskError(
            f"ioi needs five names that are one token each; this tokenizer has {len(names)}. "
            "Use another model."
        )

    def draw(rng: Random, index: int) -> PromptPair:
        template, place, thing = rng.choice(templates), rng.choice(PLACES), rng.choice(THINGS)
        receiver, giver, *others = rng.sample(names, 5)
        named = (receiver, giver) if index % 2 == 0 else (giver, receiver)

        def spell(first: str, second: str, last: str) -> tuple[str, dict[str, tuple[int, int]]]:
            return fill(template, first=first, second=second, giver=last, place=place, thing=thing)

        clean, places = spell(*named, giver)
        io, s1 = ("first", "second") if named[0] == receiver else ("second", "first")
        roles = (Role("IO", *places[io]), Role("S1", *places[s1]), Role("S2", *places["giver"]))
        return PromptPair(clean, spell(*others)[0], (f" {receiver}",), (f" {giver}",), roles)

    return draw_distinct(draw, n_prompts, seed)


TASK = Task(
    name="ioi",
    title="Indirect object identification",
    paper="arXiv:2211.00593",
    metric="kl",
    example=PromptPair(
        "While Laura and Kevin waited outside the station, Kevin passed a camera to",
        "While Simon and Helen waited outside the station, Peter passed a camera to",
        (" Laura",),
        (" Kevin",),
        (Role("IO", 6, 11), Role("S1", 16, 21), Role("S2", 50, 55)),
    ),
    make=make,
    held_out=make_held_out,
)
