"""tokenizer.json is what counts, whatever class it is said to be of; what it can't do is told in one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from circuitfind.errors import ModelError
from circuitfind.models.loading.load import load_tokenizer
from circuitfind.prompts.files import check_task

TEXTS = ("a b", " b a", "1a22", "a  b", "ab 12")


def vocabulary(*words: str) -> dict[str, int]:
    return {word: index for index, word in enumerate(words)}


def by_digits() -> Tokenizer:
    """Byte-level, every digit alone: GPT-2's own pattern would take the two digits together."""
    words = vocabulary("<|endoftext|>", "<s>", "a", "b", "1", "2", "Ġ", "Ġa", "Ġb", "12", "22", "Ġ1")
    merges = [("Ġ", "a"), ("Ġ", "b"), ("1", "2"), ("2", "2"), ("Ġ", "1")]
    backend = Tokenizer(models.BPE(words, merges))
    steps = [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Sequence(steps), decoders.ByteLevel()
    return backend


def without_dummy_prefix() -> Tokenizer:
    """Sentencepiece's words, no space put before a text."""
    words = vocabulary("<unk>", "<s>", "▁", "a", "b", "▁a", "▁b", "1", "2", "<0x0A>")
    backend = Tokenizer(
        models.BPE(words, [("▁", "a"), ("▁", "b")], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def with_pattern(pattern: str) -> Tokenizer:
    backend = Tokenizer(models.WordLevel(vocabulary("a"), unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return backend


def save(
    folder: Path, backend: Tokenizer, config: dict[str, Any] | None = None, vocab_size: int = 50
) -> str:
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": vocab_size}))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (by_digits, "GPT2Tokenizer"),
        (by_digits, "GPTNeoXTokenizer"),
        (by_digits, "PreTrainedTokenizerFast"),
        (by_digits, None),
        (without_dummy_prefix, "LlamaTokenizer"),
        (without_dummy_prefix, "LlamaTokenizerFast"),
        (without_dummy_prefix, "TokenizersBackend"),
    ],
)
def test_its_tokens_are_the_files_whatever_class_is_named(
    make: Any, named: str | None, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(save(tmp_path, make(), {"tokenizer_class": named} if named else None))
    for text in TEXTS:
        assert tokenizer.encode(text) == make().encode(text).ids
        assert tokenizer.decode(tokenizer.continuation(text)) == text


@pytest.mark.parametrize("named", ["LlamaTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize(("says", "expected"), [({"add_bos_token": True}, [1, 3]), ({}, [3])])
def test_prompts_begin_with_bos_where_the_config_says_so(
    named: str, says: dict[str, bool], expected: list[int], tmp_path: Path
) -> None:
    config = {"tokenizer_class": named, "bos_token": "<s>", **says}
    assert load_tokenizer(save(tmp_path, without_dummy_prefix(), config)).encode("a") == expected


def test_bos_that_the_file_itself_puts_before_a_prompt_comes_once(tmp_path: Path) -> None:
    backend = without_dummy_prefix()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    for says in (True, False):
        config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "add_bos_token": says}
        assert load_tokenizer(save(tmp_path, backend, config)).encode("a") == [1, 3]


def test_a_special_token_that_no_file_names_is_the_classs_own(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, by_digits(), {"model_max_length": 1024}))
    assert tokenizer.encode("a") == [2]
    assert tokenizer.with_bos(True).encode("a") == [0, 2]


def test_a_special_token_that_the_vocabulary_lacks_is_not_added(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, with_pattern("b"), {"tokenizer_class": "GPT2Tokenizer"}))
    assert (tokenizer.hub.bos_token, len(tokenizer.hub)) == (None, 1)


def test_a_token_that_the_config_says_is_none_stays_none(tmp_path: Path) -> None:
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": None}
    assert load_tokenizer(save(tmp_path, by_digits(), config)).hub.bos_token is None


def test_a_folder_without_that_file_is_read_by_its_class(tmp_path: Path) -> None:
    by_digits().model.save(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert load_tokenizer(str(tmp_path)).encode("a b") == [2, 8]


def test_a_pattern_that_explodes_is_one_error(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, with_pattern(r"(\w+\w+)+[0-9]")))
    with pytest.raises(ModelError, match=r"fails on 'a{35} 1': Onig: Regex search error") as caught:
        tokenizer.encode("a" * 35 + " 1")
    assert str(caught.value).count("\n") == 1


def test_a_word_that_the_vocabulary_can_not_spell_is_one_error(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(
        save(tmp_path, Tokenizer(models.WordLevel(vocabulary("a"), unk_token="[UNK]")))
    )
    with pytest.raises(ModelError, match=r"fails on 'b': WordLevel error"):
        tokenizer.encode("b")


def test_a_token_that_the_model_has_no_embedding_of_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, by_digits(), vocab_size=8))
    assert tokenizer.encode("a a") == [2, 7]
    for ask in (tokenizer.encode, tokenizer.continuation):
        with pytest.raises(
            ModelError, match=r"makes token 8 \('Ġb'\) of a prompt, but the model has embeddings of 8"
        ):
            ask("a b")


def test_checking_a_task_tells_of_such_a_token_too(tmp_path: Path) -> None:
    pair = {"clean": "a a", "corrupted": "a 1", "answers": [" b"], "wrong_answers": [" a"]}
    (tmp_path / "p.jsonl").write_text(json.dumps(pair) + "\n")
    tokenizer = load_tokenizer(save(tmp_path / "model", by_digits(), vocab_size=8))
    with pytest.raises(ModelError, match="makes token 8"):
        check_task(str(tmp_path / "p.jsonl"), tokenizer)
