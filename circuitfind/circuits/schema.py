"""What a circuit.json holds, as a schema: which keys are read, and what each may be. Other keys are
left alone.

A file of version 1 may lack what an older circuitfind, or another tool, did not write: only the
model's shape, the graph's size and the edges must be there.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from circuitfind.files.json_file import Name, Schema, Text

MOST_NODES = 200_000
"""A file that claims more heads and MLPs than this is wrong: the largest models have some twenty thousand."""
MOST_IN_A_NODE = 10_000_000
"""Likewise of neurons: the widest MLPs have some hundred thousand."""
MOST_ROLES = 10_000
MOST_PROMPTS = 100_000
"""As many as a prompts file may hold (taskfiles/prompts_file.py)."""
LARGEST = 1e100
"""Of scores and metrics: sums of squares of such numbers stay finite."""

Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Layers = Annotated[int, Meta(ge=1, le=MOST_NODES)]
Width = Annotated[int, Meta(ge=1, le=MOST_IN_A_NODE)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Metrics = dict[str, Number | None]


class Model(Schema, frozen=True):
    """The model that the circuit was found in."""

    n_layers: Layers
    n_heads: Layers
    parallel_attn_mlp: bool
    name: Name | None = None
    architecture: Name | None = None
    d_model: Width | None = None
    d_head: Width | None = None
    d_mlp: Width | None = None
    sha256: Name | None = None


class Task(Schema, frozen=True):
    """The prompts that it was found on."""

    name: Name | None = None
    title: Text | None = None
    n_prompts: Annotated[int, Meta(ge=1, le=MOST_PROMPTS)] | None = None
    seed: Seed | None = None
    prompts_sha256: Name | None = None
    bos: bool | None = None
    tokenizer_sha256: Name | None = None
    file_sha256: Name | None = None


class Means(Schema, frozen=True):
    """The prompts that a mean ablation took its means over."""

    n_prompts: Annotated[int, Meta(ge=1, le=MOST_PROMPTS)] | None = None
    prompts_sha256: Name | None = None


class Method(Schema, frozen=True):
    """What found it, with the options that it was given; settings (``--set``) are among them.

    ``confidence`` is the level of a consensus circuit's intervals; older ones have it in ``level``,
    which is a word.
    """

    name: Name | None = None
    metric: Name | None = None
    ablation: Name | None = None
    threshold: Number | None = None
    objective: Name | None = None
    schedule: Name | None = None
    order: Text | None = None
    score: Text | None = None
    edges: Count | None = None
    nodes: Count | None = None
    neurons: Count | None = None
    fraction: Share | None = None
    select: Name | None = None
    level: Name | Number | None = None
    kv: Name | None = None
    dtype: Name | None = None
    combine: Name | None = None
    steps: Count | None = None
    seed: Seed | None = None
    learning_rate: Number | None = None
    prompts_per_step: Count | None = None
    penalty: Number | None = None
    sparsity: Number | None = None
    node_sparsity: Number | None = None
    temperature: Number | None = None
    inputs: Name | None = None
    qk_fix: bool | None = None
    grad_drop: bool | None = None
    freeze_patterns: bool | None = None
    consensus: Share | None = None
    resamples: Count | None = None
    confidence: Share | None = None
    bootstrap: Count | None = None
    positions: list[Name] | None = None
    means: Means | None = None
    constants_sha256: Name | None = None
    format: Name | None = None
    start_from: Method | None = None
    of: list[Method] | None = None
    candidates: Candidates | None = None


class Candidates(Schema, frozen=True):
    """The edges that a search tested: those of the largest scores of another method."""

    method: Candidate
    asked: Count
    kept: Count | None = None


class Candidate(Method, frozen=True):
    """The method that chose them."""

    name: Name


class GraphSize(Schema, frozen=True):
    """``positions``: the roles that edges are told apart at."""

    n_edges: int
    n_nodes: int | None = None
    positions: Annotated[list[Name], Meta(max_length=MOST_ROLES)] | None = None


class Measured(Schema, frozen=True):
    """How well the full model, the circuit and the fully ablated model did, by metric."""

    full: Metrics | None = None
    circuit: Metrics | None = None
    ablated: Metrics | None = None
    faithfulness: Number | None = None
    faithfulness_interval: tuple[Number, Number] | None = None
    faithfulness_by_metric: Metrics | None = None


class Tolerated(Schema, frozen=True):
    """How far a later run may be from what is stored (``review/tolerances.py``)."""

    accuracy: Share = 0.0
    faithfulness: Annotated[float, Meta(ge=0, le=LARGEST)] = 0.0
    kl: Annotated[float, Meta(ge=0, le=LARGEST)] = 0.0
    jaccard: Share = 0.0
    heads: Share = 0.0


class CircuitFile(Schema, frozen=True):
    """A circuit.json of version 1; ``neurons`` in one of neurons alone."""

    model: Model
    task: Task
    method: Method
    graph: GraphSize
    edges: dict[str, Number]
    metrics: Measured
    neurons: dict[str, Number] | msgspec.UnsetType = msgspec.UNSET
    tolerances: Tolerated | None = None
