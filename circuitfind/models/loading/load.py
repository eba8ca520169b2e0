"""From a model's folder to its tokenizer and to TransformerLens's bridge, which loads and names its weights.

Loading never reaches for the network, never runs code that came with the model, never prints, and
never fills in a weight: what transformers would initialise at random (a tensor that is missing or
of another shape) is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitfind.errors import ModelError, UsageError, cut, shown
from circuitfind.models.loading.config import SUPPORTED, DecoderConfig, judge, read_config
from circuitfind.models.loading.folder import (
    TensorHead,
    has_tokenizer,
    read_head,
    refuse_adapter,
    tokenizer_sha256,
    weight_files,
    weights_sha256,
)
from circuitfind.models.loading.locate import locate
from circuitfind.models.loading.plain import make_plain
from circuitfind.models.loading.quiet import quiet
from circuitfind.models.loading.tokenizer import read_tokenizer
from circuitfind.progress import Progress, Silent

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

__all__ = ["HubTokenizer", "load_bridge", "load_tokenizer", "weights_sha256"]

# Masks and rotary frequencies that older versions of transformers saved among the weights.
_BUFFERS = re.compile(r"(^|\.)(attn|attention)\.(masked_)?bias$|(^|\.)rotary_emb\.inv_freq$")
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_DROPPED = (
    "id2label",
    "label2id",
    "num_labels",
)  # of classifiers; transformers makes a copy or five of a million


@dataclass(frozen=True)
class HubTokenizer:
    """A Hugging Face tokenizer as tasks and batches use it. ``bos`` None leaves it to the model's
    own tokenizer.

    Special tokens are those that the tokenizer puts before a text; one that it would put after it
    is left out, because the answer is read after a prompt's own last token. ``n_embedded`` is how
    many tokens the model has an embedding of, ``n_ctx`` how many positions it knows; None where
    nothing says so; ``sha256`` is of its files. Raises ModelError for a text that it fails on, or
    that has a token beyond those.
    """

    hub: Any
    bos: bool | None = None
    n_embedded: int | None = None
    sha256: str = ""
    n_ctx: int | None = None

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` as a prompt, special tokens added as the model's own tokenizer adds them."""
        tokens, start = self._bare(text), self._start
        before = int(self._spells_bos(tokens))  # never two
        return self._embedded([*tokens[:before], *start[before:], *tokens[before:]])

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """From which character up to which each token of ``encode(text)`` stands; (0, 0) for a special token.

        Raises ModelError where the tokenizer can't tell.
        """
        if not self.hub.is_fast:
            raise ModelError(
                "This model's tokenizer does not tell where its tokens stand: no roles with it."
            )
        found = self._ask(text, add_special_tokens=False, return_offsets_mapping=True)
        places = [(int(start), int(end)) for start, end in found.offset_mapping] if text else []
        before = int(self._spells_bos(list(found.input_ids)))
        return [*places[:before], *[(0, 0)] * len(self._start[before:]), *places[before:]]

    def continuation(self, text: str) -> list[int]:
        """Token ids of ``text`` as it goes on from a prompt: no special tokens."""
        tokens = self._bare(self._anchor + text)
        before = self._bare(self._anchor)
        return self._embedded(
            tokens[len(before) :] if tokens[: len(before)] == before else self._bare(text)
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """The text that the ids spell, special tokens and a leading space included."""
        before = self._bare(self._anchor)
        start = len(self._spell(before))
        return self._spell([*before, *tokens])[start:]

    def with_bos(self, bos: bool | None) -> HubTokenizer:
        """The same tokenizer with BOS put before a prompt (True), left out (False), or as it does
        by itself (None).

        Raises UsageError where BOS is asked for and the tokenizer has none.
        """
        if bos and self.hub.bos_token_id is None:
            raise UsageError("--bos: this model's tokenizer has no BOS token. Leave --bos out.")
        return replace(self, bos=bos)

    @property
    def adds_bos(self) -> bool:
        """Whether ``encode`` puts BOS before a text."""
        return self.hub.bos_token_id is not None and self._start[:1] == (self.hub.bos_token_id,)

    @property
    def unknown_token(self) -> int | None:
        """The id that stands for whatever the vocabulary lacks, if there is one."""
        unknown: int | None = self.hub.unk_token_id
        return unknown

    def _spells_bos(self, tokens: list[int]) -> bool:
        """Whether a text of these tokens begins with the BOS that would be put before it."""
        return bool(self._start) and tokens[:1] == [self.hub.bos_token_id] == [self._start[0]]

    @cached_property
    def _start(self) -> tuple[int, ...]:
        """The special tokens that ``encode`` puts before a text."""
        own, bos = self._own_start, self.hub.bos_token_id
        without = own[1:] if bos is not None and own[:1] == (bos,) else own
        if self.bos is None:
            return own
        return (bos, *without) if self.bos else without

    @cached_property
    def _own_start(self) -> tuple[int, ...]:
        """The special tokens that the model's tokenizer itself puts before a text."""
        whole, bare = tuple(self._ask("a").input_ids), tuple(self._bare("a"))
        places = range(len(whole) - len(bare) + 1)
        return next((whole[:place] for place in places if whole[place : place + len(bare)] == bare), ())

    @cached_property
    def _anchor(self) -> str:
        """What to put before a text that goes on from another: at a start sentencepiece puts a
        space of its own, and its decoder takes one away, whether or not one was put there."""
        first = self.hub.convert_ids_to_tokens(self._bare("a"))[:1]
        puts = bool(first) and first[0].startswith("▁")
        return "\n" if puts or self._spell(self._bare(" a")) == "a" else ""

    def _bare(self, text: str) -> list[int]:
        return list(self._ask(text, add_special_tokens=False).input_ids) if text else []

    def _ask(self, text: str, **options: bool) -> Any:
        """What the tokenizer makes of the text."""
        try:
            return self.hub(text, verbose=False, **options)
        except (
            BaseException
        ) as error:  # a regular expression that explodes is a panic in Rust, which is no Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ModelError(
                f"This model's tokenizer fails on {cut(text, 60)!r}: {_reason(error)}\n"
                "Its tokenizer.json can't be used."
            ) from error

    def _embedded(self, tokens: list[int]) -> list[int]:
        """The tokens, every one of which the model must have an embedding of."""
        beyond = next(
            (token for token in tokens if self.n_embedded is not None and token >= self.n_embedded), None
        )
        if beyond is not None:
            raise ModelError(
                f"The tokenizer makes token {beyond} ({self.hub.convert_ids_to_tokens(beyond)!r}) of a"
                f" prompt, but the model has embeddings of {self.n_embedded} tokens alone.\nGive the model"
                " the tokenizer that it was made with."
            )
        return tokens

    def _spell(self, tokens: Sequence[int]) -> str:
        return str(
            self.hub.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )


def load_tokenizer(name: str, progress: Progress | None = None) -> HubTokenizer:
    """The tokenizer of the model of that name, or in that folder. Raises ModelError where there is
    none to be read.
    """
    folder = locate(name, progress or Silent())
    if not has_tokenizer(folder):
        raise ModelError(
            f"{folder} holds no tokenizer. It needs tokenizer.json, or vocab.json and merges.txt."
        )
    with quiet():
        try:
            read = read_tokenizer(folder)
            n_embedded, n_ctx = (
                _size(folder, "vocab_size"),
                _size(folder, "n_positions", "max_position_embeddings"),
            )
            return HubTokenizer(read, n_embedded=n_embedded, sha256=tokenizer_sha256(folder), n_ctx=n_ctx)
        except Exception as error:  # the Rust tokenizer raises Exception itself
            raise ModelError(
                f"Can't read the tokenizer in {folder}: {_reason(error)}\nCopy or pull the model again."
            ) from error


def _size(folder: Path, *keys: str) -> int | None:
    """The first whole number under one of these keys in config.json, if there is one."""
    config = read_config(folder) if (folder / "config.json").is_file() else {}
    return next((config[key] for key in keys if type(config.get(key)) is int), None)


def load_bridge(folder: Path, device: str, dtype: torch.dtype) -> TransformerBridge:
    """TransformerLens's bridge around the model in ``folder``, on ``device``, weights as ``dtype``.

    Raises ModelError where the folder, its config or its weights are not whole, or the architecture
    isn't known.
    """
    check_folder(folder)
    with quiet():
        try:
            return _boot(folder, device, dtype)
        except ModelError:
            raise
        except (
            Exception
        ) as error:  # a folder that is damaged, or not what its readers expect, makes them raise anything
            raise ModelError(
                f"Can't load the model in {folder}: {_reason(error)}\nCopy or pull the model again."
            ) from error


def check_folder(folder: Path) -> None:
    """Raises ModelError unless the model can be run, and its weights are whole and as many as its
    config says.
    """
    config = judge(read_config(folder), str(folder / "config.json"))
    refuse_adapter(folder)
    files = weight_files(folder)
    heads = [_check_safetensors(path) for path in files if path.suffix == ".safetensors"]
    n_numbers = sum(tensor.n_numbers for head in heads for tensor in head.values())
    _check_size(folder, config, n_numbers if heads else sum(path.stat().st_size for path in files))


def _check_safetensors(path: Path) -> dict[str, TensorHead]:
    """The tensors of the file, which must be whole and of numbers that transformers takes for weights."""
    from safetensors import SafetensorError, safe_open

    head = read_head(path)
    other = next((name for name, tensor in head.items() if not _is_weight(name, tensor)), None)
    if other is not None:
        raise ModelError(
            f"{path} stores {shown(other)} as {shown(head[other].dtype, False)}: quantised weights, or"
            " none.\nGive the model with the weights it was made of."
        )
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is truncated or damaged: {_reason(error)}\nCopy or pull the model again."
        ) from error
    return head


def _is_weight(name: str, tensor: TensorHead) -> bool:
    return tensor.dtype in _FLOATS or bool(_BUFFERS.search(name))


def _check_size(folder: Path, config: DecoderConfig, most: int) -> None:
    """Raises ModelError where a config describes more weights than the files hold, before room is
    made for them.
    """
    if config.least_numbers > most:
        raise ModelError(
            f"The weights in {folder} are {most:,} numbers at most; its config.json describes"
            f" {config.least_numbers:,} at least.\nCheck that config.json belongs to these weights."
        )


def _boot(folder: Path, device: str, dtype: torch.dtype) -> TransformerBridge:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    fields = {name: value for name, value in read_config(folder).items() if name not in _DROPPED}
    model_type = SUPPORTED[fields["architectures"][0]]
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        config=CONFIG_MAPPING[model_type].from_dict(fields),
        dtype=dtype,
        attn_implementation="eager",
        local_files_only=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        output_loading_info=True,
    )
    _refuse_random_weights(folder, info)
    _refuse_left_over(folder, info)
    return TransformerBridge.boot_transformers(
        str(folder),
        hf_model=make_plain(model).to(device),
        tokenizer=_placeholder_tokenizer(),
        device=device,
        dtype=dtype,
    )


def _refuse_random_weights(folder: Path, info: dict[str, Any]) -> None:
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"The weights in {folder} lack {len(missing)} of the model's tensors: {_some(missing)}.\n"
            "They would be random numbers. Check that config.json belongs to these weights."
        )
    wrong = sorted(info["mismatched_keys"])
    if wrong:
        shapes = [f"{name} is {_shape(found)}, not {_shape(wanted)}" for name, found, wanted in wrong]
        raise ModelError(
            f"The weights in {folder} do not fit its config.json: {_some(shapes)}.\n"
            "Check that config.json belongs to these weights."
        )


def _refuse_left_over(folder: Path, info: dict[str, Any]) -> None:
    """What transformers has left out of the model, but for buffers that older versions saved and no
    model reads.
    """
    left = sorted(name for name in info["unexpected_keys"] if not _BUFFERS.search(name))
    if left:
        raise ModelError(
            f"config.json has no place for {len(left)} tensors of the weights in {folder}: {_some(left)}.\n"
            "Without them this would be another model. Check that config.json belongs to these weights."
        )


def _placeholder_tokenizer() -> Any:
    """A tokenizer for the bridge to hold. Ours is HubTokenizer; the bridge would make its own add BOS."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?")), eos_token="?"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)


def _reason(error: BaseException) -> str:
    """The first line of what the error says, short enough for a message."""
    return cut(str(error).strip().partition("\n")[0] or type(error).__name__)
