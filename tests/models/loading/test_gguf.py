"""GGUF files become model folders; what is no whole GGUF file is refused."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf as gguf_format
import numpy
import pytest
import torch
from safetensors.torch import load_file

from circuitfind.errors import ModelError
from circuitfind.models.loading import gguf
from circuitfind.models.loading.gguf import fetch_gguf
from circuitfind.models.loading.load import load_bridge, load_tokenizer
from circuitfind.progress import Silent

WORDS = ["<unk>", "<s>", "</s>", "a", "b", "Ġ", "Ġa", "Ġb"]
D_MODEL, D_MLP, N_LAYERS = 16, 24, 2


def write_gguf(
    path: Path,
    without: str = "",
    adds_bos: bool | None = False,
    pre: str = "default",
    keys: dict[str, Any] | None = None,
    more: dict[str, numpy.ndarray] | None = None,
) -> dict[str, numpy.ndarray]:
    """Writes a random two-layer Llama with a byte-level tokenizer; returns its tensors by their GGUF names.

    ``keys`` and ``more``: what else the file says, and further tensors.
    """
    writer = gguf_format.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(D_MODEL)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    for key, value in (keys or {}).items():
        add = {
            str: writer.add_string,
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
        }
        add[type(value)](key, value)
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["Ġ a", "Ġ b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if adds_bos is not None:
        writer.add_add_bos_token(adds_bos)
    tensors = {name: tensor for name, tensor in random_tensors().items() if name != without} | (
        more or {}
    )
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def random_tensors() -> dict[str, numpy.ndarray]:
    shapes = {
        "token_embd": (len(WORDS), D_MODEL),
        "output": (len(WORDS), D_MODEL),
        "output_norm": (D_MODEL,),
    }
    for layer in range(N_LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm": (D_MODEL,),
            f"blk.{layer}.attn_q": (D_MODEL, D_MODEL),
            f"blk.{layer}.attn_k": (D_MODEL // 2, D_MODEL),
            f"blk.{layer}.attn_v": (D_MODEL // 2, D_MODEL),
            f"blk.{layer}.attn_output": (D_MODEL, D_MODEL),
            f"blk.{layer}.ffn_norm": (D_MODEL,),
            f"blk.{layer}.ffn_gate": (D_MLP, D_MODEL),
            f"blk.{layer}.ffn_up": (D_MLP, D_MODEL),
            f"blk.{layer}.ffn_down": (D_MODEL, D_MLP),
        }
    random = numpy.random.default_rng(0)
    return {
        f"{name}.weight": random.normal(size=shape).astype(numpy.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIRCUITFIND_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


def test_the_folder_holds_the_files_weights_and_loads(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tensors = write_gguf(tmp_path / "model.gguf")
    capfd.readouterr()
    folder = fetch_gguf(tmp_path / "model.gguf", Silent())
    bridge = load_bridge(folder, "cpu", torch.float32)
    assert capfd.readouterr() == ("", "")
    saved = load_file(folder / "model.safetensors")
    assert torch.equal(saved["model.embed_tokens.weight"], torch.tensor(tensors["token_embd.weight"]))
    assert torch.equal(
        saved["model.layers.1.mlp.down_proj.weight"], torch.tensor(tensors["blk.1.ffn_down.weight"])
    )
    assert (bridge.cfg.n_layers, bridge.cfg.n_heads) == (N_LAYERS, 2)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_prompts_begin_with_bos_if_the_file_says_so(tmp_path: Path, adds_bos: bool) -> None:
    write_gguf(tmp_path / "model.gguf", adds_bos=adds_bos)
    tokenizer = load_tokenizer(str(tmp_path / "model.gguf"))
    assert tokenizer.encode("a b") == [1, 3, 7] if adds_bos else [3, 7]
    assert tokenizer.adds_bos == adds_bos


def test_a_file_is_converted_once_whatever_it_is_called(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch_gguf(file, Silent())
    monkeypatch.setattr(gguf, "gguf_to_folder", lambda *arguments: pytest.fail("converted again"))
    assert fetch_gguf(file, Silent()) == folder
    assert fetch_gguf(file.rename(file.with_name("other.gguf")), Silent()) == folder


def test_a_changed_file_is_another_model(file: Path, tmp_path: Path) -> None:
    changed = shutil.copy(file, tmp_path / "changed.gguf")
    with changed.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x11")
    assert fetch_gguf(changed, Silent()) != fetch_gguf(file, Silent())


def refusal(file: Path, cache: Path) -> str:
    """What is said about the file, and that nothing of it stays in the cache."""
    with pytest.raises(ModelError) as caught:
        fetch_gguf(file, Silent())
    assert str(caught.value).count("\n") <= 1
    assert not [path for path in cache.glob("*/*") if path.is_dir()]
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\3\4 a zip file", b"<html>not found</html>"])
def test_a_file_that_does_not_begin_as_gguf_is_refused(
    tmp_path: Path, cache: Path, content: bytes
) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    assert "is no GGUF file" in refusal(tmp_path / "model.gguf", cache)


@pytest.mark.parametrize("kept", [4, 30, 500, 5000, -1])
def test_a_truncated_file_is_refused(file: Path, cache: Path, kept: int) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:kept])
    assert "truncated or damaged" in refusal(file, cache)


@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "blk.0.attn_q.weight", "token_embd.weight"])
def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path, cache: Path, name: str) -> None:
    write_gguf(tmp_path / "model.gguf", without=name)
    assert "lacks 1 of its model's tensors" in refusal(tmp_path / "model.gguf", cache)


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_rotary_factors_divide_the_frequencies(tmp_path: Path) -> None:
    factors = numpy.array([1.0, 1.5, 4.0, 8.0], dtype=numpy.float32)
    write_gguf(tmp_path / "model.gguf", more={"rope_freqs.weight": factors})
    model = load_bridge(
        fetch_gguf(tmp_path / "model.gguf", Silent()), "cpu", torch.float32
    ).original_model
    plain = 10000.0 ** -(torch.arange(0, 8, 2) / 8)
    cos, sin = model.model.rotary_emb(torch.zeros(1), torch.tensor([[7]]))
    angles = 7 * plain / torch.tensor(factors)
    assert torch.allclose(cos[0, 0, :4], angles.cos(), atol=1e-6)
    assert torch.allclose(sin[0, 0, 4:], angles.sin(), atol=1e-6)


LINEAR = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
YARN = {
    "llama.rope.scaling.type": "yarn",
    "llama.rope.scaling.factor": 2.0,
    "llama.rope.scaling.original_context_length": 16,
}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (LINEAR, {"rope_type": "linear", "factor": 4.0}),
        ({"llama.rope.scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (YARN, {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}),
        ({"llama.rope.scaling.type": "none"}, {"rope_type": "default"}),
    ],
)
def test_scaling_of_positions_is_kept(
    tmp_path: Path, keys: dict[str, Any], expected: dict[str, Any]
) -> None:
    write_gguf(tmp_path / "model.gguf", keys=keys)
    found = config_of(fetch_gguf(tmp_path / "model.gguf", Silent()))["rope_parameters"]
    assert found | expected == found
    assert found["rope_theta"] == 10000.0


def test_biases_are_kept_in_the_order_of_their_weights(tmp_path: Path) -> None:
    """llama.cpp puts a head's rotated pairs side by side, in biases as in weights; those of no layer are 0."""
    bias = numpy.arange(D_MODEL, dtype=numpy.float32)
    more = {f"blk.{layer}.attn_{slot}.bias": bias[: D_MODEL // (1 if slot == "q" else 2)]
            for layer in range(N_LAYERS) for slot in "qkv"}  # fmt: skip
    write_gguf(tmp_path / "model.gguf", more=more)
    saved = load_file(fetch_gguf(tmp_path / "model.gguf", Silent()) / "model.safetensors")
    halves = torch.tensor([0.0, 2, 4, 6, 1, 3, 5, 7])
    assert torch.equal(saved["model.layers.1.self_attn.q_proj.bias"], torch.cat((halves, halves + 8)))
    assert torch.equal(saved["model.layers.1.self_attn.k_proj.bias"], halves)
    assert torch.equal(saved["model.layers.1.self_attn.v_proj.bias"], torch.arange(8.0))
    assert not saved["model.layers.1.self_attn.o_proj.bias"].any()


@pytest.mark.parametrize(
    ("pre", "adds_bos", "expected"),
    [
        ("llama-bpe", None, True),
        ("llama-bpe", False, False),
        ("gpt-2", None, False),
        ("tekken", None, True),
    ],
)
def test_bos_that_the_file_does_not_tell_of_is_as_llama_cpp_has_it(
    tmp_path: Path, pre: str, adds_bos: bool | None, expected: bool
) -> None:
    write_gguf(tmp_path / "model.gguf", pre=pre, adds_bos=adds_bos)
    assert load_tokenizer(str(tmp_path / "model.gguf")).adds_bos is expected


@pytest.mark.parametrize(
    ("keys", "more", "says"),
    [
        ({"llama.attention.scale": 0.5}, (), "holds what can't be used: llama.attention.scale."),
        ({"llama.logit_scale": 0.5}, (), "llama.logit_scale"),
        ({"llama.expert_count": 8}, (), "llama.expert_count"),
        ({"llama.attention.sliding_window": 8}, (), "llama.attention.sliding_window"),
        (
            {},
            ("blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"),
            "blk.0.attn_k_norm.weight, blk.0.attn_q_norm",
        ),
        ({}, ("blk.0.ffn_gate_exps.weight",), "blk.0.ffn_gate_exps.weight"),
        ({}, ("blk.2.attn_norm.weight",), "claims 2 layers and holds the tensors of 3"),
        (
            {"llama.rope.scaling.type": "longrope"},
            (),
            "scales positions in a way that is not supported: 'longrope'",
        ),
        ({"llama.attention.key_length": 4, "llama.attention.value_length": 8}, (), "differ in width"),
        ({"general.type": "adapter"}, (), "is no whole model"),
        ({"split.count": 3}, (), "is no whole model"),
    ],
)
def test_what_nobody_reads_is_refused_by_name(
    tmp_path: Path, cache: Path, keys: dict[str, Any], more: tuple[str, ...], says: str
) -> None:
    tensors = {name: numpy.ones(D_MODEL, dtype=numpy.float32) for name in more}
    write_gguf(tmp_path / "model.gguf", keys=keys, more=tensors)
    assert says in refusal(tmp_path / "model.gguf", cache)


def test_a_tokenizer_that_splits_texts_in_an_unknown_way_is_refused(tmp_path: Path, cache: Path) -> None:
    write_gguf(tmp_path / "model.gguf", pre="new-way")
    assert "how its tokenizer splits a text is not known here: 'gpt2', 'new-way'" in refusal(
        tmp_path / "model.gguf", cache
    )


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


START = b"GGUF" + struct.pack("<I", 3)
ARCHITECTURE = text(b"general.architecture") + struct.pack("<I", 8)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            START + struct.pack("<QQ", 0, 1) + text(b"a") + struct.pack("<IIQ", 9, 4, 2**40),
            "claims 1,099,511,627,776 items",
        ),
        (
            START + struct.pack("<QQ", 0, 1) + text(b"a") + struct.pack("<IIQ", 9, 8, 4_000_000),
            "ends too early",
        ),
        (
            START + struct.pack("<QQ", 0, 1) + text(b"a") + struct.pack("<IIQ", 9, 6, 4_000_000),
            "ends too early",
        ),
        (START + struct.pack("<QQ", 2**60, 0), "claims 1,152,921,504,606,846,976 tensors"),
        (START + struct.pack("<QQ", 0, 2**60), "keys"),
        (START + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**62), "characters in one text"),
        (
            START + struct.pack("<QQ", 0, 1) + text(b"a") + struct.pack("<I", 77),
            "a value of unknown kind 77",
        ),
        (
            START + struct.pack("<QQ", 1, 0) + text(b"a") + struct.pack("<I", 2**31),
            "a tensor of 2147483648 dimensions",
        ),
        (
            START + struct.pack("<QQ", 0, 1) + ARCHITECTURE + text(b"qwen3"),
            "its architecture is 'qwen3', which is not",
        ),
        (START + struct.pack("<QQ", 0, 0), "its architecture is null"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "is of version 9"),
    ],
)
def test_a_head_that_claims_too_much_costs_nothing(
    tmp_path: Path, cache: Path, content: bytes, says: str
) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    tracemalloc.start()
    said = refusal(tmp_path / "model.gguf", cache)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert says in said
    assert peak < 100e6


def test_layers_by_the_billion_are_refused(tmp_path: Path, cache: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    content, key = (tmp_path / "model.gguf").read_bytes(), b"llama.block_count" + struct.pack("<I", 4)
    assert content.count(key + struct.pack("<I", N_LAYERS)) == 1
    claims = content.replace(key + struct.pack("<I", N_LAYERS), key + struct.pack("<I", 2_000_000_000))
    (tmp_path / "model.gguf").write_bytes(claims)
    assert 'its "num_hidden_layers" is 2000000000' in refusal(tmp_path / "model.gguf", cache)
