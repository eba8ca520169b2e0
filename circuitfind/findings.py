"""What a run came by, and the files that are written from it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitfind import __version__
from circuitfind.batch import Batch
from circuitfind.circuit import Circuit
from circuitfind.evaluation.performance import Evaluation
from circuitfind.graph import Edge, Graph
from circuitfind.memory import Workload
from circuitfind.methods.acdc import ACDC
from circuitfind.methods.found import Found
from circuitfind.methods.make import Method
from circuitfind.methods.options import SIZES
from circuitfind.methods.scored import Scored
from circuitfind.models.load import HubTokenizer
from circuitfind.models.model import Model
from circuitfind.preflight import RunOptions
from circuitfind.prompts import PromptPair, Task
from circuitfind.report import Evidence, report
from circuitfind.runfolder import RUN_FILE, json_file
from circuitfind.scoresfile import prompt_scores_file, scores_file, uncertainty_file
from circuitfind.taskfiles import write_prompts

VERSIONED = ("torch", "transformer_lens", "transformers", "safetensors", "pygraphviz")


@dataclass(frozen=True)
class Ready:
    """What a method starts from. It depends on no threshold: the runs of a sweep share it.

    ``options`` have their device settled; ``work`` has the batch size and how many bytes of tests may be in flight.
    ``reference`` are the prompts over which a mean ablation takes its means.
    """

    task: Task
    options: RunOptions
    tokenizer: HubTokenizer
    pairs: Sequence[PromptPair]
    batch: Batch
    model: Model
    work: Workload
    reference: Sequence[PromptPair] = ()

    @property
    def graph(self) -> Graph:
        """The graph whose edges are looked for: the model's, at the prompts' roles if they have some."""
        return self.batch.graph_of(self.model.transformer.architecture.graph)


@dataclass(frozen=True)
class Findings:
    """Everything that a run came by; its files are written from it.

    ``record`` is what run.json says of how the circuit came about; ``consensus`` the evaluation of a bootstrap's
    consensus circuit.
    """

    ready: Ready
    options: RunOptions
    method: Method
    outcome: Found | Scored
    evaluation: Evaluation
    record: Mapping[str, Any]
    consensus: Evaluation | None = None

    @property
    def graph(self) -> Graph:
        return self.ready.graph


def make_circuit(findings: Findings) -> Circuit:
    """The kept edges with their scores and everything that identifies what they were found in."""
    return _circuit_of(findings, findings.outcome.kept, findings.evaluation, {})


def make_consensus(findings: Findings) -> Circuit | None:
    """The consensus circuit of a bootstrap, where there was one."""
    scored, evaluation = findings.outcome, findings.consensus
    if not isinstance(scored, Scored) or evaluation is None or scored.uncertainty is None or scored.options is None:
        return None
    said = {"consensus": scored.options.bar, "resamples": scored.options.resamples, "level": scored.options.level}
    return _circuit_of(findings, scored.uncertainty.consensus, evaluation, said)


def _circuit_of(
    findings: Findings, kept: Bool[Tensor, "receiver sender"], evaluation: Evaluation, said: Mapping[str, Any]
) -> Circuit:
    ready, graph, scores = findings.ready, findings.graph, findings.outcome.scores
    places = kept.nonzero().tolist()
    edges = {Edge(graph.senders[s], graph.receivers[r]): float(scores[r, s]) for r, s in places}
    method = {**method_block(ready, findings.method, findings.options), **said}
    return Circuit(graph, edges, ready.model.to_dict(), task_block(ready), method, evaluation.to_dict())


def task_block(ready: Ready) -> dict[str, Any]:
    """The block ``task`` of a circuit file."""
    return {
        "name": ready.task.name,
        "n_prompts": len(ready.pairs),
        "seed": ready.options.seed,
        "prompts_sha256": _sha256(ready.pairs),
        "bos": ready.tokenizer.adds_bos,
    }


def _sha256(pairs: Sequence[PromptPair]) -> str:
    """Of the prompts as their file spells them."""
    return hashlib.sha256(write_prompts(pairs).encode()).hexdigest()


def method_block(ready: Ready, method: Method, options: RunOptions) -> dict[str, Any]:
    """The block ``method`` of a circuit file: what the method was given, and how a circuit was made of its scores."""
    block = method.to_dict()
    if not isinstance(method, ACDC):
        given = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
        # what a removed edge carries is the circuit's, whatever its scores depend on
        block = {**block, "ablation": options.ablation, **given, "select": options.select}
    if ready.graph.roles:
        block["positions"] = list(ready.graph.roles)
    if ready.reference:
        block["means"] = {"n_prompts": len(ready.reference), "prompts_sha256": _sha256(ready.reference)}
    return block | {"dtype": options.dtype}


def make_record(findings: Findings) -> dict[str, Any]:
    """run.json without what the run took: everything needed to repeat it."""
    ready, options = findings.ready, asdict(findings.options)
    return {
        "command": {key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
        "method": findings.method.to_dict(),
        "model_sha256": ready.model.sha256,
        "model_difference": ready.model.difference,
        "bos": ready.tokenizer.adds_bos,
        "n_pos": ready.batch.n_pos,
        **findings.record,
        "threads": torch.get_num_threads(),
        "versions": {
            "circuitfind": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONED},
        },
        "platform": f"{platform.system()} {platform.machine()}",
    }


def make_files(
    findings: Findings, circuit: Circuit, pictures: dict[str, bytes], record: dict[str, Any]
) -> dict[str, str | bytes]:
    """The run's files by name; run.json, the last, says that all the others are there."""
    ready = findings.ready
    evidence = Evidence(circuit, findings.evaluation, ready.pairs[0], record, tuple(pictures), findings.outcome)
    return {
        "circuit.json": circuit.to_json(),
        "scores.safetensors": scores_file(circuit.graph, findings.outcome.scores, ready.model.transformer.dtype),
        **bootstrap_files(findings),
        "prompts.jsonl": write_prompts(ready.pairs),
        **({"reference.jsonl": write_prompts(ready.reference)} if ready.reference else {}),
        **pictures,
        "report.md": report(evidence),
        RUN_FILE: json_file(record),
    }


def bootstrap_files(findings: Findings) -> dict[str, str | bytes]:
    """The scores of single prompts, what a bootstrap found in them, and its consensus circuit; where there are any."""
    scored = findings.outcome
    if not isinstance(scored, Scored) or len(scored.per_prompt) < 2:
        return {}
    files: dict[str, str | bytes] = {"prompt_scores.safetensors": prompt_scores_file(findings.graph, scored.per_prompt)}
    consensus = make_consensus(findings)
    if consensus is not None and scored.uncertainty is not None:
        files["bootstrap.safetensors"] = uncertainty_file(findings.graph, scored.uncertainty)
        files["consensus.json"] = consensus.to_json()
    return files
