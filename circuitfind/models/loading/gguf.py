"""GGUF files, llama.cpp's format: dequantised once to float32, kept as an ordinary model folder.

The folder is kept under the file's own sha256, so a file that was moved or renamed is not converted
again, and one that was changed is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from circuitfind.errors import ModelError, cut
from circuitfind.models.loading.cache import cache_dir, make_once
from circuitfind.models.loading.folder import file_sha256
from circuitfind.models.loading.gguf_head import read_floats, read_gguf_head
from circuitfind.models.loading.gguf_model import GgufModel, judge_gguf
from circuitfind.progress import Progress

# llama.cpp's patterns for a byte-level vocabulary that says "default", each applied to the parts
# the one before left.
_DEFAULT = (
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
)

CONVERSION = 2
"""Counted up where the same file comes out otherwise than before: what an older version kept is not taken."""


def fetch_gguf(gguf: Path, progress: Progress) -> Path:
    """The folder of a .gguf file's model, converted now if it was not before. Raises ModelError if
    it can't be read or run: its head is judged before anything else of it is read."""
    judge_gguf(read_gguf_head(gguf), str(gguf))
    progress.stage(f"reading {gguf.name}")
    folder = cache_dir() / "gguf" / f"{file_sha256(gguf)[:32]}-{CONVERSION}"
    return make_once(folder, lambda part: gguf_to_folder(gguf, part, progress), progress)


def gguf_to_folder(gguf: Path, folder: Path, progress: Progress) -> None:
    """Writes the file's model and tokenizer into ``folder``: float32 safetensors in the hub's layout."""
    progress.stage(f"dequantising {gguf.name}")
    from circuitfind.models.loading.quiet import quiet

    with quiet():
        head = read_gguf_head(gguf)
        says = judge_gguf(head, str(gguf))
        factors = read_floats(gguf, head.tensors["rope_freqs.weight"]) if says.has_factors else None
        model, tokenizer = _read(gguf, says, factors)
        _save(model, folder)
        tokenizer.save_pretrained(folder)
    _forget_version(folder / "config.json")


def _read(gguf: Path, says: GgufModel, factors: list[float] | None) -> tuple[Any, Any]:
    """The file's model, dequantised, and its tokenizer. Raises ModelError if the file is damaged or
    lacks tensors.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        config = _complete(AutoConfig.from_pretrained(gguf.parent, **source), says, factors)
        model, info = AutoModelForCausalLM.from_pretrained(
            gguf.parent, config=config, dtype=torch.float32, output_loading_info=True, **source
        )
        tokenizer = _split_as_said(AutoTokenizer.from_pretrained(gguf.parent, **source), says)
    except Exception as error:  # a damaged file makes its readers raise anything
        reason = cut(str(error).strip().partition("\n")[0] or type(error).__name__)
        raise ModelError(
            f"Can't read {gguf}: {reason}\nThe file is truncated or damaged, or of a kind that can't be read."
        ) from error
    missing = sorted(set(info["missing_keys"]) - _set_to_zero(model, says))
    if missing:  # transformers has made them up
        raise ModelError(
            f"{gguf} lacks {len(missing)} of its model's tensors: {', '.join(missing[:3])}. Download it"
            " again."
        )
    return model, tokenizer


def _complete(config: Any, says: GgufModel, factors: list[float] | None) -> Any:
    """transformers' config of the file with what it leaves out put back."""
    if says.name == "gpt2":
        config.n_positions, config.n_inner = (
            says.sizes.max_position_embeddings,
            says.sizes.intermediate_size,
        )
        return config
    if says.rotation["rope_type"] != "default":
        config.rope_parameters = dict(says.rotation)
    if factors is not None:
        config.rope_parameters = _divided(config, says, factors)
    if says.d_head != config.hidden_size // config.num_attention_heads:
        config.head_dim = says.d_head
    if says.name == "llama":
        config.attention_bias = bool(says.biases & {"attn_q", "attn_k", "attn_v", "attn_output"})
        config.mlp_bias = bool(says.biases & {"ffn_gate", "ffn_up", "ffn_down"})
    return config


def _divided(config: Any, says: GgufModel, factors: list[float]) -> dict[str, Any]:
    """Rotary frequencies, each divided by a factor of its own: what longrope is, the same at every length."""
    if says.rotation["rope_type"] != "default" or len(factors) != says.d_head // 2:
        raise ValueError(f"its {len(factors)} rotary factors don't fit heads of {says.d_head}")
    return {
        "rope_type": "longrope",
        "rope_theta": says.rotation["rope_theta"],
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": config.max_position_embeddings,
    }


def _set_to_zero(model: Any, says: GgufModel) -> set[str]:
    """Sets the biases that no layer of the file has to 0; returns their names. Llama has all of
    attention's or none.
    """
    theirs = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    theirs |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    unsaid = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.endswith(".bias") and theirs.get(name.split(".")[-2]) not in {None, *says.biases}
    }
    for parameter in unsaid.values():
        parameter.data.zero_()
    return set(unsaid)


def _split_as_said(tokenizer: Any, says: GgufModel) -> Any:
    """The tokenizer, which splits texts and puts BOS before them as the file says."""
    from tokenizers import Regex, decoders, pre_tokenizers

    backend, by_bytes = tokenizer.backend_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False)
    if says.splitting == "digits":
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), by_bytes]
        )
    if says.splitting == "default":
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in _DEFAULT]
        bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_alone])
    if says.takes_whole:
        backend.model.ignore_merges = True
    if says.splitting == "sentencepiece" and not says.puts_space:
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    if says.puts_bos is not None and tokenizer.bos_token is not None:
        tokenizer.add_bos_token = says.puts_bos
    return tokenizer


def _save(model: Any, folder: Path) -> None:
    from safetensors import SafetensorError

    if hasattr(
        model.config, "quantization_config"
    ):  # else save_pretrained takes the weights as quantised still
        del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # its name for a full disk
        raise OSError(str(error)) from error


def _forget_version(config: Path) -> None:
    """Drops the converter's version from config.json, so that the model's sha256 does not change with it."""
    fields = json.loads(config.read_text(encoding="utf-8"))
    fields.pop("transformers_version", None)
    config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
