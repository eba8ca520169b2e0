"""What a GGUF file says of its model and tokenizer, in Hugging Face's words: all of it, or it is
refused by name.

transformers reads a part of what such a file says and leaves the rest out without a word: how
positions are scaled (``rope.scaling``, ``rope_freqs.weight``), biases, BOS. What it leaves out is
put back; a key or tensor that bears on the computation and that nobody reads is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from circuitfind.errors import ModelError, cut, shown
from circuitfind.models.loading.config import DecoderConfig, judge
from circuitfind.models.loading.gguf_head import GgufHead

ARCHITECTURES = {
    "gpt2": ("GPT2LMHeadModel", "gpt2"),
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
}
"""llama.cpp's names of what can be read, with Hugging Face's. Mistral's files are called llama there."""

_SIZES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "vocab_size": "vocab_size",
}
_NEEDED = ("block_count", "embedding_length", "context_length", "attention.head_count")
_READ = {
    *_SIZES,
    "rope.freq_base",
    "rope.dimension_count",
    "attention.key_length",
    "attention.value_length",
}
_READ |= {f"rope.scaling.{name}" for name in ("type", "factor", "original_context_length", "attn_factor")}
_READ |= {"rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scale_linear"}
_IDLE = {"rope.scaling.finetuned", "tensor_data_layout"}  # how it came about
_NEUTRAL: Mapping[str, Any] = {"expert_count": 0, "expert_used_count": 0, "attention.causal": True}
"""Keys that may stand there with this value alone."""
_TENSORS = re.compile(
    r"(token_embd|output|position_embd)\.weight|output_norm\.(weight|bias)|rope_freqs\.weight"
    r"|blk\.\d+\.(attn_norm|ffn_norm|attn_q|attn_k|attn_v|attn_qkv|attn_output|ffn_gate|ffn_up|ffn_down)\.(weight|bias)"
)
_NO_WEIGHTS = re.compile(r"blk\.\d+\.attn_rot_embd(\.weight)?")  # tables that llama.cpp makes anew


@dataclass(frozen=True)
class GgufModel:
    """What a file says, and transformers leaves out of the config and tokenizer that it makes of it.

    ``has_factors``: it divides its rotary frequencies by a ``rope_freqs.weight``. ``biases``: which
    of a layer's tensors have one. ``splitting``: how its tokenizer splits a text; ``takes_whole``:
    a word that is a token is one, whatever its parts merge to. ``puts_bos`` None: as transformers
    takes it.
    """

    name: str
    sizes: DecoderConfig
    d_head: int
    rotation: Mapping[str, Any]
    has_factors: bool
    biases: frozenset[str]
    splitting: str
    takes_whole: bool
    puts_bos: bool | None
    puts_space: bool


def judge_gguf(head: GgufHead, source: str) -> GgufModel:
    """What the file says. Raises ModelError where something of it would be left out, or the model
    can't be run.
    """
    name = _architecture(head, source)
    if (
        head.metadata.get("general.type", "model") != "model"
        or int(head.metadata.get("split.count") or 0) > 1
    ):
        raise ModelError(
            f"{source} is no whole model: an adapter, or one of several parts. Merge them into one file."
        )
    _refuse_unread(head, name, source)
    of_model = {
        key.partition(".")[2]: value for key, value in head.metadata.items() if key.startswith(f"{name}.")
    }
    sizes = _sizes(of_model, name, head, source)
    return GgufModel(
        name=name,
        sizes=sizes,
        d_head=_d_head(of_model, sizes, source),
        rotation=_rotation(of_model, source),
        has_factors="rope_freqs.weight" in head.tensors,
        biases=frozenset(
            key.split(".")[2] for key in head.tensors if re.fullmatch(r"blk\.\d+\.\w+\.bias", key)
        ),
        splitting=_splitting(head.metadata, source),
        takes_whole=head.metadata.get("tokenizer.ggml.pre") in _AS_LLAMA3,
        puts_bos=_puts_bos(head.metadata),
        puts_space=bool(head.metadata.get("tokenizer.ggml.add_space_prefix", True)),
    )


def _architecture(head: GgufHead, source: str) -> str:
    name = head.metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(
            f"{source}: its architecture is {shown(name)}, which is not supported. Supported: {known}."
        )
    return str(name)


def _refuse_unread(head: GgufHead, name: str, source: str) -> None:
    """Raises ModelError for the keys and tensors that bear on the computation and that nobody reads."""
    unread = [
        key
        for key, value in head.metadata.items()
        if key.startswith(f"{name}.") and not _is_read(key, value)
    ]
    unread += [key for key in head.tensors if not (_TENSORS.fullmatch(key) or _NO_WEIGHTS.fullmatch(key))]
    if unread:
        more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
        raise ModelError(
            f"{source} holds what can't be used: {cut(', '.join(sorted(unread)[:3]))}{more}.\n"
            "Without that it would be another model. Take the model in the hub's layout."
        )


def _is_read(key: str, value: object) -> bool:
    name = key.partition(".")[2]
    return name in _READ or name in _IDLE or (name in _NEUTRAL and value == _NEUTRAL[name])


def _sizes(of_model: Mapping[str, Any], name: str, head: GgufHead, source: str) -> DecoderConfig:
    """The model's sizes. Raises ModelError for such as no model has, or as the tensors have not."""
    architecture, model_type = ARCHITECTURES[name]
    fields = {ours: of_model[theirs] for theirs, ours in _SIZES.items() if theirs in of_model}
    config = judge({"architectures": [architecture], "model_type": model_type, **fields}, source)
    lacking = [theirs for theirs in _NEEDED if theirs not in of_model]
    if lacking:
        raise ModelError(
            f"{source} lacks {name}.{lacking[0]}. The file is damaged; download or convert it again."
        )
    n_blocks = len({key.split(".")[1] for key in head.tensors if key.startswith("blk.")})
    if n_blocks != config.n_layers:
        raise ModelError(f"{source} claims {config.n_layers} layers and holds the tensors of {n_blocks}.")
    return config


def _d_head(of_model: Mapping[str, Any], sizes: DecoderConfig, source: str) -> int:
    """The width of a head: of its keys, of its values, and of what is rotated."""
    keys = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    widths = {of_model[key] for key in keys if key in of_model}
    if len(widths) > 1:
        raise ModelError(
            f"{source}: its heads' keys, values and rotated parts differ in width, which can't be run."
        )
    width = widths.pop() if widths else (sizes.d_model or 1) // (sizes.n_heads or 1)
    if not isinstance(width, int) or not 1 <= width <= 1 << 20:
        raise ModelError(
            f"{source}: its heads are {shown(width)} wide; that must be a whole number of at least 1."
        )
    return width


def _rotation(of_model: Mapping[str, Any], source: str) -> dict[str, Any]:
    """How positions are rotated, in Hugging Face's words; llama.cpp's names are in its docs/gguf.md."""
    base = {"rope_theta": of_model.get("rope.freq_base", 10000.0)}
    factor = of_model.get("rope.scaling.factor") or of_model.get("rope.scale_linear") or 1.0
    kind = of_model.get("rope.scaling.type", "linear" if factor != 1 else "none")
    attention = of_model.get("rope.scaling.attn_factor", 1.0)
    if kind == "none" or (kind == "linear" and factor == 1):
        return {"rope_type": "default", **base}
    if kind == "linear" and attention == 1:
        return {"rope_type": "linear", "factor": factor, **base}
    if kind != "yarn" or "rope.scaling.original_context_length" not in of_model:
        raise ModelError(f"{source} scales positions in a way that is not supported: {shown(kind)}.")
    betas = {f"beta_{end}": of_model.get(f"rope.scaling.yarn_beta_{end}") for end in ("fast", "slow")}
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": of_model["rope.scaling.original_context_length"],
        "attention_factor": attention * (1 + 0.1 * math.log(factor)) if factor > 1 else attention,
        **{name: value for name, value in betas.items() if value is not None},
        **base,
    }


# How llama.cpp's name for a way of splitting texts is read: by transformers itself; as GPT-2 splits
# them; the same with every digit alone; or by llama.cpp's own rules for files that say "default".
_BY_TRANSFORMERS = (
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe tekken qwen2 "
)
_BY_TRANSFORMERS += "deepseek-r1-qwen kormo f2llmv2 megrez qwen35 gpt-4o llama4 kanana2"
_AS_GPT2 = (
    "gpt-2 phi-2 gigachat mellum modern-bert mpt olmo jais trillion granite-docling exaone4 a.x-4.0"
)
_BY_DIGITS = "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"
_SPLITTINGS = {
    **dict.fromkeys(_BY_TRANSFORMERS.split(), "transformers"),
    **dict.fromkeys(_AS_GPT2.split(), "gpt2"),
    **dict.fromkeys(_BY_DIGITS.split(), "digits"),
    "default": "default",
}
_AS_LLAMA3 = (
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "tekken",
)
"""Of these llama.cpp takes whole words before it merges, and puts BOS before a prompt where the
file doesn't say.
"""


def _splitting(metadata: Mapping[str, Any], source: str) -> str:
    """How texts are split before they are merged to tokens: sentencepiece, or a word of ``_SPLITTINGS``."""
    kind, named = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind == "llama" and not metadata.get("tokenizer.ggml.remove_extra_whitespaces"):
        return "sentencepiece"
    if kind != "gpt2" or named not in _SPLITTINGS:
        raise ModelError(
            f"{source}: how its tokenizer splits a text is not known here: {shown(kind)}, {shown(named)}.\n"
            "Take the model in the hub's layout."
        )
    return _SPLITTINGS[named]


def _puts_bos(metadata: Mapping[str, Any]) -> bool | None:
    """Whether prompts begin with BOS: as the file says, else as llama.cpp has it. None: as
    transformers takes it.
    """
    said = metadata.get("tokenizer.ggml.add_bos_token")
    return True if said is None and metadata.get("tokenizer.ggml.pre") in _AS_LLAMA3 else said
