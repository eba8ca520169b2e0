"""Optimal ablation, literally: a whole masked run for each prompt, to be gone back through by autograd; float64."""

from __future__ import annotations

import torch
from torch import Tensor

from circuitfind.circuits.graph import Node
from circuitfind.circuits.outputs import Outputs
from circuitfind.prompts.batch import Batch
from tests.oracles.grouped import differentiable
from tests.oracles.learned import masked_logits
from tests.oracles.literal import Literal, run


def loss(literal: Literal, batch: Batch, kept: Tensor, constants: Outputs) -> Tensor:
    """The mean of KL(full || run) over the prompts as edges that are not ``kept`` carry the constants."""
    values = []
    for i, end in enumerate(batch.end.tolist()):
        clean = batch.clean[i, : end + 1]
        full, _ = run(literal, clean, frozenset(literal.graph.edges()), {})
        written = {node: row.expand(end + 1, -1) for node, row in rows(literal, constants).items()}
        values.append(
            differentiable("kl", full, masked_logits(literal, clean, kept.double(), written), (), ())
        )
    return torch.stack(values).mean()


def rows(literal: Literal, constants: Outputs) -> dict[Node, Tensor]:
    """What each sender writes when it is ablated, at any position: a head its z times its rows of W_O."""
    found = {Node("input"): constants.embedding[0, 0]}
    for layer, (z, out) in enumerate(zip(constants.z, constants.mlp_out, strict=True)):
        output = literal._output(literal.blocks[layer])
        weight = output.weight if literal.config.model_type == "gpt2" else output.weight.T
        for head in range(literal.graph.n_heads):
            own = weight[head * literal.d_head : (head + 1) * literal.d_head].detach()
            found[Node("head", layer, head)] = z[head, 0, 0] @ own
        found[Node("mlp", layer)] = out[0, 0]
    return found
