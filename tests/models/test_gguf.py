"""GGUF files become model folders; what is no whole GGUF file is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf as gguf_format
import numpy
import pytest
import torch
from safetensors.torch import load_file

from circuitfind.errors import ModelError
from circuitfind.models import gguf
from circuitfind.models.gguf import fetch_gguf
from circuitfind.models.load import load_bridge, load_tokenizer
from circuitfind.progress import Silent

WORDS = ["<unk>", "<s>", "</s>", "a", "b", "Ġ", "Ġa", "Ġb"]
D_MODEL, D_MLP, N_LAYERS = 16, 24, 2


def write_gguf(path: Path, without: str = "", adds_bos: bool = False) -> dict[str, numpy.ndarray]:
    """Writes a random two-layer Llama with a byte-level tokenizer; returns its tensors by their GGUF names."""
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
    writer.add_tokenizer_pre("default")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["Ġ a", "Ġ b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(adds_bos)
    tensors = {name: tensor for name, tensor in random_tensors().items() if name != without}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def random_tensors() -> dict[str, numpy.ndarray]:
    shapes = {"token_embd": (len(WORDS), D_MODEL), "output": (len(WORDS), D_MODEL), "output_norm": (D_MODEL,)}
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
    return {f"{name}.weight": random.normal(size=shape).astype(numpy.float32) for name, shape in shapes.items()}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIRCUITFIND_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


def test_the_folder_holds_the_files_weights_and_loads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tensors = write_gguf(tmp_path / "model.gguf")
    capfd.readouterr()
    folder = fetch_gguf(tmp_path / "model.gguf", Silent())
    bridge = load_bridge(folder, "cpu", torch.float32)
    assert capfd.readouterr() == ("", "")
    saved = load_file(folder / "model.safetensors")
    assert torch.equal(saved["model.embed_tokens.weight"], torch.tensor(tensors["token_embd.weight"]))
    assert torch.equal(saved["model.layers.1.mlp.down_proj.weight"], torch.tensor(tensors["blk.1.ffn_down.weight"]))
    assert (bridge.cfg.n_layers, bridge.cfg.n_heads) == (N_LAYERS, 2)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_prompts_begin_with_bos_if_the_file_says_so(tmp_path: Path, adds_bos: bool) -> None:
    write_gguf(tmp_path / "model.gguf", adds_bos=adds_bos)
    tokenizer = load_tokenizer(str(tmp_path / "model.gguf"))
    assert tokenizer.encode("a b") == [1, 3, 7] if adds_bos else [3, 7]
    assert tokenizer.adds_bos == adds_bos


def test_a_file_is_converted_once_whatever_it_is_called(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_file_that_does_not_begin_as_gguf_is_refused(tmp_path: Path, cache: Path, content: bytes) -> None:
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
