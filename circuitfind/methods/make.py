"""Options -> a method."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from circuitfind.circuits.graph import Graph
from circuitfind.circuits.units import DEFAULTS, find_kv, find_level
from circuitfind.errors import UsageError
from circuitfind.methods.attribution.atp import AtP
from circuitfind.methods.attribution.by_neuron import ByNeuron
from circuitfind.methods.attribution.eap import EAP, EAPIG, CleanCorrupted, EAPIGActivations
from circuitfind.methods.attribution.gim import GIM
from circuitfind.methods.attribution.relp import RelP
from circuitfind.methods.attribution.summed import Summed
from circuitfind.methods.baselines import HISP, ActivationMagnitude, Random
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.methods.ensemble import Ensemble, WarmStart
from circuitfind.methods.exact import Exact
from circuitfind.methods.exact_neurons import ExactNeurons
from circuitfind.methods.ifr import IFR
from circuitfind.methods.masks.learned import Learned
from circuitfind.methods.masks.probing import SubnetworkProbing
from circuitfind.methods.masks.pruning import EdgePruning
from circuitfind.methods.method import Scorer
from circuitfind.methods.options import metric_of_candidates, parse_candidates
from circuitfind.methods.search.acdc import ACDC, DEFAULT_THRESHOLD
from circuitfind.methods.search.candidates import Candidates
from circuitfind.methods.search.neurons import ACDCNeurons
from circuitfind.patching.ablation import find_ablation

if TYPE_CHECKING:
    from circuitfind.options import SettledOptions

Method = ACDC | ACDCNeurons | Scorer
METHODS: dict[str, type[Any]] = {
    cls.name: cls
    for cls in (
        *(ACDC, EAP, CleanCorrupted, EAPIG, EAPIGActivations, Exact, AtP, RelP, GIM, IFR),
        *(SubnetworkProbing, EdgePruning, Ensemble, HISP, ActivationMagnitude, Random),
    )
}


def make_method(options: SettledOptions, graph: Graph) -> ACDC | Scorer:
    """The method of settled options. Raises UsageError for a value that it can't work with."""
    name = options.method
    if name == Ensemble.name:
        of = tuple(_make(member, options, graph) for member in options.of)
        return Ensemble(of, options.combine, find_level(options.level), find_kv(options.kv))
    method: ACDC | Scorer = _make(name, options, graph)
    if options.candidates is not None and isinstance(method, ACDC):
        return replace(method, candidates=_make_candidates(options, options.candidates, graph))
    if options.start_from is not None and isinstance(method, Learned):
        return WarmStart(method, _make(options.start_from, replace(options, steps=None), graph))
    return method


def make_neuron_method(options: SettledOptions, graph: Graph) -> ACDCNeurons | Scorer:
    """The method of settled options at neuron level. Raises UsageError for a value that it can't
    work with.
    """
    metric, ablation = options.metric, find_ablation(options.ablation)
    if options.method == ACDCNeurons.name:
        return ACDCNeurons(options.threshold or 0.0, metric, ablation, options.objective)
    if options.method == ExactNeurons.name:
        return ExactNeurons(metric, ablation)
    return ByNeuron(_make(options.method, replace(options, level="edge"), graph))


def _make(name: str, options: SettledOptions, graph: Graph) -> Any:
    """One method by itself, with those of the options that are fields of it; sums where it knows
    edges alone.
    """
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
        "level": find_level(options.level),
        "kv": find_kv(options.kv),
    }
    values |= {key: value for key, value in options.settings if key in CATALOGUE[name].settings}
    chosen = {field.name: values.get(field.name) for field in fields(METHODS[name])}
    method = METHODS[name](**{key: value for key, value in chosen.items() if value is not None})
    left = [key for key, default in DEFAULTS.items() if key not in chosen and values[key] != default]
    return Summed(method, find_level(options.level), find_kv(options.kv)) if left else method


def _make_candidates(options: SettledOptions, asked: str, graph: Graph) -> Candidates:
    """Those of a method by its own defaults. Raises UsageError for more than the graph has edges."""
    name, n_edges = parse_candidates(asked)
    if n_edges > graph.n_edges:
        raise UsageError(
            f"--candidates {asked} asks for {n_edges:,} edges; the model's graph has {graph.n_edges:,}. Ask"
            " for fewer."
        )
    metric = metric_of_candidates(CATALOGUE[name], options.metric)
    return Candidates(_make(name, replace(options, metric=metric), graph), n_edges)


def sparsity(options: SettledOptions, graph: Graph) -> float | None:
    """The share of edges that goes where a number of edges is asked for."""
    if options.edges is not None:
        return 1 - options.edges / graph.n_edges
    return None if options.fraction is None else 1 - options.fraction


def default_threshold(metric: str) -> float:
    """ACDC's where none is given, in the metric's unit: one that is built in."""
    return DEFAULT_THRESHOLD[metric]
