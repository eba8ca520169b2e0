"""``circuitfind run`` as its user meets it: what it prints, what it refuses, and what it leaves behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from circuitfind.cli.app import call
from circuitfind.models.loading.catalogue import CATALOGUE, Bundled

QUICK = ("--model", "tiny", "--prompts", "4", "--threshold", "0.5", "--format", "dot")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIRCUITFIND_CACHE", str(tmp_path.parent / "cache"))
    return tmp_path


def run(*arguments: object) -> int:
    return call(["run", *map(str, arguments)], debug=False)


def tiny() -> Path:
    source = CATALOGUE["tiny"].source
    assert isinstance(source, Bundled)
    return source.place


def tiny_pair() -> dict[str, Any]:
    """A pair that tiny's own vocabulary spells."""
    from circuitfind.models.loading.load import load_tokenizer
    from circuitfind.prompts.files import load_task

    return load_task("ioi").make(load_tokenizer("tiny"), 1, 0)[0].to_dict()


def write_lines(path: str, *lines: object) -> str:
    Path(path).write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    )
    return path


def model_folder(change: Callable[[Path], None]) -> str:
    """A copy of tiny with something done to it."""
    folder = Path("model")
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny() / name, folder)
    change(folder)
    return str(folder)


def set_config(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])


def spoil(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("wte.weight"))
    save_file(
        tensors | {name: torch.full_like(tensors[name], float("nan"))}, folder / "model.safetensors"
    )


def garbage(name: str) -> str:
    Path(name).write_bytes(b"this is no model")
    return name


# bad input: exit code 2, one or two lines, nothing on stdout, no folder

PROMPTS: dict[str, tuple[Callable[[dict[str, Any]], list[object]], str]] = {
    "lengths": (
        lambda pair: [pair | {"corrupted": pair["corrupted"] + " " + pair["answers"][0].strip()}],
        "tokens, corrupted",
    ),
    "empty": (lambda pair: [], "holds no prompts"),
    "json": (lambda pair: [pair, '{"clean": "a'], "line 2"),
    "key": (
        lambda pair: [{key: pair[key] for key in pair if key != "answers"}],
        "the key 'answers' is missing",
    ),
    "no-answer": (lambda pair: [pair | {"answers": []}], "'answers' is empty"),
    "empty-answer": (lambda pair: [pair | {"answers": [""]}], "is empty"),
    "too-long": (
        lambda pair: [pair | {key: " and".join([pair[key]] * 8) for key in ("clean", "corrupted")}],
        "tokens; this model knows 64 positions",
    ),
    "too-long-text": (lambda pair: [pair | {"clean": "a " * 100_000}], "of at most 131"),
    "same-token": (lambda pair: [pair | {"wrong_answers": pair["answers"]}], "begin with the same token"),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_a_prompts_file_that_is_wrong(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines, says = PROMPTS[case]
    path = write_lines("prompts.jsonl", *lines(tiny_pair()))
    refused(says, capsys, path, "--model", "tiny", "--out", "out")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ioj"], "Did you mean 'ioi'?"),
        (["nothing.jsonl"], "There is no file nothing.jsonl"),
        (["ioi", "--model", "tiney"], "Did you mean 'tiny'"),
        (["ioi", "--model", "./nowhere"], "No folder or .gguf file at './nowhere'"),
        (["ioi", "--metric", "kll"], "Did you mean 'kl'?"),
        (["ioi", "--method", "acdd"], "Did you mean 'acdc'?"),
        (["ioi", "--ablation", "corupted"], "Did you mean 'corrupted'?"),
        (["ioi", "--objective", "improved"], "Did you mean 'improve'?"),
        (["ioi", "--level", "nodes"], "No level named 'nodes'. Did you mean 'node'?"),
        (["ioi", "--kv", "group"], "Did you mean 'grouped'?"),
        (["ioi", "--level", "node", "--nodes", "a"], "--nodes is 'a'; give a whole number"),
        (["ioi", "--dtype", "float16"], "No dtype named 'float16'"),
        (["ioi", "--device", "gpu"], "Did you mean 'cpu'?"),
        (["ioi", "--format", "svg,pgn"], "Did you mean 'png'?"),
        (["ioi", "--threshold", "-0.1"], "--threshold is -0.1; it must be a finite number, 0 or above."),
        (["ioi", "--threshold", "nan"], "--threshold is nan"),
        (["ioi", "--threshold", "inf"], "--threshold is inf"),
        (
            ["ioi", "--threshold", "0.1", "--edges", "3"],
            "--threshold and --edges each set the circuit's size",
        ),
        (
            ["ioi", "--method", "acdc", "--edges", "3"],
            "--edges needs a method that scores edges; acdc finds its own",
        ),
        (["ioi", "--method", "acdc", "--fraction", "0.1"], "--fraction needs a method that scores edges"),
        (["ioi", "--method", "eap-ig"], "Give --edges N, --fraction F or --threshold T"),
        (["ioi", "--edges", "0"], "0 edges are asked for; give --edges a whole number, 1 or more"),
        (
            ["ioi", "--fraction", "2"],
            "The fraction is 2.0; give --fraction a number above 0 and at most 1",
        ),
        (["ioi", "--method", "eap", "--threshold", "-1"], "The threshold is -1.0, below every"),
        (["ioi", "--edges", "3", "--steps", "0"], "--steps is 0; it must be 1 or more"),
        (
            ["ioi", "--edges", "3", "--select", "topp"],
            "No way to select named 'topp'. Did you mean 'top'?",
        ),
        (["ioi", "--edges", "3", "--bootstrap", "1"], "--bootstrap is 1; give it 2 resamples or more"),
        (
            ["ioi", "--edges", "3", "--schedule", "grouped"],
            "eap-ig has no --schedule; it is for acdc. Leave it out.",
        ),
        (
            ["ioi", "--method", "eap", "--edges", "3", "--steps", "2"],
            "eap has no --steps; it is for eap-ig",
        ),
        (["ioi", "--bootstrap", "9"], "acdc has no --bootstrap; it is for methods that score edges"),
        (
            ["ioi", "--method", "eap", "--edges", "3", "--metric", "kl"],
            "that of kl is zero: every score would be",
        ),
        (["ioi", "--prompts", "0"], "--prompts is 0; it must be 1 or more."),
        (["ioi", "--batch-size", "0"], "--batch-size is 0"),
        (["ioi", "--batch-size", "many"], "--batch-size is 'many'"),
        (["ioi", "--dtype", "bfloat16", "--threshold", "0.0001"], "bfloat16 logits do not resolve"),
    ],
)
def test_options_that_mean_nothing(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(says, capsys, *arguments, "--out", "out")


def refused(says: str, capsys: pytest.CaptureFixture[str], *arguments: object) -> None:
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert run(*arguments) == 2
    written = capsys.readouterr()
    errors = [
        line
        for line in written.err.splitlines()
        if not line.startswith(("loading", "asking", "converting"))
    ]
    assert written.out == "" and errors[0].startswith("error: ") and len(errors) <= 2, written.err
    assert says in written.err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (truncate, "truncated or damaged"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (set_config(architectures=["NoSuchForCausalLM"]), "NoSuchForCausalLM is not supported"),
        (
            set_config(architectures=["T5ForConditionalGeneration"]),
            "T5ForConditionalGeneration is not supported",
        ),
        (spoil, "logits are NaN or infinite"),
    ],
)
def test_a_model_folder_that_is_not_whole(
    change: Callable[[Path], None], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(says, capsys, "ioi", "--model", model_folder(change), "--prompts", "2", "--out", "out")


def test_a_gguf_file_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    refused("model.gguf", capsys, "ioi", "--model", garbage("model.gguf"), "--out", "out")


def test_a_folder_that_holds_something_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    refused("out is not empty. Give another --out, or --force", capsys, "ioi", *QUICK, "--out", "out")
    assert Path("out/mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("out", "says"), [("file", "file is a file"), ("file/below/it", "file is a file")]
)
def test_a_file_in_the_way(out: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    refused(says, capsys, "ioi", *QUICK, "--out", out)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place where nobody can write")
def test_a_folder_that_can_not_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    refused("Cannot write to /proc/run", capsys, "ioi", *QUICK, "--out", "/proc/run")


def test_a_run_that_would_not_fit_is_told_before_the_weights_are_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from circuitfind.runs import memory, prepare

    monkeypatch.setattr(memory, "available", lambda device: 1000)
    monkeypatch.setattr(prepare, "load_model", lambda *_: pytest.fail("the weights were loaded"))
    refused("This run needs about 0.", capsys, "ioi", *QUICK, "--out", "out")


def test_what_can_be_known_without_torch_is_told_without_it() -> None:
    import subprocess
    import sys

    wrong: list[list[str]] = [
        ["ioj"], ["ioi", "--metric", "kll"], ["ioi", "--model", "tiney"], ["ioi", "--threshold", "nan"],
        ["ioi", "--level", "nod"], ["ioi", "--kv", "one"], ["ioi", "--nodes", "5"],
        ["ioi", "--kv", "grouped", "--level", "node"], ["ioi", "--method", "ifr", "--level", "node", "--nodes", "5"],
    ]  # fmt: skip
    calls = "; ".join(f"assert call(['run', *{words!r}], False) == 2" for words in wrong)
    code = f"import sys; from circuitfind.cli.app import call; {calls}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# what a run prints


def test_a_run_ends_with_its_summary_and_where_its_picture_lies(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("ioi", *QUICK[:-1], "svg", "--out", "out") == 0
    written = capsys.readouterr()
    lines = written.out.splitlines()
    assert lines[0].startswith("ioi in tiny, acdc: a circuit of ")
    assert lines[-2:] == [f"picture: {Path('out/circuit.svg')}", f"report:  {Path('out/report.md')}"]
    assert "accuracy 100%" in written.err and "starting" not in written.err


def test_json_is_one_document_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ioi", *QUICK, "--json") == 0
    written = json.loads(capsys.readouterr().out)
    folder = Path(written["folder"])
    assert folder.parts[:4] == ("results", "ioi", "tiny", "acdc") and (folder / "circuit.json").is_file()
    assert written["n_edges"] == len(json.loads((folder / "circuit.json").read_text())["edges"])


def test_quiet_says_nothing_but_warnings_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ioi", *QUICK, "--quiet", "--out", "out") == 0
    assert all(line.startswith("warning: ") for line in capsys.readouterr().err.splitlines())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("--metric", "logit-diff"),
            "logit-diff is improved, as published: what speaks against the answer",
        ),
        (("--dtype", "bfloat16"), "bfloat16 keeps 8 bits"),
        (("--prompts", "100000"), "100000 prompts were asked for; there are"),
    ],
)
def test_a_warning_reaches_the_user_the_document_and_the_record(
    options: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = write_lines("two.jsonl", tiny_pair())
    assert run(task, *QUICK, *options, "--quiet", "--json", "--out", "out") == 0
    written = capsys.readouterr()
    assert f"warning: {says}" in written.err
    for warnings in (
        json.loads(written.out)["warnings"],
        json.loads(Path("out/run.json").read_text())["warnings"],
    ):
        assert any(warning.startswith(says) for warning in warnings)


@pytest.mark.parametrize(
    "options", [("--metric", "logit-diff", "--objective", "match"), ("--metric", "kl")]
)
def test_an_objective_that_keeps_to_the_model_needs_no_warning(
    options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("ioi", *QUICK, *options, "--quiet", "--out", "out") == 0
    assert "is improved, as published" not in capsys.readouterr().err


def test_force_replaces_the_older_run_and_leaves_other_files_alone() -> None:
    assert run("ioi", *QUICK[:-1], "png", "--out", "out") == 0
    Path("out/notes.txt").write_text("mine")
    assert run("ioi", *QUICK, "--out", "out", "--force") == 0
    assert not Path("out/circuit.png").exists() and Path("out/notes.txt").read_text() == "mine"


def test_a_forced_run_that_fails_leaves_the_older_one_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ioi", *QUICK, "--out", "out") == 0
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    assert run("ioi", "--model", model_folder(spoil), "--out", "out", "--force") == 2
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before


# memory


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("4GB", 4 * 10**9), ("4G", 4 * 10**9), ("500 MB", 5 * 10**8), ("1.5gb", 1_500_000_000), ("2GiB", 2 << 30),
     ("4000000000B", 4 * 10**9)],
)  # fmt: skip
def test_memory_is_a_number_and_its_unit(text: str, n_bytes: int) -> None:
    from circuitfind.cli.run import parse_memory

    assert parse_memory(text) == n_bytes and parse_memory(None) is None


@pytest.mark.parametrize("text", ["4", "4000000000", "much", "-1GB", "GB", "4 XB", ""])
def test_memory_that_is_no_size_is_told(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(
        f"--memory is '{text}'; it must be a number with its unit",
        capsys,
        "ioi",
        *QUICK,
        "--memory",
        text,
    )


def test_too_little_memory_is_told_with_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    refused("of memory and --memory allows 0.1 GB.\nRaise it", capsys, "ioi", *QUICK, "--memory", "100MB")
