"""The hub: reached in time or said so, fetched once, used from its cache without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors

from circuitfind.errors import ModelError
from circuitfind.models.loading import hub
from circuitfind.models.loading.hub import cached, fetch_from_hub, first_contact, wanted_files
from circuitfind.progress import Silent

REPOSITORY, COMMIT = "some/model", "a" * 40
OTHERS = {
    "other/unsupported": {"config.json": b'{"architectures": ["Qwen3ForCausalLM"]}'},
    "other/activation": {
        "config.json": b'{"architectures": ["GPT2LMHeadModel"], "activation_function": "mish"}'
    },
    "other/broken": {"config.json": b'{"architectures": ["GPT2LMHeadModel"], "n_head": 0}'},
    "other/large": {"config.json": b" " * (1 << 23)},
    "other/adapter": {"config.json": b"{}", "adapter_config.json": b"{}"},
    "other/nothing": {},
}
"""Models that can't be run; each has weights too, which the hub below gives out to nobody."""
FILES = {
    "config.json": b'{"architectures": ["GPT2LMHeadModel"]}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "pytorch_model.bin": b"the same weights, pickled",
    "onnx/config.json": b"{}",
    "README.md": b"",
}
SCRIPT = """
import sys
from circuitfind.errors import ModelError
from circuitfind.models.loading.hub import fetch_from_hub
from circuitfind.progress import Silent

class Shown(Silent):
    def update(self, done, total, note=""):
        print(done == total and total)

try:
    print(fetch_from_hub(sys.argv[1], Shown()))
except ModelError as error:
    print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as fetching one model needs."""

    def do_GET(self) -> None:
        if any(repository in self.path for repository in OTHERS):
            return self.answer_of_another()
        if self.path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            self.answer_json(
                [{"type": "file", "path": path, "size": len(FILES[path]), "oid": "0"} for path in FILES]
            )
        elif self.path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [{"rfilename": path, "size": len(content)} for path, content in FILES.items()]
            self.answer_json({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings})
        elif self.path.startswith(f"/{REPOSITORY}/resolve/"):
            self.answer(FILES[self.path.partition(f"{COMMIT}/")[2]])
        elif self.path.startswith("/api/models/token/"):
            self.answer(b"", 403)
        elif self.path.startswith("/api/models/gated/"):
            self.answer(b"", 403, {"X-Error-Code": "GatedRepo"})
        else:
            self.answer(b"", 401, {"X-Error-Code": "RepoNotFound"})

        return None

    do_HEAD = do_GET

    def answer_of_another(self) -> None:
        repository = next(repository for repository in OTHERS if repository in self.path)
        files = OTHERS[repository] | {"model.safetensors": b"never given"}
        if self.path.startswith("/api/"):
            siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
            return self.answer_json({"id": repository, "sha": COMMIT, "siblings": siblings})
        if not self.path.endswith("/config.json"):
            return self.answer(b"", 500)
        return self.answer(files["config.json"])

    def answer_json(self, value: object) -> None:
        self.answer(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def answer(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        about = {
            "Content-Length": str(len(content)),
            "ETag": f'"{hash(content)}"',
            "X-Repo-Commit": COMMIT,
        }
        for name, value in (about | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(repository: str, home: Path, **environment: str) -> tuple[list[str], str]:
    """What a fresh process prints that fetches from the hub: lines of stdout, and stderr."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, repository],
        env=clean | {"HF_HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines(), done.stderr


def test_a_model_is_fetched_once_and_then_used_without_a_network(endpoint: str, tmp_path: Path) -> None:
    shown, noise = ask(REPOSITORY, tmp_path, HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET="1")
    folder = Path(shown[-1])
    assert noise == ""
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    total = sum(len(FILES[path.name]) for path in folder.iterdir() if path.name != "config.json")
    assert shown[-2].split() == [str(total)]
    again, _ = ask(REPOSITORY, tmp_path, HF_HUB_OFFLINE="1")
    assert again == [str(folder)]


def test_threads_that_fetch_side_by_side_tell_their_progress_one_at_a_time() -> None:
    told: list[float] = []
    inside = threading.Lock()

    class Told(Silent):
        def update(self, done: float, total: float, note: str = "") -> None:
            assert inside.acquire(blocking=False)
            time.sleep(0.002)  # long enough for the others to come in
            told.append(done)
            inside.release()

    bar = hub._bar(Told(), 400)(unit="B")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bar.update, [10] * 40))
    assert told == [10 * n for n in range(1, 41)]


@pytest.mark.parametrize(
    ("repository", "says"),
    [
        ("gated/model", "'gated/model' is gated. Accept its terms on the hub and set HF_TOKEN"),
        (
            "missing/model",
            "The hub has no model 'missing/model', or it is private and HF_TOKEN does not open it.",
        ),
        ("EleutherAI/pythia-160", "Did you mean 'EleutherAI/pythia-160m'"),
        ("not a name/model", "can't be a hub name"),
    ],
)
def test_a_model_the_hub_does_not_give_is_refused_in_one_line(
    endpoint: str, tmp_path: Path, repository: str, says: str
) -> None:
    said, noise = ask(repository, tmp_path, HF_ENDPOINT=endpoint)
    assert says in said[0]
    assert (len(said), noise) == (1, "")


@pytest.mark.parametrize(
    ("repository", "says"),
    [
        (
            "other/unsupported",
            "The config.json of 'other/unsupported': the architecture Qwen3ForCausalLM is not supp",
        ),
        (
            "other/activation",
            "The config.json of 'other/activation': the activation 'mish' is not supported yet.",
        ),
        (
            "other/broken",
            "The config.json of 'other/broken': its \"n_head\" is 0; it must be a whole number of at least 1",
        ),
        ("other/large", "The config.json of 'other/large' has 8,388,608 bytes: it is none."),
        ("other/adapter", "'other/adapter' is an adapter, or no model in the hub's layout"),
        ("other/nothing", "'other/nothing' is an adapter, or no model in the hub's layout"),
    ],
)
def test_of_a_model_that_can_not_be_run_the_config_alone_is_fetched(
    endpoint: str, tmp_path: Path, repository: str, says: str
) -> None:
    said, noise = ask(repository, tmp_path, HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET="1")
    assert says in said[0]
    assert noise == ""
    assert {path.name for path in tmp_path.rglob("snapshots/*/*")} <= {"config.json"}


def test_a_token_that_is_refused_is_named(endpoint: str, tmp_path: Path) -> None:
    said, _ = ask("token/model", tmp_path, HF_ENDPOINT=endpoint)
    assert said[0].startswith("The hub refused 'token/model': ")
    assert said[1].startswith("Check HF_TOKEN.")


def test_an_unreachable_hub_is_told_with_what_works_without_it(tmp_path: Path) -> None:
    started = time.monotonic()
    said, _ = ask(REPOSITORY, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert time.monotonic() - started < 10
    assert said[0].startswith("Can't reach the hub for 'some/model': ")
    assert said[1] == "Without the hub these work: smollm2-135m, tiny, a local folder, a .gguf file."


def test_offline_mode_is_obeyed_and_named(tmp_path: Path) -> None:
    said, _ = ask(REPOSITORY, tmp_path, HF_HUB_OFFLINE="1")
    assert (
        "is not in the hub's cache, and HF_HUB_OFFLINE is set. Without the hub these work: smollm2-135m"
        in said[0]
    )


def test_a_hub_that_never_answers_costs_no_more_than_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "DEADLINE_SECONDS", 0.1)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *arguments, **options: time.sleep(5))
    started = time.monotonic()
    with pytest.raises(ModelError, match="Can't reach the hub"):
        first_contact(REPOSITORY)
    assert time.monotonic() - started < 2


def test_the_deadline_leaves_room_to_answer_within_ten_seconds() -> None:
    assert hub.DEADLINE_SECONDS <= 7


def test_a_connection_lost_while_fetching_is_an_error_of_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lose(*arguments: object, **options: object) -> None:
        raise httpx.ReadTimeout("timed out")

    info = huggingface_hub.ModelInfo(id=REPOSITORY, siblings=[{"rfilename": "config.json", "size": 1}])
    monkeypatch.setattr(hub, "cached", lambda repository: None)
    monkeypatch.setattr(hub, "first_contact", lambda repository: info)
    monkeypatch.setattr(hub, "judge_config", lambda repository, info: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lose)
    with pytest.raises(ModelError, match="timed out"):
        fetch_from_hub(REPOSITORY, Silent())


def test_a_gate_that_shows_only_while_fetching_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise errors.GatedRepoError(
            "403", response=httpx.Response(403, request=httpx.Request("GET", "http://hub"))
        )

    info = huggingface_hub.ModelInfo(id=REPOSITORY, siblings=[])
    monkeypatch.setattr(hub, "cached", lambda repository: None)
    monkeypatch.setattr(hub, "first_contact", lambda repository: info)
    monkeypatch.setattr(hub, "judge_config", lambda repository, info: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match="is gated"):
        fetch_from_hub(REPOSITORY, Silent())


@pytest.mark.parametrize("absent", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_cache_that_holds_a_part_of_the_model_does_not_pass_for_all(
    absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--some--model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text(COMMIT)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (snapshot / name).write_bytes(FILES[name])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert cached(REPOSITORY) == snapshot
    (snapshot / absent).unlink()
    assert cached(REPOSITORY) is None


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["config.json", "model.safetensors", "pytorch_model.bin"], {"config.json", "model.safetensors"}),
        (
            ["config.json", "pytorch_model.bin", "vocab.txt"],
            {"config.json", "pytorch_model.bin", "vocab.txt"},
        ),
        (
            ["model-00001-of-00002.safetensors", "consolidated.safetensors"],
            {"model-00001-of-00002.safetensors"},
        ),
        (["tokenizer.model", "flax_model.msgpack", "modeling_own.py"], {"tokenizer.model"}),
        (["onnx/config.json", "original/model.safetensors"], set()),
    ],
)
def test_only_what_loading_needs_is_fetched(files: list[str], wanted: set[str]) -> None:
    assert set(wanted_files(files)) == wanted
