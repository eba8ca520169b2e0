"""The literal model with every part that isn't linear written out, for methods that pass gradients on by rules of their
own. What it computes is the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.oracles.literal import Literal


def share(x: Tensor, part: float) -> Tensor:
    """``x``, which passes on but a part of its gradient."""
    return part * x + (1 - part) * x.detach()


class Altered(Literal):
    def scale(self, variance: Tensor) -> Tensor:
        """What a norm divides by."""
        return variance.sqrt()

    def activate(self, activation: Any, x: Tensor) -> Tensor:
        return activation(x)

    def softmax(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)

    def gated(self, product: Tensor) -> Tensor:
        """A gate times what it lets through."""
        return product

    def attended(self, product: Tensor) -> Tensor:
        """Queries times keys, and patterns times values."""
        return product

    def head(self, layer: int, head: int, x_q: Tensor, x_k: Tensor, x_v: Tensor) -> Tensor:
        block = self.blocks[layer]
        pattern = self.pattern(layer, head, x_q, x_k)
        z = self.attended(pattern @ self._project(block, "v", head, x_v))
        output, rows = self._output(block), slice(head * self.d_head, (head + 1) * self.d_head)
        return z @ (output.weight[rows] if self.config.model_type == "gpt2" else output.weight[:, rows].T)

    def pattern(self, layer: int, head: int, x_q: Tensor, x_k: Tensor) -> Tensor:
        """Who attends to whom, [query, key]."""
        block, n_pos = self.blocks[layer], len(x_q)
        q, k = self._project(block, "q", head, x_q), self._project(block, "k", head, x_k)
        if self.config.model_type != "gpt2":
            q, k = self._rotate(q, k, n_pos)
        scores = self.attended(q @ k.T) / self.d_head**0.5
        return self.softmax(scores.masked_fill(torch.ones(n_pos, n_pos).triu(1).bool(), -torch.inf))

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        block = self.blocks[layer]
        norm = block.ln_2 if self.config.model_type == "gpt2" else block.post_attention_layernorm
        x, mlp = self._norm(norm, x), block.mlp
        if self.config.model_type == "llama":
            return mlp.down_proj(self.gated(self.activate(mlp.act_fn, mlp.gate_proj(x)) * mlp.up_proj(x)))
        if self.config.model_type == "gpt2":
            return mlp.c_proj(self.activate(mlp.act, mlp.c_fc(x))) - mlp.c_proj.bias
        return mlp.dense_4h_to_h(self.activate(mlp.act, mlp.dense_h_to_4h(x))) - mlp.dense_4h_to_h.bias

    def _norm(self, norm: Any, x: Tensor) -> Tensor:
        if self.config.model_type == "llama":
            return x / self.scale(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon) * norm.weight
        x = x - x.mean(-1, keepdim=True)
        return x / self.scale(x.pow(2).mean(-1, keepdim=True) + norm.eps) * norm.weight + norm.bias

    def _project(self, block: Any, slot: str, head: int, x: Tensor) -> Tensor:
        if self.config.model_type == "llama":
            return super()._project(block, slot, head, x)
        if self.config.model_type == "gpt2":
            place = "qkv".index(slot) * self.config.hidden_size + head * self.d_head
            return block.attn.c_attn(self._norm(block.ln_1, x))[:, place : place + self.d_head]
        place = (3 * head + "qkv".index(slot)) * self.d_head
        wide = block.attention.query_key_value(self._norm(block.input_layernorm, x))
        return wide[:, place : place + self.d_head]
