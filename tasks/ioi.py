"""Indirect object identification: of two people named, who receives what the one named again gives away?

    clean      When Laura and Kevin came back to the station, Kevin gave the camera to      -> " Laura", not " Kevin"
    corrupted  When Simon and Helen came back to the station, Peter gave the camera to

Half of the prompts name the receiver first (ABBA), half second (BABA). The corrupted prompt has three other names in
place of the three, so that no name is repeated and nothing in it tells the answer.

Paper: Wang et al., "Interpretability in the wild", arXiv:2211.00593. Default metric: kl.
"""

from __future__ import annotations

from random import Random

from circuitfind.errors import TaskError
from circuitfind.prompts import PromptPair, Task, Tokenizer, draw_distinct, is_single_token

TEMPLATES = (
    "When {first} and {second} came back to the {place}, {giver} gave the {thing} to",
    "After {first} and {second} left the {place}, {giver} handed a {thing} to",
    "As {first} and {second} walked through the {place}, {giver} passed the {thing} to",
    "Once {first} and {second} were inside the {place}, {giver} offered a {thing} to",
    "Last night {first} and {second} met at the {place}, and {giver} sold a {thing} to",
    "Soon after {first} and {second} reached the {place}, {giver} brought the {thing} to",
    "Before {first} and {second} closed the {place}, {giver} threw the {thing} to",
    "Near the {place}, {first} and {second} stopped, and {giver} showed a {thing} to",
    "Since {first} and {second} both liked the {place}, {giver} mailed a {thing} to",
    "Today {first} and {second} cleaned the {place}, and then {giver} gave a {thing} to",
    "On the way to the {place}, {first} and {second} talked, and {giver} lent a {thing} to",
    "Until {first} and {second} found the {place}, {giver} would not give the {thing} to",
    "In the {place} it was cold, so {first} and {second} sat down and {giver} gave the {thing} to",
    "Because {first} and {second} shared the {place}, {giver} left the {thing} to",
)
NAMES = tuple(
    """
    Aaron Adam Alan Albert Alex Alice Amanda Amy Andrea Andrew Angela Ann Anna Anne Anthony Arthur Barbara Ben
    Benjamin Bob Brandon Brian Carl Carol Caroline Catherine Charles Chris Christina Claire Daniel David Dennis
    Diana Donald Donna Dorothy Douglas Edward Elizabeth Emily Emma Eric Eva Evan Frank Fred Gary George Gordon
    Greg Harry Heather Helen Henry Howard Ian Jack Jacob James Jamie Jane Jason Jeff Jennifer Jeremy Jessica Jim
    Joe John Jonathan Joseph Joshua Julia Julie Justin Karen Kate Keith Kelly Kenneth Kevin Kim Larry Laura Lauren
    Linda Lisa Louis Lucy Margaret Maria Martha Martin Mary Matthew Megan Melissa Michael Michelle Mike Nancy
    Nathan Neil Nick Nicole Oliver Patricia Patrick Paul Peter Philip Rachel Ralph Rebecca Richard Robert Roger
    Ronald Russell Ruth Ryan Sam Samantha Samuel Sandra Sara Sarah Scott Sean Simon Sophie Stephen Steve Steven
    Stuart Susan Thomas Tim Tom Tony Victor Victoria Vincent Walter Wendy William
    """.split()
)
PLACES = tuple(
    "bank beach church farm garden hospital hotel house library market museum park school station store".split()
)
THINGS = tuple("ball basket book bottle box camera card coin hat key letter map phone ring ticket".split())


def make(tokenizer: Tokenizer, n_prompts: int, seed: int) -> list[PromptPair]:
    """``n_prompts`` different pairs, ABBA and BABA in turn. Raises TaskError where too few names are one token."""
    names = [name for name in NAMES if is_single_token(tokenizer, f" {name}")]
    if len(names) < 5:
        raise TaskError(
            f"ioi needs five names that are one token each; this tokenizer has {len(names)}. Use another model."
        )

    def draw(rng: Random, index: int) -> PromptPair:
        template, place, thing = rng.choice(TEMPLATES), rng.choice(PLACES), rng.choice(THINGS)
        receiver, giver, *others = rng.sample(names, 5)
        named = (receiver, giver) if index % 2 == 0 else (giver, receiver)

        def fill(first: str, second: str, last: str) -> str:
            return template.format(first=first, second=second, giver=last, place=place, thing=thing)

        return PromptPair(fill(*named, giver), fill(*others), (f" {receiver}",), (f" {giver}",))

    return draw_distinct(draw, n_prompts, f"ioi {seed}")


TASK = Task(
    name="ioi",
    title="Indirect object identification",
    paper="arXiv:2211.00593",
    metric="kl",
    example=PromptPair(
        "When Laura and Kevin came back to the station, Kevin gave the camera to",
        "When Simon and Helen came back to the station, Peter gave the camera to",
        (" Laura",),
        (" Kevin",),
    ),
    make=make,
)
