"""Options -> a method."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from circuitfind.graph import Graph
from circuitfind.methods.acdc import ACDC, DEFAULT_THRESHOLD
from circuitfind.methods.atp import AtP
from circuitfind.methods.baselines import HISP, ActivationMagnitude, Random
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.methods.eap import EAP, EAPIG, CleanCorrupted, EAPIGActivations
from circuitfind.methods.ensemble import Ensemble, WarmStart
from circuitfind.methods.exact import Exact
from circuitfind.methods.gim import GIM
from circuitfind.methods.ifr import IFR
from circuitfind.methods.learned import Learned
from circuitfind.methods.probing import SubnetworkProbing
from circuitfind.methods.pruning import EdgePruning
from circuitfind.methods.relp import RelP
from circuitfind.methods.scorer import Scorer
from circuitfind.patching import find_ablation

if TYPE_CHECKING:
    from circuitfind.preflight import RunOptions

Method = ACDC | Scorer
METHODS: dict[str, type[Any]] = {
    cls.name: cls
    for cls in (
        *(ACDC, EAP, CleanCorrupted, EAPIG, EAPIGActivations, Exact, AtP, RelP, GIM, IFR),
        *(SubnetworkProbing, EdgePruning, Ensemble, HISP, ActivationMagnitude, Random),
    )
}


def make_method(options: RunOptions, graph: Graph) -> Method:
    """The method of settled options. Raises UsageError for a value that it can't work with."""
    name = options.method or ""
    if name == Ensemble.name:
        return Ensemble(tuple(_make(member, options, graph) for member in options.of), options.combine)
    method: Method = _make(name, options, graph)
    if options.start_from is not None and isinstance(method, Learned):
        return WarmStart(method, _make(options.start_from, replace(options, steps=None), graph))
    return method


def _make(name: str, options: RunOptions, graph: Graph) -> Any:
    """One method by itself, with those of the options that are fields of it."""
    values = {
        "threshold": options.threshold,
        "metric": options.metric,
        "ablation": find_ablation(options.ablation),
        "objective": options.objective,
        "schedule": options.schedule,
        "steps": options.steps,
        "grad_drop": options.grad_drop,
        "seed": options.seed,
        "sparsity": sparsity(options, graph),
    }
    values |= {key: value for key, value in options.settings if key in CATALOGUE[name].settings}
    chosen = {field.name: values.get(field.name) for field in fields(METHODS[name])}
    return METHODS[name](**{key: value for key, value in chosen.items() if value is not None})


def sparsity(options: RunOptions, graph: Graph) -> float | None:
    """The share of edges that goes where a number of edges is asked for."""
    if options.edges is not None:
        return 1 - options.edges / graph.n_edges
    return None if options.fraction is None else 1 - options.fraction


def default_threshold(metric: str) -> float:
    """ACDC's where none is given, in the metric's unit: one that is built in."""
    return DEFAULT_THRESHOLD[metric]
