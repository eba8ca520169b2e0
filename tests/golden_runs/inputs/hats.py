"""Who gets the hat? With two metrics of its own, one of which looks at the full model."""

import torch

from circuitfind.prompts import PromptPair, Task, draw_distinct, words

NAMES = words("Aaron Anna Chris Diana Eric Frank Helen Jack Laura Megan Nathan Ruth Simon Tim Victor")
PLACES = words("bank beach farm park school")


def make(tokenizer, n_prompts, seed):
    def draw(rng, index):
        a, b, *others = rng.sample(NAMES, 5)
        where = f" near the {rng.choice(PLACES)}" * (index % 3)
        text = "As {} and {} met" + where + ", {} gave the hat to"
        return PromptPair(
            clean=text.format(a, b, b), corrupted=text.format(*others), answers=(f" {a}",), wrong_answers=(f" {b}",)
        )

    return draw_distinct(draw, n_prompts, f"hats {seed}")


def margin(logits, answers, wrong_answers):
    """How far the right answer is ahead of the mean of all tokens."""
    return torch.stack([row[list(right)].max() - row.mean() for row, right in zip(logits, answers, strict=True)])


def agreement(logits, answers, wrong_answers, full):
    """How likely the full model thinks what this one says."""
    return (logits.softmax(-1) * full.log_softmax(-1)).sum(-1)


TASK = Task(
    "hats", "Who gets the hat?", "", "margin", make(None, 1, 0)[0], make, {"margin": margin, "agreement": agreement}
)
