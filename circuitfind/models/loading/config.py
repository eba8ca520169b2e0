"""What a config.json says of a model, read once through a schema, and whether circuitfind can run
such a model.

Nothing here imports torch or reads a weight: one small file tells, before anything else is fetched
or loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from circuitfind.errors import ModelError, shown, unknown
from circuitfind.files.json_file import Name, Schema, fit, parse_json, read_text

MOST_BYTES = 1 << 22
"""Of a config.json: the largest known hold some thousand labels, the usual ones a page."""

SUPPORTED: Mapping[str, str] = {
    "GPT2LMHeadModel": "gpt2",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "GPTNeoXForCausalLM": "gpt_neox",
}
"""The architectures that can be run, each with transformers' word for its type.
``models/architectures/table.py`` reads their weights; a test holds the two together."""
ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish")
ROTATIONS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")

Labels = Annotated[dict[str, Any], Meta(max_length=100_000)]
Layers = Annotated[int, Meta(ge=1, le=10_000)]
Heads = Annotated[int, Meta(ge=1, le=100_000)]
Width = Annotated[int, Meta(ge=1, le=1 << 24)]
Tokens = Annotated[int, Meta(ge=1, le=1 << 27)]
Positions = Annotated[int, Meta(ge=1, le=1 << 31)]
Epsilon = Annotated[float, Meta(ge=0)]


class Config(Schema, frozen=True):
    """What every reader of a config.json relies on, of whatever architecture."""

    architectures: list[Name] | None = None
    model_type: Name | None = None
    vocab_size: Tokens | None = None
    num_labels: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    id2label: Labels | None = None
    label2id: Labels | None = None


class DecoderConfig(Config, frozen=True):
    """What a model of the supported architectures is made by; GPT-2 has names of its own for some of it."""

    num_hidden_layers: Layers | None = None
    n_layer: Layers | None = None
    num_attention_heads: Heads | None = None
    n_head: Heads | None = None
    num_key_value_heads: Heads | None = None
    hidden_size: Width | None = None
    n_embd: Width | None = None
    head_dim: Width | None = None
    intermediate_size: Width | None = None
    n_inner: Width | None = None
    max_position_embeddings: Positions | None = None
    n_positions: Positions | None = None
    sliding_window: Positions | None = None
    hidden_act: Name | None = None
    activation_function: Name | None = None
    layer_norm_epsilon: Epsilon | None = None
    layer_norm_eps: Epsilon | None = None
    rms_norm_eps: Epsilon | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    tie_word_embeddings: bool | None = None
    use_parallel_residual: bool | None = None
    use_sliding_window: bool | None = None
    scale_attn_weights: bool | None = None
    scale_attn_by_inverse_layer_idx: bool | None = None
    add_cross_attention: bool | None = None
    quantization_config: dict[str, Any] | None = None

    @property
    def n_layers(self) -> int | None:
        return self.num_hidden_layers or self.n_layer

    @property
    def n_heads(self) -> int | None:
        return self.num_attention_heads or self.n_head

    @property
    def d_model(self) -> int | None:
        return self.hidden_size or self.n_embd

    @property
    def least_numbers(self) -> int:
        """Of how many numbers its weights are at least, as far as it says: embeddings, W_Q, W_O,
        W_in and W_out.
        """
        d_model, n_layers, n_heads = self.d_model or 1, self.n_layers or 1, self.n_heads or 1
        d_head = self.head_dim or max(1, d_model // n_heads)
        d_mlp = self.intermediate_size or self.n_inner or 1
        learned_positions = self.n_positions or 0
        of_layer = 2 * n_heads * d_head + 2 * d_mlp
        return d_model * ((self.vocab_size or 1) + learned_positions + n_layers * of_layer)


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says. Raises ModelError where it is missing, or not what a config can be."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no config.json. Give a model's folder in the hub's layout, or a .gguf file."
        )
    config = parse_json(read_text(path, ModelError, MOST_BYTES), str(path), ModelError)
    fit(config, Config, str(path), ModelError)
    return dict(config)


def judge(config: Mapping[str, Any], source: str) -> DecoderConfig:
    """The config of a model that can be run. Raises ModelError that names what can't; ``source``:
    where it stands.
    """
    _judge_architecture(fit(dict(config), Config, source, ModelError), source)
    decoder = fit(dict(config), DecoderConfig, source, ModelError)
    _judge_shape(decoder, source)
    for name in (decoder.hidden_act, decoder.activation_function):
        if name is not None and name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ModelError(
                f"{source}: the activation {shown(name)} is not supported yet. Supported: {known}."
            )
    for rotation in (decoder.rope_scaling, decoder.rope_parameters):
        _judge_rotation(rotation or {}, source)
    if decoder.add_cross_attention:
        raise ModelError(
            f"{source}: this model uses cross-attention, which is not supported yet. Use one without it."
        )
    if decoder.quantization_config is not None:
        how = shown(decoder.quantization_config.get("quant_method"))
        raise ModelError(
            f"{source}: its weights are quantised ({how}). Give the model with the weights it was made of."
        )
    return decoder


def _judge_architecture(config: Config, source: str) -> None:
    if not config.architectures:
        raise ModelError(
            f'{source} names no architecture. Add it, e.g. "architectures": ["GPT2LMHeadModel"].'
        )
    name = config.architectures[0]
    if name not in SUPPORTED:
        known = ", ".join(sorted(SUPPORTED))
        raise ModelError(
            f"{source}: the architecture {shown(name, False)} is not supported. Supported: {known}."
        )
    if config.model_type not in (None, SUPPORTED[name]):
        raise ModelError(
            f'{source}: its "model_type" is {shown(config.model_type)}; of {name} it is'
            f" {shown(SUPPORTED[name])}."
        )


def _judge_shape(config: DecoderConfig, source: str) -> None:
    """Raises ModelError where the widths can't be divided among the heads."""
    d_model, n_heads, n_kv_heads = config.d_model, config.n_heads, config.num_key_value_heads
    if d_model and n_heads and not config.head_dim and d_model % n_heads:
        raise ModelError(f"{source}: a width of {d_model} can't be divided among {n_heads} heads.")
    if n_heads and n_kv_heads and n_heads % n_kv_heads:
        raise ModelError(f"{source}: {n_heads} heads can't share {n_kv_heads} keys and values evenly.")


def _judge_rotation(rotation: Mapping[str, Any], source: str) -> None:
    name = rotation.get("rope_type", rotation.get("type", "default"))
    if name not in ROTATIONS:
        said = unknown("rotary scaling", str(name), ROTATIONS, "rotary scalings")
        raise ModelError(f"{source}: {said}")
