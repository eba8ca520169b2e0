"""TransformerLens's weights -> a Transformer, for each family of architectures that circuitfind reproduces.

A family is one function from the bridge to ``Weights``, entered in ``FAMILIES`` under the
architectures it serves. To add one, write that function, and if it computes something new (a norm
after the block, say) teach ``models/components.py`` to do so; ``models/loading/verify.py`` tells
whether the two agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.models.components import (
    Activation,
    Attention,
    BlockSpec,
    Layer,
    Mlp,
    Norm,
    Readout,
)
from circuitfind.models.transformer import Architecture, Transformer

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


ROOM = 1024
"""Positions that a model is made ready for, whatever the prompts that it is loaded with."""


def read_transformer(bridge: Any, n_pos: int) -> Transformer:
    """The bridge's model in circuitfind's form for prompts of up to ``n_pos`` tokens, in its dtype
    and on its device.

    Raises ModelError for an architecture of no family here, a variant that its family does not
    compute, or prompts longer than the model's context.
    """
    name = bridge.cfg.architecture
    if name not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(f"The architecture {name} is not supported yet. Supported: {known}.")
    n_ctx, why = _longest(bridge.original_model.config)
    if n_pos > n_ctx:
        raise ModelError(f"A prompt has {n_pos} tokens; {why}.")
    with torch.no_grad():
        return FAMILIES[name](bridge, n_pos)


def _longest(config: Any) -> tuple[int, str]:
    """How many tokens a prompt may have, and why no more."""
    bounds = [
        (config.max_position_embeddings, f"this model knows {config.max_position_embeddings} positions")
    ]
    if window := _window(config):
        why = (
            f"this model looks back {window} tokens alone (sliding attention), which is supported up to"
            " there"
        )
        bounds.append((window, why))
    rotation = getattr(config, "rope_parameters", None) or {}
    if rotation.get("rope_type") == "longrope":
        original = rotation["original_max_position_embeddings"]
        why = (
            f"beyond {original} this model rotates all positions otherwise (longrope), which is not"
            " supported yet"
        )
        bounds.append((original, why))
    return min(bounds)


def _window(config: Any) -> int | None:
    """How many tokens a position of a sliding layer sees, itself included; None where every layer
    sees all.
    """
    slides = getattr(config, "use_sliding_window", True)
    layers = getattr(config, "layer_types", None) or ["sliding_attention"]
    window: int | None = getattr(config, "sliding_window", None)
    return window if slides and "sliding_attention" in layers else None


@dataclass(frozen=True)
class NormWeights:
    """Gain and bias of a norm, to be folded into what reads through it."""

    gain: Tensor
    bias: Tensor

    @staticmethod
    def of(module: Any) -> NormWeights:
        gain = module.weight.detach()
        bias = getattr(module, "bias", None)
        return NormWeights(gain, torch.zeros_like(gain) if bias is None else bias.detach())

    def fold(self, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        """W [..., d_model, out] and b [..., out] that read the bare norm as (W, b) read the full one."""
        return self.gain.unsqueeze(-1) * W, _or_none(b + self.bias @ W)


def gpt2(bridge: Any, n_pos: int) -> Transformer:
    """GPT-2: LayerNorm, learned positions."""
    config = bridge.original_model.config
    _refuse("cross-attention", config.add_cross_attention)
    scale = 1.0 if not config.scale_attn_weights else (config.n_embd // config.n_head) ** -0.5
    by_layer = config.scale_attn_by_inverse_layer_idx
    scales = [scale / (layer + 1 if by_layer else 1) for layer in range(config.n_layer)]
    norm, mlp = Norm("layer", config.layer_norm_epsilon), Mlp(_activation(config.activation_function))
    architecture = Architecture(
        name=bridge.cfg.architecture,
        n_heads=config.n_head,
        n_kv_heads=config.n_head,
        d_model=config.n_embd,
        d_head=config.n_embd // config.n_head,
        n_ctx=_longest(config)[0],
        blocks=tuple(BlockSpec(norm, Attention(scale), mlp) for scale in scales),
        readout=Readout(norm),
    )
    layers = tuple(_layer(architecture, block) for block in bridge.blocks)
    body = bridge.original_model.transformer
    return _assemble(
        bridge, architecture, layers, W_E=body.wte, norm=body.ln_f, W_pos=body.wpe.weight.detach()
    )


def llama(bridge: Any, n_pos: int) -> Transformer:
    """Llama and its likes (Mistral, Qwen2): RMSNorm, rotary, grouped queries, gated MLP.

    A sliding layer sees all of a prompt that is no longer than its window.
    """
    config = bridge.original_model.config
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    body = bridge.original_model.model
    norm = Norm("rms", config.rms_norm_eps)
    block = BlockSpec(norm, Attention(d_head**-0.5), Mlp(_activation(config.hidden_act), gated=True))
    architecture = Architecture(
        name=bridge.cfg.architecture,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        d_model=config.hidden_size,
        d_head=d_head,
        n_ctx=_longest(config)[0],
        blocks=(block,) * config.num_hidden_layers,
        readout=Readout(norm),
    )
    layers = tuple(_layer(architecture, block) for block in bridge.blocks)
    rotary = _rotary_tables(body.rotary_emb, n_pos, architecture.n_ctx)
    return _assemble(bridge, architecture, layers, W_E=body.embed_tokens, norm=body.norm, rotary=rotary)


def pythia(bridge: Any, n_pos: int) -> Transformer:
    """GPT-NeoX: LayerNorm, partly rotary, attention and MLP in parallel (or in sequence, as its
    config says).
    """
    config = bridge.original_model.config
    d_head = config.hidden_size // config.num_attention_heads
    body = bridge.original_model.gpt_neox
    rotary = _rotary_tables(body.rotary_emb, n_pos, _longest(config)[0])
    norm, mlp = Norm("layer", config.layer_norm_eps), Mlp(_activation(config.hidden_act))
    block = BlockSpec(norm, Attention(d_head**-0.5), mlp, parallel=config.use_parallel_residual)
    architecture = Architecture(
        name=bridge.cfg.architecture,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_attention_heads,
        d_model=config.hidden_size,
        d_head=d_head,
        n_ctx=_longest(config)[0],
        blocks=(block,) * config.num_hidden_layers,
        readout=Readout(norm),
    )
    layers = tuple(_layer(architecture, block) for block in bridge.blocks)
    return _assemble(
        bridge, architecture, layers, W_E=body.embed_in, norm=body.final_layer_norm, rotary=rotary
    )


FAMILIES: dict[str, Callable[[Any, int], Transformer]] = {
    "GPT2LMHeadModel": gpt2,
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": llama,
    "Qwen2ForCausalLM": llama,
    "GPTNeoXForCausalLM": pythia,
}


def _refuse(what: str, present: bool) -> None:
    if present:
        raise ModelError(f"This model uses {what}, which is not supported yet. Use a model without it.")


def _activation(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise ModelError(
            f"The activation '{name}' is not supported yet. Supported: {', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[name]


def _or_none(bias: Tensor) -> Tensor | None:
    """None in place of a bias of zeros: adding it would only take time."""
    return bias if bool(bias.any()) else None


def _linear(module: Any) -> tuple[Tensor, Tensor]:
    """Weight as [reads, writes], and bias (zeros where there is none). Linear stores [writes,
    reads], Conv1D not.
    """
    weight = module.weight.detach()
    weight = weight.T if isinstance(module.original_component, torch.nn.Linear) else weight
    bias = getattr(module, "bias", None)
    return weight, weight.new_zeros(weight.shape[1]) if bias is None else bias.detach()


def _split_heads(W: Tensor, b: Tensor, d_head: int) -> tuple[Tensor, Tensor]:
    """[d_model, head * d_head] -> [head, d_model, d_head], and the bias likewise."""
    return W.reshape(W.shape[0], -1, d_head).transpose(0, 1), b.reshape(-1, d_head)


def _layer(architecture: Architecture, block: Any) -> Layer:
    read_attention, read_mlp = NormWeights.of(block.ln1), NormWeights.of(block.ln2)
    d_head = architecture.d_head
    heads = {
        slot: read_attention.fold(*_split_heads(*_linear(getattr(block.attn, slot)), d_head))
        for slot in ("q", "k", "v")
    }
    W_O, b_O = _linear(block.attn.o)
    W_in, b_in = read_mlp.fold(*_linear(getattr(block.mlp, "in")))
    gate = getattr(block.mlp, "gate", None)
    W_gate, b_gate = (None, None) if gate is None else read_mlp.fold(*_linear(gate))
    W_out, b_out = _linear(block.mlp.out)
    return Layer(
        W_Q=heads["q"][0].contiguous(),
        W_K=heads["k"][0].contiguous(),
        W_V=heads["v"][0].contiguous(),
        W_O=W_O.reshape(architecture.n_heads, d_head, -1),
        b_Q=heads["q"][1],
        b_K=heads["k"][1],
        b_V=heads["v"][1],
        b_O=b_O,
        W_in=W_in,
        b_in=b_in,
        W_gate=W_gate,
        b_gate=b_gate,
        W_out=W_out,
        b_out=b_out,
    )


def _rotary_tables(rotary: Any, n_pos: int, n_ctx: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine for the first positions, as the model's own rotary module makes them (any
    scaling included).

    There are ``ROOM`` of them at least where the model knows as many: other prompts may be longer
    than the first.
    """
    frequencies, n_pos = rotary.inv_freq, max(n_pos, min(ROOM, n_ctx))
    x = torch.zeros(1, dtype=torch.float32, device=frequencies.device)
    cos, sin = rotary(x, torch.arange(n_pos, device=frequencies.device).unsqueeze(0))
    return cos[0], sin[0]


def _assemble(
    bridge: Any,
    architecture: Architecture,
    layers: tuple[Layer, ...],
    W_E: Any,
    norm: Any,
    W_pos: Tensor | None = None,
    rotary: tuple[Tensor, Tensor] | None = None,
) -> Transformer:
    head = bridge.original_model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    final = NormWeights.of(norm)
    dtype = final.gain.dtype
    return Transformer(
        architecture=architecture,
        W_E=W_E.weight.detach(),
        W_pos=W_pos,
        rotary_cos=None if rotary is None else rotary[0].to(dtype),
        rotary_sin=None if rotary is None else rotary[1].to(dtype),
        layers=layers,
        final_gain=final.gain,
        final_bias=final.bias,
        W_U=head.weight.detach().T,
        b_U=None if bias is None else _or_none(bias.detach()),
    )
