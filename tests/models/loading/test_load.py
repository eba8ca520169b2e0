"""Folders become tokenizers and bridges, and damaged ones become errors that say what is wrong."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from circuitfind.errors import ModelError, UsageError
from circuitfind.models.loading.load import HubTokenizer, load_bridge, load_tokenizer, weights_sha256

N_VOCAB = 40


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=N_VOCAB, n_positions=32))


def llama() -> PreTrainedModel:
    shape = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "max_position_embeddings": 32,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=N_VOCAB, **shape, **heads))


def neox() -> PreTrainedModel:
    shape = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "max_position_embeddings": 32,
    }
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=N_VOCAB, num_attention_heads=2, **shape))


def byte_level(adds_bos: bool) -> PreTrainedTokenizerFast:
    """A tokenizer as GPT-2's: a leading space belongs to the word; <s> is BOS."""
    words = ["<s>", "</s>", "<unk>", "a", "b", "Ġ", "Ġa", "Ġb"]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [("Ġ", "a"), ("Ġ", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2's: it puts a space of its own before a text."""
    words = ["<unk>", "<s>", "<0x0A>", "▁", "▁a", "▁b", "a", "b"]
    merges = [("▁", "a"), ("▁", "b")]
    backend = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, merges, byte_fallback=True, fuse_unk=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    steps = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    backend.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")


def save(folder: Path, make: Callable[[], PreTrainedModel] = gpt2, **options: Any) -> Path:
    torch.manual_seed(0)
    make().save_pretrained(folder, **options)
    byte_level(adds_bos=False).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "model")


def refusal(folder: Path) -> str:
    """What load_bridge says about the folder: at most two lines, without the loaders' own noise."""
    with pytest.raises(ModelError) as caught:
        load_bridge(folder, "cpu", torch.float32)
    assert str(caught.value).count("\n") <= 1
    return str(caught.value)


class TestBridge:
    @pytest.mark.parametrize("make", [gpt2, llama, neox])
    def test_its_logits_are_the_saved_models(
        self, make: Callable[[], PreTrainedModel], tmp_path: Path
    ) -> None:
        save(tmp_path, make)
        tokens = torch.tensor([[3, 1, 4, 1, 5]])
        torch.manual_seed(0)
        expected = make().eval()(tokens).logits
        logits = load_bridge(tmp_path, "cpu", torch.float32)(tokens)
        assert torch.allclose(logits, expected, atol=1e-5)

    def test_it_has_the_dtype_asked_for(self, folder: Path) -> None:
        bridge = load_bridge(folder, "cpu", torch.float64)
        assert {parameter.dtype for parameter in bridge.parameters()} == {torch.float64}

    def test_loading_says_nothing_and_asks_no_network(
        self, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*args: object, **options: object) -> None:
            raise AssertionError(f"asked the network: {args}")

        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        monkeypatch.setattr(socket.socket, "connect", refuse)
        load_bridge(folder, "cpu", torch.float32)
        load_tokenizer(str(folder))
        assert capfd.readouterr() == ("", "")

    def test_sharded_weights_are_read(self, tmp_path: Path) -> None:
        save(tmp_path, max_shard_size="8KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        assert load_bridge(tmp_path, "cpu", torch.float32).cfg.n_layers == 2

    def test_pickled_weights_are_read(self, folder: Path) -> None:
        torch.save(gpt2().state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        assert load_bridge(folder, "cpu", torch.float32).cfg.n_layers == 2


class Bomb:
    """What a malicious pickle does when it is read."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (exec, ("raise SystemExit('the pickle was run')",))


class TestDamagedFolders:
    def test_no_config_is_refused(self, folder: Path) -> None:
        (folder / "config.json").unlink()
        assert "holds no config.json" in refusal(folder)

    def test_config_that_is_no_json_is_refused(self, folder: Path) -> None:
        (folder / "config.json").write_text('{"architectures": [')
        assert "config.json is not whole JSON" in refusal(folder)

    def test_config_that_is_no_object_is_refused(self, folder: Path) -> None:
        (folder / "config.json").write_text("[]")
        assert "config.json: it is an empty list; it must be an object." in refusal(folder)

    def test_no_weights_is_refused(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        assert "holds no weights" in refusal(folder)

    def test_a_shard_missing_is_refused(self, tmp_path: Path) -> None:
        save(tmp_path, max_shard_size="8KB")
        shard = min(tmp_path.glob("*.safetensors"))
        shard.unlink()
        assert f"lacks {shard.name}" in refusal(tmp_path)

    def test_an_index_that_is_no_index_is_refused(self, tmp_path: Path) -> None:
        save(tmp_path, max_shard_size="8KB")
        (tmp_path / "model.safetensors.index.json").write_text("{}")
        assert "index.json" in refusal(tmp_path)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("null", "it is null; it must be an object"),
            ("[" * 5000, "nested too deeply"),
            ('{"weight_map": 3}', 'its "weight_map" is 3; it must be an object'),
            ('{"weight_map": {}}', 'its "weight_map" is an empty object'),
            ('{"weight_map": {"a": null}}', 'its "weight_map.a" is null; it must be a text'),
            (
                '{"weight_map": {"a": "../model.safetensors"}}',
                "names '../model.safetensors', which is no file beside it",
            ),
            ('{"weight_map": {"a": "/etc/passwd"}}', "names '/etc/passwd', which is no file beside it"),
        ],
    )
    def test_an_index_of_wrong_kinds_is_refused(self, folder: Path, content: str, says: str) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(content)
        assert says in refusal(folder)

    @pytest.mark.parametrize(
        ("head", "says"),
        [
            (b"[" * 9000, "nested too deeply"),
            (
                b'{"__metadata__": ' + b'{"a":' * 90 + b"1" + b"}" * 91,
                "nested too deeply: more than 64 levels",
            ),
            (
                b'{"a": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]}}',
                "stores 'a' as I8: quantised weights",
            ),
            (
                b'{"a": {"dtype": "Q4", "shape": [2], "data_offsets": [0, 2]}}',
                "stores 'a' as Q4: quantised weights",
            ),
            (b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 2]}}', '"a.shape.0" is -2'),
            (b'{"a": {"shape": []}}', 'lacks "a.dtype"'),
            (b'{"a": 5}', 'its "a" is 5; it must be an object'),
            (b"[]", "is an empty list; it must be an object"),
            (b"\xff\xfe{}", "its head is no text"),
        ],
    )
    def test_weights_with_a_head_of_wrong_kinds_are_refused(
        self, folder: Path, head: bytes, says: str
    ) -> None:
        (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(8))
        assert says in refusal(folder)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
    def test_weights_of_fewer_bits_are_read(self, folder: Path, dtype: torch.dtype) -> None:
        weights = {name: w.to(dtype) for name, w in load_file(folder / "model.safetensors").items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        loaded = load_bridge(folder, "cpu", torch.float32).original_model.transformer.h[1].mlp.c_fc.weight
        assert torch.equal(loaded, weights["transformer.h.1.mlp.c_fc.weight"].float())

    @pytest.mark.parametrize("fields", [{"vocab_size": 1 << 26}, {"n_layer": 9999}, {"n_inner": 1 << 22}])
    def test_a_config_of_more_weights_than_there_are_is_refused_before_they_are_made(
        self, folder: Path, fields: dict[str, int]
    ) -> None:
        self.change_config(folder, **fields)
        assert "numbers at most; its config.json describes" in refusal(folder)

    def test_labels_are_left_out(self, folder: Path) -> None:
        self.change_config(
            folder, id2label={"0": "yes", "1": "no", "2": "x"}, num_labels=3, label2id={"yes": 0}
        )
        assert load_bridge(folder, "cpu", torch.float32).original_model.config.num_labels == 2

    @pytest.mark.parametrize(
        "name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
    )
    def test_an_adapter_beside_the_weights_is_refused(self, folder: Path, name: str) -> None:
        (folder / name).write_text("{}")
        assert f"holds an adapter ({name}), which would be left out" in refusal(folder)

    @pytest.mark.parametrize("kept", [0, 4, 100, 5000])
    def test_truncated_weights_are_refused(self, folder: Path, kept: int) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:kept])
        assert "model.safetensors is truncated or damaged" in refusal(folder)

    def test_a_missing_tensor_is_refused_by_name(self, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights["transformer.h.1.mlp.c_fc.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        said = refusal(folder)
        assert "lack 1 of the model's tensors" in said
        assert "h.1.mlp.c_fc.weight" in said

    def test_a_tensor_of_another_shape_is_refused_by_name(self, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["transformer.h.0.mlp.c_proj.bias"] = torch.zeros(17)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        assert "h.0.mlp.c_proj.bias is 17, not 16" in refusal(folder)

    @pytest.mark.parametrize("suffix", ["safetensors", "bin"])
    def test_tensors_that_the_config_leaves_out_are_refused_by_name(
        self, folder: Path, suffix: str
    ) -> None:
        weights = load_file(folder / "model.safetensors")
        if suffix == "bin":
            (folder / "model.safetensors").unlink()
            torch.save(weights, folder / "pytorch_model.bin")
        self.change_config(folder, n_layer=1)
        said = refusal(folder)
        assert "config.json has no place for 11 tensors of the weights" in said
        assert ": transformer.h.1.attn.c_attn.weight, " in said

    def test_biases_that_the_config_leaves_out_are_refused(self, tmp_path: Path) -> None:
        def biased() -> PreTrainedModel:
            return LlamaForCausalLM(LlamaConfig(**llama().config.to_dict() | {"attention_bias": True}))

        save(tmp_path, biased)
        self.change_config(tmp_path, attention_bias=False)
        assert "self_attn.k_proj.bias" in refusal(tmp_path)

    @pytest.mark.parametrize(
        ("make", "names"),
        [
            (gpt2, ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
            (llama, ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
            (
                neox,
                [
                    "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
                    "gpt_neox.layers.1.attention.masked_bias",
                ],
            ),
        ],
    )
    def test_buffers_that_older_versions_saved_are_no_weights(
        self, make: Callable[[], PreTrainedModel], names: list[str], tmp_path: Path
    ) -> None:
        save(tmp_path, make)
        weights = load_file(tmp_path / "model.safetensors")
        save_file(
            weights | {name: torch.ones(1) for name in names},
            tmp_path / "model.safetensors",
            {"format": "pt"},
        )
        assert load_bridge(tmp_path, "cpu", torch.float32).cfg.n_layers == 2

    @pytest.mark.parametrize(
        "architecture", ["T5ForConditionalGeneration", "BertModel", "InventedForCausalLM"]
    )
    def test_an_architecture_that_is_not_supported_is_refused(
        self, folder: Path, architecture: str
    ) -> None:
        self.change_config(folder, architectures=[architecture])
        assert f"the architecture {architecture} is not supported" in refusal(folder)

    @pytest.mark.parametrize("architectures", [None, []])
    def test_an_architecture_that_is_not_named_is_refused(
        self, folder: Path, architectures: object
    ) -> None:
        self.change_config(folder, architectures=architectures)
        assert "names no architecture" in refusal(folder)

    def test_a_model_that_brings_its_own_code_is_refused(self, folder: Path) -> None:
        self.change_config(
            folder,
            model_type="own",
            auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
        )
        (folder / "own.py").write_text("raise SystemExit('the code was run')")
        assert "its \"model_type\" is 'own'; of GPT2LMHeadModel it is 'gpt2'" in refusal(folder)

    def test_code_that_comes_with_a_model_of_a_known_type_is_not_run(self, folder: Path) -> None:
        self.change_config(folder, auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"})
        (folder / "own.py").write_text("raise SystemExit('the code was run')")
        assert load_bridge(folder, "cpu", torch.float32).cfg.n_layers == 2

    def test_a_malicious_pickle_is_not_run(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()) + bytes(10_000))
        assert "Can't load the model" in refusal(folder)

    def test_no_tokenizer_is_refused(self, folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        with pytest.raises(ModelError, match="holds no tokenizer"):
            load_tokenizer(str(folder))

    def test_a_tokenizer_that_is_damaged_is_refused(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{")
        with pytest.raises(ModelError, match="Can't read the tokenizer"):
            load_tokenizer(str(folder))

    @staticmethod
    def change_config(folder: Path, **fields: object) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))


class TestTokenizer:
    def test_it_is_read_from_the_folder(self, folder: Path) -> None:
        tokenizer = load_tokenizer(str(folder))
        assert tokenizer.encode("a b") == tokenizer.continuation("a b") == [3, 7]
        assert tokenizer.unknown_token == 2

    @pytest.mark.parametrize(
        ("config", "n_ctx"),
        [
            ({"n_positions": 64}, 64),
            ({"max_position_embeddings": 128}, 128),
            ({}, None),
            ({"n_positions": "x"}, None),
        ],
    )
    def test_it_knows_how_many_positions_the_model_has(
        self, folder: Path, config: dict[str, object], n_ctx: int | None
    ) -> None:
        stated = json.loads((folder / "config.json").read_text())
        keys = ("n_positions", "max_position_embeddings")
        left = {key: value for key, value in stated.items() if key not in keys}
        (folder / "config.json").write_text(json.dumps(left | config))
        assert load_tokenizer(str(folder)).with_bos(None).n_ctx == n_ctx

    def test_prompts_begin_as_the_models_own_tokenizer_begins_them(self) -> None:
        assert HubTokenizer(byte_level(adds_bos=False)).encode("a") == [3]
        assert HubTokenizer(byte_level(adds_bos=True)).encode("a") == [0, 3]

    def test_nothing_is_put_after_a_prompt(self) -> None:
        assert byte_level(adds_bos=True)("a").input_ids == [0, 3, 1]
        assert HubTokenizer(byte_level(adds_bos=True)).encode("a") == [0, 3]

    @pytest.mark.parametrize("adds_bos", [False, True])
    def test_bos_is_added_or_left_out_as_asked_and_never_twice(self, adds_bos: bool) -> None:
        tokenizer = HubTokenizer(byte_level(adds_bos))
        assert tokenizer.adds_bos == adds_bos
        assert tokenizer.with_bos(True).encode("a") == [0, 3]
        assert tokenizer.with_bos(True).with_bos(True).encode("a") == [0, 3]
        assert tokenizer.with_bos(True).encode("<s>a") == [0, 3]
        assert tokenizer.with_bos(False).encode("a") == [3]
        assert tokenizer.with_bos(True).with_bos(None).adds_bos == adds_bos
        assert tokenizer.with_bos(True).adds_bos
        assert not tokenizer.with_bos(False).adds_bos

    def test_a_continuation_has_no_special_tokens(self) -> None:
        assert HubTokenizer(byte_level(adds_bos=True)).continuation(" a") == [6]

    def test_asking_for_bos_where_there_is_none_is_refused(self) -> None:
        bare = byte_level(adds_bos=False)
        bare.bos_token = None
        with pytest.raises(UsageError, match="no BOS token"):
            HubTokenizer(bare).with_bos(True)
        assert not HubTokenizer(bare).with_bos(False).adds_bos

    def test_sentencepiece_continues_with_one_space_and_spells_it(self) -> None:
        tokenizer = HubTokenizer(sentencepiece())
        assert tokenizer.encode("a b") == [4, 5]
        assert tokenizer.continuation(" b") == [5]
        assert tokenizer.continuation("b") == [7]
        assert tokenizer.decode([5]) == " b"
        assert tokenizer.decode([7]) == "b"

    @pytest.mark.parametrize("make", [lambda: byte_level(True), lambda: byte_level(False), sentencepiece])
    def test_decoding_a_continuation_gives_the_text_back(
        self, make: Callable[[], PreTrainedTokenizerFast]
    ) -> None:
        tokenizer = HubTokenizer(make())
        for text in ("a", " a", "a b", " b a", "ab"):
            assert tokenizer.decode(tokenizer.continuation(text)) == text


class TestSha256:
    def test_it_is_the_same_for_a_copy(self, folder: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(folder, tmp_path / "copy")
        (copy / "README.md").write_text("not the model")
        assert weights_sha256(copy) == weights_sha256(folder)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_it_changes_with_every_byte(self, folder: Path, name: str) -> None:
        before = weights_sha256(folder)
        with (folder / name).open("ab") as file:
            file.write(b" ")
        assert weights_sha256(folder) != before

    def test_a_folder_without_a_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no config"):
            weights_sha256(tmp_path)
