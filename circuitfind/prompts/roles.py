"""Token positions by role: which positions of each prompt a role names, and sets of edges role by role.

A task names roles by character spans of its clean prompts (``pairs.Role``). A token belongs to the
first role whose span it touches, to ``rest`` if it touches none, and the last one, whatever it
touches, to ``END``, the answer position. The corrupted prompt has the same roles at the same
positions, since the two are aligned token by token. Where a task names none, each position is a
role of its own, called by its number; then all prompts must be of one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from circuitfind.circuits.graph import END, REST, Graph
from circuitfind.errors import TaskError, UsageError
from circuitfind.prompts.pairs import Locator, PromptPair, Tokenizer, check_roles, tokens_of_roles


@dataclass(frozen=True)
class Roles:
    """``names``: the roles, the last of them END. ``of``: the number of each position's; -1 behind
    the answer.
    """

    names: tuple[str, ...]
    of: Int[Tensor, "prompt pos"]

    def to(self, device: torch.device | str) -> Roles:
        """The same on another device."""
        return Roles(self.names, self.of.to(device))

    def rows(self, index: list[int]) -> Roles:
        """Those of the prompts of these numbers, in this order."""
        return Roles(self.names, self.of[index])

    def here(self, role: str) -> Bool[Tensor, "prompt pos"]:
        """Which positions have that role."""
        return self.of == self.names.index(role)


def find_roles(pairs: Sequence[PromptPair], tokenizer: Tokenizer) -> Roles:
    """The roles that the prompts name, or one for each position.

    Raises TaskError naming the first prompt whose roles are not those of the first, or not to be
    found in its tokens; UsageError where there are none and the prompts differ in length.
    """
    if not any(pair.roles for pair in pairs):
        return _by_position([len(tokenizer.encode(pair.clean)) for pair in pairs])
    for number, pair in enumerate(pairs, start=1):
        for problem in check_roles(pair, pairs[0], tokenizer):
            raise TaskError(f"Prompt {number}: {problem}")
    assert isinstance(tokenizer, Locator)
    named = tuple(role.name for role in pairs[0].roles)
    places = [tokens_of_roles(pair, tokenizer) for pair in pairs]
    has_rest = any(REST in of_prompt for of_prompt in places)
    names = (*named, *([REST] if has_rest else []), END)
    return Roles(names, _pad([[names.index(role) for role in of_prompt] for of_prompt in places]))


def _by_position(lengths: list[int]) -> Roles:
    """A role for each position."""
    if len(set(lengths)) > 1:
        raise UsageError(
            f"--positions: the prompts have {min(lengths)} to {max(lengths)} tokens, and no roles.\n"
            "Name roles in the task (circuitfind tasks show ioi has some), or choose prompts of one length."
        )
    names = (*map(str, range(lengths[0] - 1)), END)
    return Roles(names, torch.arange(lengths[0]).repeat(len(lengths), 1))


def _pad(rows: list[list[int]]) -> Int[Tensor, "prompt pos"]:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])


def by_role(
    graph: Graph, x: Shaped[Tensor, "*batch receiver sender"]
) -> Shaped[Tensor, "*batch role base sender"]:
    """A matrix over the edges of a graph with roles as one for each role, over those without
    (``graph.base``).

    What the logits have stands at the last role; at the others they have zeros.
    """
    gone = x.new_zeros(*x.shape[:-2], graph.n_roles - 1, x.shape[-1])
    whole = torch.cat((x[..., :-1, :], gone, x[..., -1:, :]), dim=-2)
    return whole.reshape(*x.shape[:-2], -1, graph.n_roles, x.shape[-1]).transpose(-3, -2)


def by_receiver(
    graph: Graph, x: Shaped[Tensor, "*batch role base sender"]
) -> Shaped[Tensor, "*batch receiver sender"]:
    """The inverse of ``by_role``: what the logits have at other roles than the last is left out."""
    if graph.n_roles == 1:
        return x.squeeze(-3)
    flat = x.transpose(-3, -2).flatten(-3, -2)
    return torch.cat((flat[..., : -graph.n_roles, :], flat[..., -1:, :]), dim=-2)
