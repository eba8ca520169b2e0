"""What methods there are: what each does, where it was published, what it costs and what it can't
do. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from circuitfind.options import Setting

LEVELS = ("edge", "node", "neuron")
"""What a circuit is made of."""
NOT_ZERO = "zero ablation only in models with learned positions"
NOT_KL = "no kl, which has no gradient at the clean run"


@dataclass(frozen=True)
class MethodInfo:
    """A method of the list. ``cost`` is in passes of the whole model over all prompts.

    ``takes``: the options that it has beyond those of every method; ``settings``: what ``--set``
    sets, by default. ``scores``: it scores edges, so that the circuit's size must be asked for.
    ``per_prompt``: each prompt has scores of its own, so that a bootstrap can be made of them.
    ``has_metric``: its scores depend on one. ``degenerate``: metrics of which they would be
    rounding. ``levels`` and ``kv``: what it can decide on (``circuits/units.py``); ``why_edges``:
    what keeps it from more. ``positions``: it can tell an edge apart at each of them. ``resumes``:
    it may take long, and can be gone on with after it was cut off. ``prompts``: how many it takes
    where no number is asked for.
    """

    name: str
    about: str
    paper: str
    cost: str
    limits: str = ""
    takes: tuple[str, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    scores: bool = True
    per_prompt: bool = True
    has_metric: bool = True
    degenerate: tuple[str, ...] = ()
    levels: tuple[str, ...] = ("edge",)
    kv: tuple[str, ...] = ("per-head",)
    why_edges: str = ""
    positions: bool = False
    resumes: bool = False
    prompts: int = 16

    @property
    def learns(self) -> bool:
        """Whether it learns masks, which another method's scores may start."""
        return "start_from" in self.takes


_EDGES_AND_NODES, _ALL_KV = ("edge", "node"), ("per-head", "grouped")
_LEARNED = {"learning_rate": 0.1, "prompts_per_step": 8}
_MANY = 64
"""Prompts for masks to be learned from: a step takes a few of them, however many there are."""
_METHODS = (
    MethodInfo(
        "acdc",
        "tests every edge, from the logits back, and removes it if the metric rises by less than the"
        " threshold",
        "arXiv:2304.14997",
        "a part of a forward pass for each edge of a live node; --candidates, --schedule screened or grouped:"
        " fewer",
        "finds its own number of edges: --threshold, no --edges",
        takes=("objective", "schedule", "candidates"),
        scores=False,
        per_prompt=False,
        levels=LEVELS,
        kv=_ALL_KV,
        positions=True,
        resumes=True,
    ),
    MethodInfo(
        "eap",
        "edge attribution patching: first-order effect of ablating an edge, at the clean run",
        "arXiv:2310.10348",
        "2 forward, 1 backward",
        f"{NOT_KL}; blind where a softmax or a norm is saturated",
        degenerate=("kl",),
        levels=LEVELS,
        kv=_ALL_KV,
        positions=True,
    ),
    MethodInfo(
        "clean-corrupted",
        "eap with the mean of the gradients at the clean and at the corrupted run",
        "arXiv:2403.17806",
        "2 forward, 2 backward",
        NOT_ZERO,
        levels=LEVELS,
        kv=_ALL_KV,
        positions=True,
    ),
    MethodInfo(
        "eap-ig",
        "eap with integrated gradients: the mean over steps from the corrupted to the clean input",
        "arXiv:2403.17806",
        "steps + 1 forward, steps backward",
        NOT_ZERO,
        takes=("steps",),
        levels=LEVELS,
        kv=_ALL_KV,
        positions=True,
    ),
    MethodInfo(
        "eap-ig-activations",
        "eap with integrated gradients along each layer's outputs in place of the input",
        "arXiv:2403.17806",
        "about steps * layers forward and backward",
        "kl only with two steps or more",
        takes=("steps",),
        levels=LEVELS,
        kv=_ALL_KV,
        positions=True,
    ),
    MethodInfo(
        "exact",
        "every edge ablated alone, measured",
        "arXiv:2403.17806 (as its reference)",
        "a part of a forward pass for each edge",
        "hours beyond small models; sees no effect that takes two edges at once",
        levels=LEVELS,
        kv=_ALL_KV,
        positions=True,
        resumes=True,
    ),
    MethodInfo(
        "atp",
        "eap with the attention pattern's change computed in full for q and k; --grad-drop against cancelling"
        " effects",
        "arXiv:2403.00745",
        "about 3 times eap; with --grad-drop half a backward pass for each layer besides",
        f"{NOT_KL}; with --grad-drop no signs",
        takes=("grad_drop",),
        settings={"qk_fix": True},
        degenerate=("kl",),
        levels=_EDGES_AND_NODES,
        kv=_ALL_KV,
        positions=True,
    ),
    MethodInfo(
        "relp",
        "eap with the rules of layer-wise relevance propagation in the backward pass",
        "arXiv:2508.21258",
        "2 forward, 1 backward",
        NOT_KL,
        settings={"freeze_patterns": False},
        degenerate=("kl",),
        levels=LEVELS,
        kv=_ALL_KV,
        positions=True,
    ),
    MethodInfo(
        "gim",
        "eap with gradients that see past self-repair: softmax temperature, frozen norms, shared products",
        "arXiv:2505.17630",
        "2 forward, 1 backward",
        NOT_KL,
        settings={"temperature": 2.0},
        degenerate=("kl",),
        levels=LEVELS,
        kv=_ALL_KV,
        positions=True,
    ),
    MethodInfo(
        "ifr",
        "information flow routes: what share of each input came along an edge, traced back from the answer",
        "arXiv:2403.00824",
        "1 forward",
        "knows no task: no metric, no corrupted prompts",
        settings={"inputs": "qkv"},
        has_metric=False,
        why_edges="its shares are of what one input reads, and those of different inputs do not add up",
    ),
    MethodInfo(
        "subnetwork-probing",
        "learned masks over all edges at once, with a penalty on those that are open",
        "arXiv:2104.03514",
        "steps forward and backward, of a few prompts each",
        "a run of minutes; no scores of single prompts",
        takes=("steps", "start_from"),
        settings={**_LEARNED, "penalty": 50.0},
        per_prompt=False,
        why_edges="it learns a mask of each edge",
        resumes=True,
        prompts=_MANY,
    ),
    MethodInfo(
        "edge-pruning",
        "learned masks over edges and senders, led to the sparsity that --edges asks for",
        "arXiv:2406.16778",
        "steps forward and backward, of a few prompts each",
        "a run of minutes; no scores of single prompts",
        takes=("steps", "start_from"),
        settings={**_LEARNED, "learning_rate": 0.8, "sparsity": 0.98, "node_sparsity": None},
        per_prompt=False,
        why_edges="it learns a mask of each edge",
        resumes=True,
        prompts=_MANY,
    ),
    MethodInfo(
        "ensemble",
        "several methods' scores, each in its own mean size, combined: --of eap-ig,relp --combine mean",
        "arXiv:2504.13151",
        "that of its methods together",
        "a bootstrap only of methods with scores of single prompts, and not with rank-mean",
        takes=("of", "combine"),
        levels=_EDGES_AND_NODES,
        kv=_ALL_KV,
        positions=True,
        resumes=True,
    ),
    MethodInfo(
        "hisp",
        "head importance: the first-order effect of ablating a node, given to all of its edges",
        "arXiv:1905.10650",
        "2 forward, 1 backward",
        f"{NOT_KL}; does not see where an edge goes",
        degenerate=("kl",),
        levels=_EDGES_AND_NODES,
        why_edges="its edges have the scores of their ends, of which heads that share a key have one each",
    ),
    MethodInfo(
        "activation-magnitude",
        "how much a node's output changes when it is ablated, given to all of its edges: a baseline",
        "arXiv:2504.13151",
        "2 forward",
        "does not see where an edge goes",
        has_metric=False,
        levels=_EDGES_AND_NODES,
        why_edges="its edges have the scores of their ends, of which heads that share a key have one each",
    ),
    MethodInfo(
        "random",
        "edges in a random order, by --seed: chance",
        "",
        "none",
        per_prompt=False,
        has_metric=False,
        why_edges="it draws an order of edges",
        positions=True,
    ),
)
CATALOGUE: Mapping[str, MethodInfo] = MappingProxyType({info.name: info for info in _METHODS})
COMBINE = ("mean", "max", "min", "rank-mean")
DEFAULT_SEARCH = "acdc"
"""The method where no size is asked for."""
DEFAULT_SCORES = "eap-ig"
"""The method where a number of edges is asked for."""
