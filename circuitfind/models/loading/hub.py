"""Models from the Hugging Face hub, into its own cache (HF_HOME), with its own token and offline mode.

The first contact has a deadline: a network that is down, or that swallows packets, must not cost
the user minutes of retries before a message.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from errno import ENOSPC
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitfind.errors import ModelError
from circuitfind.models.loading.catalogue import WORKS_OFFLINE, similar_names
from circuitfind.models.loading.config import MOST_BYTES, judge, read_config
from circuitfind.models.loading.folder import is_adapter, is_complete
from circuitfind.models.loading.quiet import no_logs
from circuitfind.progress import Progress, Silent

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

DEADLINE_SECONDS = 6.0
_WITHOUT_HUB = f"Without the hub these work: {WORKS_OFFLINE}."
_CONFIG_AND_TOKENIZER = ("*.json", "*.txt", "*.model", "*.jinja")
_SAFETENSORS = ("model.safetensors", "model-*.safetensors")  # and no copy in another format's naming
_PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin")


def fetch_from_hub(repository: str, progress: Progress) -> Path:
    """The folder of the hub's model, fetched now if the cache does not hold all of it. Without
    network if it does.

    Raises ModelError where the hub can't be reached or has no such model for this user.
    """
    here = cached(repository)
    if here:
        return here
    progress.stage(f"asking the hub for {repository}")
    info = first_contact(repository)
    judge_config(repository, info)
    return _download(repository, info, progress)


def judge_config(repository: str, info: ModelInfo) -> None:
    """Raises ModelError, by its config.json alone, for a model that can't be run: of it nothing
    else is fetched.
    """
    from huggingface_hub import hf_hub_download

    sizes = _sizes(info)
    if "config.json" not in sizes or any(is_adapter(name) for name in sizes):
        raise ModelError(
            f"'{repository}' is an adapter, or no model in the hub's layout: see its files on the hub.\n"
            "Give the model that it was made of; merge an adapter into it first (peft: merge_and_unload)."
        )
    if sizes["config.json"] > MOST_BYTES:
        raise ModelError(
            f"The config.json of '{repository}' has {sizes['config.json']:,} bytes: it is none."
        )
    try:
        with no_logs():
            path = hf_hub_download(
                repository, "config.json", revision=info.sha, tqdm_class=_bar(Silent(), 0)
            )
    except Exception as error:  # the client raises whatever its HTTP library does
        raise ModelError(_why_not(repository, error)) from error
    judge(read_config(Path(path).parent), f"The config.json of '{repository}'")


def _sizes(info: ModelInfo) -> dict[str, int]:
    """The repository's files and how many bytes each has, 0 where the hub doesn't say."""
    return {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}


def cached(repository: str) -> Path | None:
    """The folder in the hub's cache that holds this model whole, or None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(repository, "config.json")
    except HFValidationError as error:
        raise ModelError(
            f"'{repository}' can't be a hub name. Hub names are organisation/model."
        ) from error
    if not isinstance(config, str) or not is_complete(Path(config).parent):
        return None
    return Path(config).parent


@dataclass
class _Answer:
    """What came back from the thread that asked."""

    info: ModelInfo | None = None
    error: Exception | None = None


def first_contact(repository: str) -> ModelInfo:
    """What the hub says about the model, within DEADLINE_SECONDS. Raises ModelError otherwise."""
    answer = _Answer()
    # A thread, because no timeout of the client bounds name resolution; a daemon, so that it can't
    # delay the exit.
    thread = threading.Thread(target=_ask, args=(repository, answer), daemon=True)
    thread.start()
    thread.join(DEADLINE_SECONDS)
    if answer.info is None:
        error = answer.error or TimeoutError(f"no answer in {DEADLINE_SECONDS:.0f} seconds")
        raise ModelError(_why_not(repository, error)) from error
    return answer.info


def _ask(repository: str, answer: _Answer) -> None:
    from huggingface_hub import HfApi

    try:
        answer.info = HfApi().model_info(repository, timeout=DEADLINE_SECONDS, files_metadata=True)
    except Exception as error:  # handed to the thread that waits, which judges it
        answer.error = error


def _download(repository: str, info: ModelInfo, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download

    progress.stage(f"downloading {repository}")
    sizes = _sizes(info)
    files = wanted_files(list(sizes))
    bar = _bar(progress, sum(sizes[file] for file in files if file != "config.json"))  # that one is here
    try:
        with no_logs():
            return Path(snapshot_download(repository, allow_patterns=files, tqdm_class=bar))
    except Exception as error:  # the client raises whatever its HTTP library does
        raise ModelError(_why_not(repository, error)) from error


def wanted_files(files: list[str]) -> list[str]:
    """Which of the repository's files to fetch: config, tokenizer, and safetensors or, where it has
    none, pickles.
    """
    weights = _matching(files, _SAFETENSORS) or _matching(files, _PICKLES)
    return [*_matching(files, _CONFIG_AND_TOKENIZER), *weights]


def _matching(files: list[str], patterns: tuple[str, ...]) -> list[str]:
    return [
        file for file in files if "/" not in file and any(fnmatch(file, pattern) for pattern in patterns)
    ]


def _bar(progress: Progress, total: int) -> type:
    """A tqdm class for the client that shows nothing and reports the bytes fetched so far.

    Files are fetched side by side, each in a thread of its own; progress is told by one of them at
    a time.
    """
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    most, one_at_a_time = 0.0, threading.Lock()

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.counts_bytes, self.seen = options.get("unit") == "B", 0.0
            options.pop("name", None)
            super().__init__(*args, **options | {"disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal most
            with one_at_a_time:
                self.seen += n or 0
                if self.counts_bytes and self.seen > most and total:
                    most = self.seen
                    progress.update(min(most, total), total)
            return None

    return Bar


def _why_not(repository: str, error: Exception) -> str:
    from huggingface_hub import errors

    first = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, errors.GatedRepoError):
        return (
            f"'{repository}' is gated. Accept its terms on the hub and set HF_TOKEN to a token of that"
            " account."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        near = [name for name in similar_names(repository) if name != repository]
        hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
        return (
            f"The hub has no model '{repository}', or it is private and HF_TOKEN does not open it.{hint}"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"'{repository}' is not in the hub's cache, and HF_HUB_OFFLINE is set. {_WITHOUT_HUB}"
    if isinstance(error, errors.HfHubHTTPError):
        token = "Check HF_TOKEN. " if error.response.status_code in (401, 403) else ""
        return f"The hub refused '{repository}': {first}\n{token}{_WITHOUT_HUB}"
    if isinstance(error, OSError) and error.errno == ENOSPC:
        return (
            f"No space left for '{repository}' in the hub's cache. Free some, or set HF_HOME to another"
            " disk."
        )
    return f"Can't reach the hub for '{repository}': {first}\n{_WITHOUT_HUB}"
