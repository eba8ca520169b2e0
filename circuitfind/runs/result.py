"""What a run has loaded and what it has found, and the blocks of the circuit file that are made of both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.bases import edges_among
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.evaluation.performance import Evaluation
from circuitfind.methods.make import Method
from circuitfind.methods.neuron_circuit import NeuronOutcome
from circuitfind.methods.neuron_options import NEURONS
from circuitfind.methods.options import SIZES
from circuitfind.methods.outcome import Found
from circuitfind.methods.scored import Scored
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.candidates import Shortlist
from circuitfind.methods.search.neurons import ACDCNeurons
from circuitfind.models.loading.load import HubTokenizer
from circuitfind.models.loading.model import Model
from circuitfind.options import SettledOptions
from circuitfind.patching.learned_ablation import Learned, constants_file
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.files import write_prompts
from circuitfind.prompts.pairs import PromptPair, Task
from circuitfind.runs.memory import Workload


@dataclass(frozen=True)
class Ready:
    """What a method starts from. It depends on no threshold: the runs of a sweep share it.

    ``options`` have their device settled; ``work`` has the batch size and how many bytes of tests
    may be in flight. ``reference`` are the prompts over which a mean ablation takes its means, and
    from which an optimal one has ``learned`` its constants.
    """

    task: Task
    options: SettledOptions
    tokenizer: HubTokenizer
    pairs: Sequence[PromptPair]
    batch: Batch
    model: Model
    work: Workload
    reference: Sequence[PromptPair] = ()
    learned: Learned | None = None

    @property
    def graph(self) -> Graph:
        """The graph whose edges are looked for: the model's, at the prompts' roles if they have some."""
        return self.batch.graph_of(self.model.transformer.architecture.graph)


@dataclass(frozen=True)
class Findings:
    """Everything that a run came by; its files are written from it.

    ``record`` is what run.json says of how the circuit came about; ``consensus`` the evaluation of
    a bootstrap's consensus circuit; ``shortlist`` the candidates that were tested, None where all
    edges were.
    """

    ready: Ready
    options: SettledOptions
    method: Method
    outcome: Found | Scored | NeuronOutcome
    evaluation: Evaluation
    record: Mapping[str, Any]
    consensus: Evaluation | None = None
    shortlist: Shortlist | None = None

    @property
    def graph(self) -> Graph:
        return self.ready.graph


def make_circuit(findings: Findings) -> Circuit:
    """The kept edges with their scores and everything that identifies what they were found in."""
    method, said = findings.method, {}
    if isinstance(findings.outcome, NeuronOutcome):
        return _neurons_of(findings, findings.outcome, findings.outcome.kept, findings.evaluation, {})
    if findings.shortlist is not None and isinstance(method, ACDC) and method.candidates is not None:
        said = {"candidates": {**method.candidates.to_dict(), "kept": findings.shortlist.n_edges}}
    return _circuit_of(findings, findings.outcome.kept, findings.evaluation, said)


def make_consensus(findings: Findings) -> Circuit | None:
    """The consensus circuit of a bootstrap, where there was one."""
    scored, evaluation = findings.outcome, findings.consensus
    if (
        isinstance(scored, Found)
        or evaluation is None
        or scored.uncertainty is None
        or scored.options is None
    ):
        return None
    said = {
        "consensus": scored.options.bar,
        "resamples": scored.options.resamples,
        "confidence": scored.options.level,
    }
    if isinstance(scored, NeuronOutcome):
        return _neurons_of(findings, scored, scored.uncertainty.consensus[0], evaluation, said)
    return _circuit_of(findings, scored.uncertainty.consensus, evaluation, said)


def _neurons_of(
    findings: Findings,
    outcome: NeuronOutcome,
    kept: Bool[Tensor, " neuron"],
    evaluation: Evaluation,
    said: Mapping[str, Any],
) -> Circuit:
    ready, graph, scores = findings.ready, findings.graph, outcome.scored(kept)
    method = {**method_block(ready, findings.method, findings.options), **said}
    model = {**ready.model.to_dict(), "d_head": outcome.neurons.d_head, "d_mlp": outcome.neurons.d_mlp}
    edges = edges_among(graph, scores)
    return Circuit(graph, edges, model, task_block(ready), method, evaluation.to_dict(), scores)


def _circuit_of(
    findings: Findings,
    kept: Bool[Tensor, "receiver sender"],
    evaluation: Evaluation,
    said: Mapping[str, Any],
) -> Circuit:
    assert not isinstance(findings.outcome, NeuronOutcome)
    ready, graph, scores = findings.ready, findings.graph, findings.outcome.scores
    places = kept.nonzero(as_tuple=True)
    each = zip(*(part.tolist() for part in (*places, scores[places])), strict=True)
    edges = {Edge(graph.senders[s], graph.receivers[r]): score for r, s, score in each}
    block = method_block(ready, findings.method, findings.options)
    method = {**block, **said}
    return Circuit(graph, edges, ready.model.to_dict(), task_block(ready), method, evaluation.to_dict())


def task_block(ready: Ready) -> dict[str, Any]:
    """The block ``task`` of a circuit file."""
    return {
        "name": ready.task.name,
        "n_prompts": len(ready.pairs),
        "seed": ready.options.seed,
        "prompts_sha256": _sha256(ready.pairs),
        "bos": ready.tokenizer.adds_bos,
        "tokenizer_sha256": ready.tokenizer.sha256,
        **({"file_sha256": ready.task.file_sha256} if ready.task.metrics else {}),
    }


def _sha256(pairs: Sequence[PromptPair]) -> str:
    """Of the prompts as their file spells them."""
    return hashlib.sha256(write_prompts(pairs).encode()).hexdigest()


def method_block(ready: Ready, method: Method, options: SettledOptions) -> dict[str, Any]:
    """The block ``method`` of a circuit file: what the method was given, and how a circuit was made
    of its scores.
    """
    block = method.to_dict()
    if not isinstance(method, ACDC | ACDCNeurons):
        given = {
            name: getattr(options, name)
            for name in (*SIZES, NEURONS)
            if getattr(options, name) is not None
        }
        # what a removed edge carries is the circuit's, whatever its scores depend on
        block = {**block, "ablation": options.ablation, **given, "select": options.select}
    if ready.graph.roles:
        block["positions"] = list(ready.graph.roles)
    if ready.reference:
        block["means"] = {"n_prompts": len(ready.reference), "prompts_sha256": _sha256(ready.reference)}
    if ready.learned is not None:
        block["constants_sha256"] = hashlib.sha256(constants_file(ready.learned.constants)).hexdigest()
    return block | {"dtype": options.dtype}


@dataclass(frozen=True)
class TakenOver:
    """What a run has from an earlier one that differs in the threshold alone: decisions or scores,
    an evaluation, the candidates."""

    start: Found | None = None
    per_prompt: Float[Tensor, "prompt receiver sender"] | None = None
    evaluation: Evaluation | None = None
    shortlist: Shortlist | None = None


NOTHING_TAKEN_OVER = TakenOver()
