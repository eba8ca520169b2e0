"""Which options and methods go with ``--level neuron``: all that can be said of it before torch is
imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from circuitfind.circuits.bases import count_neurons
from circuitfind.circuits.size import NeuronSelection, find_select
from circuitfind.errors import UsageError
from circuitfind.methods.catalogue import CATALOGUE, MethodInfo

if TYPE_CHECKING:
    from circuitfind.options import RunOptions

NEURONS = "neurons"
"""The option that counts them."""
_MASKS = "what it learns are masks over edges"
_NODES = "it ranks nodes, and gives all that belongs to one the same score"
REASONS = {
    "atp": "its repair is of queries and keys, which are no neurons: the others' scores are those of eap",
    "ifr": "it traces shares along edges",
    "subnetwork-probing": _MASKS,
    "edge-pruning": _MASKS,
    "ensemble": "it combines scores of edges",
    "hisp": f"{_NODES}; of a neuron its first-order effect is eap's score",
    "activation-magnitude": _NODES,
    "random": "its order is one of edges",
}
"""Why a method finds no circuits of neurons."""


def check_level(options: RunOptions, info: MethodInfo) -> None:
    """Raises UsageError where the level and the other options don't go together."""
    if options.level != "neuron":
        if options.neurons is not None:
            raise UsageError(
                f"--neurons {options.neurons} asks for single neurons. Give --level neuron with it."
            )
        return
    if options.level not in info.levels:
        able = ", ".join(other.name for other in CATALOGUE.values() if options.level in other.levels)
        reason = REASONS.get(info.name, "it knows edges alone")
        raise UsageError(f"{info.name} finds no neurons: {reason}.\nMethods that do: {able}.")
    if options.edges is not None:
        raise UsageError(
            f"--edges {options.edges} counts edges, all of which stay at --level neuron.\n"
            "Give --neurons N, --fraction F (of all neurons) or --threshold T."
        )
    if options.ablation == "optimal":
        raise UsageError(
            "--ablation optimal learns what whole heads and MLPs write, not single neurons.\nUse --ablation"
            " mean."
        )
    (_check_scoring if info.scores else _check_search)(options, info)


def _check_scoring(options: RunOptions, info: MethodInfo) -> None:
    if options.neurons is None and options.fraction is None and options.threshold is None:
        raise UsageError(
            f"{info.name} scores every neuron and leaves open how many to keep.\n"
            "Give --neurons N, --fraction F or --threshold T, e.g. --neurons 200."
        )
    NeuronSelection(options.neurons, options.fraction, options.threshold, find_select(options.select))


def _check_search(options: RunOptions, info: MethodInfo) -> None:
    if options.neurons is not None or options.fraction is not None:
        given = "--neurons" if options.neurons is not None else "--fraction"
        raise UsageError(
            f"{given} needs a method that scores neurons; {info.name} finds its own number. Give --threshold"
            " instead."
        )
    if options.schedule != "sequential":
        raise UsageError(
            f"--schedule {options.schedule} goes through the edges into a receiver; neurons are tested one"
            " after another.\nLeave it out, or use a method that scores, such as --method eap-ig."
        )


def refuse_sweep(options: RunOptions) -> None:
    """Raises UsageError where a sweep is to be of neurons."""
    if options.level == "neuron":
        raise UsageError(
            "A sweep's table and picture count edges. With --level neuron give one size a run."
        )


def check_count(options: RunOptions, config: Mapping[str, Any]) -> None:
    """Raises UsageError where more neurons are asked for than a model of this config.json has, if
    it says so.
    """
    n_neurons = count_neurons(config)
    if options.neurons is not None and n_neurons is not None:
        NeuronSelection(options.neurons).count(n_neurons)
