"""What methods there are: what each does, where it was published, what it costs and what it can't do. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class MethodInfo:
    """A method of the list. ``cost`` is in passes of the whole model over all prompts.

    ``takes``: the options that it has beyond those of every method. ``scores``: it scores edges, so that the circuit's
    size must be asked for. ``per_prompt``: each prompt has scores of its own, so that a bootstrap can be made of them.
    ``degenerate``: metrics of which its scores would be rounding.
    """

    name: str
    about: str
    paper: str
    cost: str
    limits: str
    takes: tuple[str, ...] = ()
    scores: bool = True
    per_prompt: bool = True
    degenerate: tuple[str, ...] = ()


_METHODS = (
    MethodInfo(
        "acdc",
        "tests every edge, from the logits back, and removes it if the metric rises by less than the threshold",
        "arXiv:2304.14997",
        "one part of a forward pass for each edge of a live node; far fewer with --schedule screened or grouped",
        "finds its own number of edges: --threshold, no --edges",
        takes=("objective", "schedule"),
        scores=False,
        per_prompt=False,
    ),
    MethodInfo(
        "eap",
        "edge attribution patching: first-order effect of ablating an edge, at the clean run",
        "arXiv:2310.10348",
        "2 forward, 1 backward",
        "no kl, which has no gradient at the clean run; blind where a softmax or a norm is saturated",
        degenerate=("kl",),
    ),
    MethodInfo(
        "clean-corrupted",
        "eap with the mean of the gradients at the clean and at the corrupted run",
        "arXiv:2403.17806",
        "2 forward, 2 backward",
        "zero ablation only in models with learned positions",
    ),
    MethodInfo(
        "eap-ig",
        "eap with integrated gradients: the mean over steps from the corrupted to the clean input",
        "arXiv:2403.17806",
        "steps + 1 forward, steps backward",
        "zero ablation only in models with learned positions",
        takes=("steps",),
    ),
    MethodInfo(
        "eap-ig-activations",
        "eap with integrated gradients along each layer's outputs in place of the input",
        "arXiv:2403.17806",
        "about steps * layers forward and backward",
        "kl only with two steps or more",
        takes=("steps",),
    ),
)
CATALOGUE: Mapping[str, MethodInfo] = MappingProxyType({info.name: info for info in _METHODS})
DEFAULT_SEARCH = "acdc"
"""The method where no size is asked for."""
DEFAULT_SCORES = "eap-ig"
"""The method where a number of edges is asked for."""
