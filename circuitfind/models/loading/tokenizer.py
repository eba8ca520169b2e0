"""The tokenizer of a model's folder, read from tokenizer.json itself where that file is there.

transformers 5 builds many tokenizers anew by their class, out of the vocabulary alone: what
tokenizer.json says of normalising and splitting a text is dropped, and other tokens come out than
the model was trained on. The file is the truth; the class is only asked which special tokens there
are where no file says so. Of a tokenizer_config.json that asks for BOS transformers 5 takes no
notice beside a tokenizer.json; the tokenizer's authors meant it.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token")


def read_tokenizer(folder: Path) -> Any:
    """The Hugging Face tokenizer of the folder. Raises whatever the libraries underneath raise for
    a damaged one.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    hub = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    for name, token in _unsaid(folder).items():
        if hub.backend_tokenizer.token_to_id(token) is not None:
            setattr(hub, name, token)
    if _read(folder / "tokenizer_config.json").get("add_bos_token") is True and not _puts_bos(hub):
        hub.add_bos_token = True
    return hub


def _puts_bos(hub: Any) -> bool:
    """Whether a text begins with BOS by the tokenizer's own rules, or can't for want of one."""
    return hub.bos_token_id is None or hub("").input_ids[:1] == [hub.bos_token_id]


def _unsaid(folder: Path) -> dict[str, str]:
    """The special tokens that the tokenizer's class has and no file of the folder names."""
    named = _read(folder / "special_tokens_map.json") | _read(folder / "tokenizer_config.json")
    made = _class_of(folder, named.get("tokenizer_class"))
    parameters = {} if made is None else inspect.signature(made.__init__).parameters
    defaults = {
        name: parameters[name].default
        for name in SPECIAL_TOKENS
        if name in parameters and name not in named
    }
    return {name: token for name, token in defaults.items() if isinstance(token, str)}


def _class_of(folder: Path, named: object) -> type[Any] | None:
    """The tokenizer's class in transformers: the one that the folder names, else its model type's."""
    from transformers.models.auto.tokenization_auto import (
        TOKENIZER_MAPPING_NAMES,
        tokenizer_class_from_name,
    )

    by_model = TOKENIZER_MAPPING_NAMES.get(str(_read(folder / "config.json").get("model_type")))
    spelled = str(named or by_model or "").removesuffix("Fast")
    found: type[Any] | None = tokenizer_class_from_name(spelled) if spelled else None
    return found


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in that file; an empty one where there is none."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}
