"""A transformer with ablated edges, written out: one prompt, one head, one sum over senders at a time, in float64.

Shares nothing with circuitfind but the names of nodes and edges: it calls the Hugging Face model's own modules.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as rotate_partly
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_all

from circuitfind.circuits.graph import Edge, Graph, Node, Receiver
from tests.random_models import REFERENCE

Outputs = dict[Node, Tensor]


class Literal:
    """The parts of a Hugging Face model that the graph's nodes stand for; streams are [pos, d_model]."""

    def __init__(self, model: Any) -> None:
        self.model = model.double().eval()
        self.config = model.config
        self.graph = Graph(
            self.config.num_hidden_layers, self.config.num_attention_heads, self._parallel()
        )
        self.d_head = self.config.hidden_size // self.config.num_attention_heads

    def _parallel(self) -> bool:
        return self.config.model_type == "gpt_neox" and self.config.use_parallel_residual

    @property
    def blocks(self) -> Any:
        kind = self.config.model_type
        return {
            "gpt2": lambda m: m.transformer.h,
            "llama": lambda m: m.model.layers,
            "gpt_neox": lambda m: m.gpt_neox.layers,
        }[kind](self.model)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(tokens)

    def never_ablated(self, n_pos: int, receiver: Receiver) -> Tensor:
        """Position embeddings and the output biases of everything before the receiver."""
        total = torch.zeros(n_pos, self.config.hidden_size, dtype=torch.float64)
        if self.config.model_type == "gpt2":
            total = total + self.model.transformer.wpe(torch.arange(n_pos))
        node = receiver.node
        last = self.graph.n_layers if node.kind == "logits" else node.layer
        for block in self.blocks[:last]:
            total = total + self._bias(self._output(block)) + self._bias(self._mlp_output(block))
        if node.kind == "mlp" and not self.graph.parallel:
            total = total + self._bias(self._output(self.blocks[node.layer]))
        return total

    def head(self, layer: int, head: int, x_q: Tensor, x_k: Tensor, x_v: Tensor) -> Tensor:
        """What the head writes, without the output bias."""
        block, n_pos = self.blocks[layer], len(x_q)
        q, k, v = (
            self._project(block, slot, head, x) for slot, x in (("q", x_q), ("k", x_k), ("v", x_v))
        )
        if self.config.model_type != "gpt2":
            q, k = self._rotate(q, k, n_pos)
        scores = q @ k.T / self.d_head**0.5
        future = torch.ones(n_pos, n_pos).triu(1).bool()
        z = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
        output = self._output(block)
        rows = slice(head * self.d_head, (head + 1) * self.d_head)
        return z @ (output.weight[rows] if self.config.model_type == "gpt2" else output.weight[:, rows].T)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """What the MLP writes, without the output bias."""
        block = self.blocks[layer]
        norm = block.ln_2 if self.config.model_type == "gpt2" else block.post_attention_layernorm
        return block.mlp(self._norm(norm, x)) - self._bias(self._mlp_output(block))

    def _norm(self, norm: Any, x: Tensor) -> Tensor:
        """The norm in float64; Hugging Face's RMSNorm rounds to float32 inside."""
        if self.config.model_type != "llama":
            return norm(x)
        return x / (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight

    def logits(self, x: Tensor) -> Tensor:
        body = self.model.get_decoder() if self.config.model_type != "gpt_neox" else self.model.gpt_neox
        norm = {"gpt2": "ln_f", "llama": "norm", "gpt_neox": "final_layer_norm"}[self.config.model_type]
        return self.model.get_output_embeddings()(self._norm(getattr(body, norm), x))

    def _output(self, block: Any) -> Any:
        kind = self.config.model_type
        return (
            block.attn.c_proj
            if kind == "gpt2"
            else block.self_attn.o_proj
            if kind == "llama"
            else block.attention.dense
        )

    def _mlp_output(self, block: Any) -> Any:
        kind = self.config.model_type
        return (
            block.mlp.c_proj
            if kind == "gpt2"
            else block.mlp.down_proj
            if kind == "llama"
            else block.mlp.dense_4h_to_h
        )

    def _bias(self, module: Any) -> Tensor | float:
        return 0.0 if module.bias is None else module.bias

    def _project(self, block: Any, slot: str, head: int, x: Tensor) -> Tensor:
        if self.config.model_type == "gpt2":
            x, place = block.ln_1(x), "qkv".index(slot) * self.config.hidden_size + head * self.d_head
            return block.attn.c_attn(x)[:, place : place + self.d_head]
        if self.config.model_type == "gpt_neox":
            place = (3 * head + "qkv".index(slot)) * self.d_head
            return block.attention.query_key_value(block.input_layernorm(x))[
                :, place : place + self.d_head
            ]
        group = self.config.num_attention_heads // self.config.num_key_value_heads
        place = (head if slot == "q" else head // group) * self.d_head
        return getattr(block.self_attn, f"{slot}_proj")(self._norm(block.input_layernorm, x))[
            :, place : place + self.d_head
        ]

    def _rotate(self, q: Tensor, k: Tensor, n_pos: int) -> tuple[Tensor, Tensor]:
        neox = self.config.model_type == "gpt_neox"
        body = self.model.gpt_neox if neox else self.model.model
        cos, sin = body.rotary_emb(q[None], torch.arange(n_pos)[None])
        q, k = (rotate_partly if neox else rotate_all)(q[None, None], k[None, None], cos, sin)
        return q[0, 0], k[0, 0]


@torch.no_grad()
def run(
    literal: Literal, tokens: Tensor, kept: Collection[Edge], ablated: Outputs
) -> tuple[Tensor, Outputs]:
    """Logits at one prompt's last position, and what every sender wrote, when only ``kept`` edges carry the run."""
    written: Outputs = {Node("input"): literal.embed(tokens)}

    def read(receiver: Receiver) -> Tensor:
        total = literal.never_ablated(len(tokens), receiver)
        for sender in literal.graph.senders[: literal.graph.n_readable(receiver)]:
            total = total + (written[sender] if Edge(sender, receiver) in kept else ablated[sender])
        return total

    for node in literal.graph.senders[1:]:
        if node.kind == "head":
            written[node] = literal.head(
                node.layer, node.head, *(read(Receiver(node, slot)) for slot in ("q", "k", "v"))
            )
        else:
            written[node] = literal.mlp(node.layer, read(Receiver(node)))
    return literal.logits(read(Receiver(Node("logits"))))[-1], written


def ablated_outputs(literal: Literal, clean: Tensor, corrupted: Tensor, ablation: str) -> Outputs:
    """What every sender writes on the corrupted prompt, or zeros, or its means over the prompts of ``REFERENCE``."""
    everything = frozenset(literal.graph.edges())
    if (
        ablation.startswith("mean") or ablation == "optimal"
    ):  # until they are learned its constants are the means
        return means(literal, len(clean), ablation == "mean-positional")
    _, written = run(literal, clean if ablation == "zero" else corrupted, everything, {})
    return {node: torch.zeros_like(x) for node, x in written.items()} if ablation == "zero" else written


def means(literal: Literal, n_pos: int, positional: bool) -> Outputs:
    """The mean of what every sender writes over all positions of all reference prompts, or at each position."""
    everything = frozenset(literal.graph.edges())
    lengths = (REFERENCE.end + 1).tolist()
    runs = [
        run(literal, REFERENCE.clean[i, :length], everything, {})[1] for i, length in enumerate(lengths)
    ]

    def mean(node: Node, position: int) -> Tensor:
        here = [written[node][position] for written in runs if position < len(written[node])]
        return torch.stack(here or [row for written in runs for row in written[node]]).mean(0)

    beyond = max(lengths)
    places = [position if positional else beyond for position in range(n_pos)]
    return {node: torch.stack([mean(node, place) for place in places]) for node in runs[0]}
