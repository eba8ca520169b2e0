"""Files that are wrong in every way that one can think of, and what each command that reads them makes of it.

    python -m benchmarks.robustness [--kinds circuit.json run.json ...] [--sample N] [--show]

Of each kind of file there is one that is right, from a real run of the bundled model or from another tool. It is
changed systematically: each value in it becomes one of another type, a number out of range, a text that is long, odd
or empty, a list, an object, or goes; the whole is nested, cut off, doubled, or replaced by bytes. A command may then
do its work (exit code 0 or 1), or say in one or two lines what is wrong (exit code 2). Anything else fails: a
traceback, "This is a fault in circuitfind", silence, a message that carries a long value, more than MOST_SECONDS
of the processor's time.

A table tells for each kind how many inputs there are and how many fail; the exit code is 1 where one does.

To add a kind, write a function that makes its inputs and put it into KINDS.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import bad_prompts
from circuitfind.cli.app import call

MOST_SECONDS = 5.0
LONGEST_WORD = 300
"""Of a message: 200 characters of a value, and what stands around it."""
MOST_OF_ONE = 3
"""So many keys of an object, or items of a list, are changed where there are more: of a thousand edges the first."""


@dataclass(frozen=True)
class Input:
    """A file that is wrong, or may be. ``content`` goes to ``file``; then each of ``commands`` is run."""

    name: str
    file: Path
    content: bytes
    commands: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Kind:
    """A kind of file. ``inputs``: what is made of a folder with runs (``make_runs``) to change."""

    name: str
    inputs: Callable[[Path], Iterator[Input]]


@dataclass(frozen=True)
class Failure:
    """A command that did not do as it must."""

    input: Input
    command: tuple[str, ...]
    reason: str


# changes

WRONG: tuple[tuple[str, Any], ...] = (
    ("null", None),
    ("true", True),
    ("-1", -1),
    ("0", 0),
    ("2.5", 2.5),
    ("1e308", 1e308),
    ("10^12", 10**12),
    ("10^30", 10**30),
    ("NaN", float("nan")),
    ("infinity", float("inf")),
    ("an empty text", ""),
    ("a word", "x"),
    ("a NUL", "a\0b"),
    ("control characters", "\x1b]0;title\x07\x1b[31m\r\n\u202e"),
    ("half a character", "\ud800"),
    ("a long text", "long " * 50_000),
    ("a long word", "x" * 250_000),
    ("a path", "../../../../etc/passwd"),
    ("an empty list", []),
    ("a list", [1, "x", None]),
    ("lists in lists", [[[[]]]]),
    ("an empty object", {}),
    ("an object", {"a": 1}),
)
DEEP = 10_000


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a value, itself first; of long lists and objects the first few."""
    yield ()
    if isinstance(value, dict):
        keys = list(value) if len(value) <= 40 else list(value)[:MOST_OF_ONE]
    else:
        keys = list(range(len(value)))[:MOST_OF_ONE] if isinstance(value, list | tuple) else []
    for key in keys:
        for rest in paths(value[key]):
            yield (key, *rest)


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at the end of the path."""
    if not path:
        return new
    whole = copy.copy(value) if isinstance(value, dict) else list(value)
    whole[path[0]] = changed(value[path[0]], path[1:], new)
    return whole


def without(value: Any, path: tuple[Any, ...]) -> Any:
    """A copy that lacks what is at the end of the path."""
    if len(path) > 1:
        return changed(value, path[:1], without(value[path[0]], path[1:]))
    if isinstance(value, dict):
        return {key: inner for key, inner in value.items() if key != path[0]}
    return [inner for place, inner in enumerate(value) if place != path[0]]


def changes(value: Any) -> Iterator[tuple[str, Any]]:
    """Every change of every value in a value, each with what it is."""
    for path in paths(value):
        name = ".".join(map(str, path)) or "all"
        for what, new in WRONG:
            yield f"{name}: {what}", changed(value, path, new)
        if path:
            yield f"{name}: missing", without(value, path)


def json_texts(value: Any) -> Iterator[tuple[str, bytes]]:
    """JSON texts that are wrong: of the changed values, and of the text itself."""
    for name, new in changes(value):
        yield name, json.dumps(new).encode()
    text = json.dumps(value)
    for path in [path for path in paths(value) if len(path) == 1]:
        deep = json.dumps(changed(value, path, "DEEP"))
        yield f"{path[0]}: deep lists", deep.replace('"DEEP"', "[" * DEEP + "]" * DEEP).encode()
        yield (
            f"{path[0]}: deep objects",
            deep.replace('"DEEP"', '{"a":' * DEEP + "1" + "}" * DEEP).encode(),
        )
        yield f"{path[0]}: 100 deep", deep.replace('"DEEP"', "[" * 100 + "]" * 100).encode()
        yield f"{path[0]}: 1e999", deep.replace('"DEEP"', "1e999").encode()
        yield f"{path[0]}: 9,999 digits", deep.replace('"DEEP"', "9" * 9_999).encode()
        if isinstance(value, dict):
            twice = json.dumps({path[0]: value[path[0]]})
            yield f"{path[0]}: twice", (text[:-1] + "," + twice[1:]).encode()
    yield "a byte order mark", b"\xef\xbb\xbf" + text.encode()
    yield from cut_bytes(text.encode())


def cut_bytes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A file that is cut off, or is another."""
    for share in (0, 0.01, 0.25, 0.5, 0.75, 0.99):
        yield f"the first {share:.0%}", data[: int(share * len(data))]
    yield "twice", data + data
    yield "brackets alone", b"[" * 1_000_000
    yield "a million empty lists", b"[" + b"[]," * 1_000_000 + b"[]]"
    yield "zeros", bytes(1000)
    yield "a picture", b"\x89PNG\r\n\x1a\n\xff\xfe" + bytes(range(256))
    draw = random.Random(0)
    for number in range(20):
        spoiled = bytearray(data)
        for place in draw.sample(range(len(data)), min(5, len(data))):
            spoiled[place] = draw.randrange(256)
        yield f"spoiled bytes {number}", bytes(spoiled)


def safetensors(value: dict[str, Any], data: bytes) -> bytes:
    """A safetensors file with that head."""
    head = json.dumps(value).encode()
    return len(head).to_bytes(8, "little") + head + data


def safetensors_files(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Safetensors files that are wrong: heads, what the texts in their metadata hold, dtypes, lengths."""
    size = int.from_bytes(good[:8], "little")
    head, data = json.loads(good[8 : 8 + size]), good[8 + size :]
    for name, new in changes(head):
        yield f"head, {name}", safetensors(new, data)
    for key, text in head.get("__metadata__", {}).items():
        for name, spoiled in json_texts(json.loads(text)):
            meta = head["__metadata__"] | {key: spoiled.decode("utf-8", "replace")}
            yield f"{key}, {name}", safetensors(head | {"__metadata__": meta}, data)
    for dtype in ("BF16", "F8_E4M3", "F8_E5M2", "F16", "F64", "I64", "U8", "BOOL", "C64", "F4"):
        for name in [name for name in head if name != "__metadata__"]:
            yield f"{name} of {dtype}", safetensors(head | {name: head[name] | {"dtype": dtype}}, data)
            bits = {"F64": 64, "I64": 64, "C64": 64, "BF16": 16, "F16": 16, "F4": 4}.get(dtype, 8)
            whole = {"dtype": dtype, "shape": head[name]["shape"], "data_offsets": [0, 0]}
            n_bytes = -(-bits * _product(whole["shape"]) // 8)
            alone = {
                name: whole | {"data_offsets": [0, n_bytes]},
                "__metadata__": head.get("__metadata__", {}),
            }
            yield f"{name} of {dtype}, alone", safetensors(alone, bytes(n_bytes))
    for length in (0, 1, 2**40, 2**63, 2**64 - 1):
        yield f"a head of {length} bytes", length.to_bytes(8, "little") + good[8:]
    deep = '{"__metadata__":' + '{"a":' * DEEP + "1" + "}" * DEEP + "}"
    yield "a deep head", len(deep).to_bytes(8, "little") + deep.encode() + data
    yield from cut_bytes(good)


def _product(shape: list[int]) -> int:
    return shape[0] * _product(shape[1:]) if shape else 1


# kinds


SWEEP = (
    "sweep",
    "ioi",
    "--model",
    "tiny",
    "--prompts",
    "4",
    "--quiet",
    "--method",
    "eap-ig",
    "--edges",
    "10,20",
)
RESUMED = (*SWEEP, "--resume", "--out", "PARENT")


def make_runs(folder: Path) -> Path:
    """Small runs of the bundled model, and what is made of them: what the kinds change."""
    run = ("run", "ioi", "--model", "tiny", "--prompts", "4", "--quiet", "--format", "dot", "--out")
    for name, *options in (
        ("acdc", "--threshold", "0.05", "--candidates", "eap-ig:60"),
        ("roles", "--threshold", "0.2", "--positions"),
        ("scored", "--method", "ensemble", "--of", "eap-ig,exact", "--edges", "30", "--bootstrap", "20"),
        ("neurons", "--method", "eap-ig", "--level", "neuron", "--neurons", "40", "--bootstrap", "20"),
    ):
        _do(*run, str(folder / name), *options)
    _do(*SWEEP, "--out", str(folder / "sweep"))
    _do(
        "evaluate",
        str(folder / "scored"),
        "--parts",
        "curve",
        "--quiet",
        "--out",
        str(folder / "scored-evaluation"),
    )
    for format in (
        "eap-ig-json",
        "eap-ig-pt",
        "acdc-json",
        "acdc-text",
        "acdc-pth",
        "autocircuit",
        "edge-pruning",
    ):
        _do("export", str(folder / "scored"), "--format", format, "--out", str(folder / f"{format}.file"))
    return folder


def _do(*command: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = call(list(command), False)
    if code != 0:
        raise RuntimeError(f"{' '.join(command)}: {said.getvalue()}")


def of_circuit(run: str) -> Callable[[Path], Iterator[Input]]:
    """Inputs from the circuit.json of a run: each command that reads a circuit without running the model."""

    def inputs(folder: Path) -> Iterator[Input]:
        file, good = folder / "wrong" / "circuit.json", str(folder / run)
        commands = (
            ("show", str(file)),
            ("show", str(file), "--json", "--node", "m0"),
            ("diff", good, str(file)),
            ("export", str(file), "--format", "dot", "--out", "-"),
            ("view", str(file), "--no-model", "--no-open", "--force", "--out", str(folder / "page.html")),
            ("known", "compare", str(file), good),
        )
        for name, text in json_texts(json.loads((folder / run / "circuit.json").read_text())):
            yield Input(name, file, text, commands)

    return inputs


def of_check(run: str) -> Callable[[Path], Iterator[Input]]:
    """The same, for the commands that run the model: minutes of it."""

    def inputs(folder: Path) -> Iterator[Input]:
        file = folder / "wrong" / "circuit.json"
        commands = (
            ("check", str(file), "--evaluate-only", "--quiet"),
            ("check", str(file), "--quiet"),
        )
        for name, text in json_texts(json.loads((folder / run / "circuit.json").read_text())):
            yield Input(name, file, text, commands)

    return inputs


def beside(run: str, name: str, *commands: tuple[str, ...]) -> Callable[[Path], Iterator[Input]]:
    """Inputs from a file in a run's folder, or beside it: of its commands FOLDER is that folder, GOOD a whole one."""

    def inputs(folder: Path) -> Iterator[Input]:
        copies = folder / "copies"
        shutil.rmtree(copies, ignore_errors=True)
        shutil.copytree(folder, copies, ignore=lambda _, names: {"copies", "wrong"} & set(names))
        place = copies / run
        file = (place / name).resolve()
        good = file.read_bytes()
        texts = safetensors_files(good) if name.endswith(".safetensors") else json_texts(json.loads(good))
        told = {
            "FOLDER": str(place),
            "PARENT": str(place.parent),
            "FILE": str(file),
            "GOOD": str(folder / "scored"),
            "OUT": str(folder / "out"),
        }
        made = tuple(tuple(str(told.get(word, word)) for word in command) for command in commands)
        for what, content in texts:
            yield Input(what, file, content, made)

    return inputs


VIEW = ("view", "FOLDER", "--no-model", "--no-open", "--force", "--out", "OUT")


def of_known(folder: Path) -> Iterator[Input]:
    """Inputs from a published circuit's file."""
    from circuitfind.known.published import FOLDER

    file = folder / "wrong.json"
    commands = (("known", "show", str(file)), ("known", "compare", str(folder / "acdc"), str(file)))
    for name, text in json_texts(json.loads((FOLDER / "ioi.json").read_text())):
        yield Input(name, file, text, commands)


def of_labels(folder: Path) -> Iterator[Input]:
    """Inputs from a file of labels."""
    file = folder / "wrong.json"
    commands = (("export", str(folder / "acdc"), "--format", "dot", "--out", "-", "--labels", str(file)),)
    for name, text in json_texts({"a0.h1": "Name mover", "m0": "early"}):
        yield Input(name, file, text, commands)


def imported(format: str, suffix: str, *options: str) -> Callable[[Path], Iterator[Input]]:
    """Inputs from a file of another tool, in one of its formats."""

    def inputs(folder: Path) -> Iterator[Input]:
        good, file = (folder / f"{format}.file").read_bytes(), folder / f"wrong{suffix}"
        out = ("--out", str(folder / "imported.json"), "--force")
        commands = tuple(
            ("import", str(file), *options, *out, *more) for more in ((), ("--format", format))
        )
        for name, content in _foreign(good, suffix):
            yield Input(name, file, content, commands)

    return inputs


def _foreign(good: bytes, suffix: str) -> Iterator[tuple[str, bytes]]:
    if suffix == ".json":
        yield from json_texts(json.loads(good))
    elif suffix == ".txt":
        yield from cut_bytes(good)
        for odd in (" ", "\n", ",", "(", "[", "'", "'a.", "(('a', [", "TorchIndex("):
            for name, text in (("first", good), ("nothing but", b"")):
                yield f"{name} 100,000 times {odd!r}", text[: len(text) // 2] + (odd * 100_000).encode()
        half = good[: good.index(b"),") - 12]
        yield "100,000 spaces in an entry", half + b" " * 100_000
    else:
        yield from cut_bytes(good)
        yield from _torch_files(good)


def _torch_files(good: bytes) -> Iterator[tuple[str, bytes]]:
    import torch

    value = torch.load(io.BytesIO(good), weights_only=True)
    first = next(iter(value.values()))
    tensor = first if isinstance(first, torch.Tensor) else torch.zeros(3)
    odd = (
        ("bfloat16", tensor.bfloat16()),
        ("float8", tensor.float().to(torch.float8_e4m3fn)),
        ("complex", tensor.to(torch.complex64)),
        ("bool", tensor.bool()),
        ("NaN", tensor.float() * float("nan")),
        ("sparse", tensor.float().to_sparse()),
        ("empty", torch.zeros(0)),
        ("scalar", torch.zeros(())),
        ("huge", torch.zeros(1).expand(10**6, 10**6)),
    )
    for path in paths(value):
        for what, new in (*WRONG, *((f"tensor, {what}", one) for what, one in odd)):
            yield f"{path}: {what}", _saved(changed(value, path, new))
    for what, key in (("a number", 5), ("a tuple", (1, 2)), ("an empty text", ""), ("null", None)):
        yield f"key: {what}", _saved({key: 1, **value})
        yield f"last key: {what}", _saved({**value, key: 1})


def _saved(value: Any) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def of_prompts(
    make: Callable[[], Iterator[bad_prompts.Wrong]], commands: tuple[tuple[str, ...], ...]
) -> Callable[[Path], Iterator[Input]]:
    """Inputs of a kind of prompts or task files."""

    def inputs(folder: Path) -> Iterator[Input]:
        for what, name, content in make():
            file = folder / "wrong" / name
            told = {"FILE": str(file), "OUT": str(folder / "out.prompts.jsonl")}
            yield Input(
                what,
                file,
                content,
                tuple(tuple(told.get(word, word) for word in one) for one in commands),
            )

    return inputs


KINDS = (
    Kind("circuit.json", of_circuit("acdc")),
    Kind("circuit.json of positions", of_circuit("roles")),
    Kind("circuit.json of neurons", of_circuit("neurons")),
    Kind("circuit.json, run again", of_check("acdc")),
    Kind("consensus.json", beside("scored", "consensus.json", ("show", "FILE"))),
    Kind(
        "run.json", beside("scored", "run.json", VIEW, ("check", "FOLDER", "--evaluate-only", "--quiet"))
    ),
    Kind("sweep.json", beside("sweep/edges-10", "../sweep.json", VIEW)),
    Kind("run.json, of a sweep gone on with", beside("sweep/edges-10", "run.json", RESUMED)),
    Kind("circuit.json, of a sweep gone on with", beside("sweep/edges-10", "circuit.json", RESUMED)),
    Kind("an evaluation's report.json", beside("scored", "../scored-evaluation/report.json", VIEW)),
    Kind(
        "scores.safetensors",
        beside(
            "scored",
            "scores.safetensors",
            ("known", "compare", "FOLDER", "GOOD"),
            ("export", "FOLDER", "--format", "eap-ig-json", "--out", "-"),
            VIEW,
        ),
    ),
    Kind("bootstrap.safetensors", beside("scored", "bootstrap.safetensors", VIEW)),
    Kind("bootstrap.safetensors of neurons", beside("neurons", "bootstrap.safetensors", VIEW)),
    Kind("published circuits", of_known),
    Kind("labels", of_labels),
    Kind("EAP-IG's json", imported("eap-ig-json", ".json")),
    Kind("EAP-IG's pt", imported("eap-ig-pt", ".pt")),
    Kind("ACDC's json", imported("acdc-json", ".json", "--shape", "3x4")),
    Kind("ACDC's text", imported("acdc-text", ".txt", "--shape", "3x4")),
    Kind("ACDC's pth", imported("acdc-pth", ".pth")),
    Kind("AutoCircuit's pt", imported("autocircuit", ".pt", "--edges", "20")),
    Kind("Edge-Pruning's json", imported("edge-pruning", ".json", "--shape", "3x4")),
    *(Kind(name, of_prompts(*of)) for name, of in bad_prompts.KINDS.items()),
)
"""Every kind of file that is tried; more go to the end."""


# trying them


def failures(kind: Kind, folder: Path, sample: int | None = None) -> tuple[int, list[Failure]]:
    """How many inputs were tried, and what did not go as it must. ``sample``: so many inputs alone, drawn."""
    inputs = list(kind.inputs(folder))
    if sample is not None and sample < len(inputs):
        inputs = random.Random(kind.name).sample(inputs, sample)
    found = []
    for input in inputs:
        input.file.parent.mkdir(parents=True, exist_ok=True)
        input.file.write_bytes(input.content)
        for command in input.commands:
            if (reason := try_out(command)) is not None:
                found.append(Failure(input, command, reason))
    return len(inputs), found


def try_out(command: tuple[str, ...]) -> str | None:
    """What is wrong with what the command did; None if nothing is."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(2)
    )
    begun = time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = call(list(command), False)
    except BaseException as error:
        return f"raises {type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - begun
    err.flush()
    return judge(code, err.buffer.getvalue().decode(), seconds)


def judge(code: int, said: str, seconds: float) -> str | None:
    """What is wrong with an exit code, with what was said on stderr, and with how long it took."""
    error = said[said.index("error: ") :] if "error: " in said else ""
    if "fault in circuitfind" in said or "Traceback" in said:
        return said.strip()
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if code == 2 and not said.strip():
        return "exit code 2 without a word on stderr"
    if error.strip().count("\n") > 1:
        return f"an error of {error.count(chr(10))} lines: {error[:300]}"
    if (longest := max(map(len, re.findall(r"\S+", said)), default=0)) > LONGEST_WORD:
        return f"a word of {longest:,} characters: {said[:300]}"
    return f"{seconds:.1f} s" if seconds > MOST_SECONDS else None


def main() -> None:
    options = parse()
    n_failed = 0
    with tempfile.TemporaryDirectory() as folder:
        runs = make_runs(Path(folder))
        print(f"{'kind':36}{'inputs':>8}{'commands':>10}{'fail':>7}{'seconds':>9}")
        for kind in [kind for kind in KINDS if not options.kinds or kind.name in options.kinds]:
            begun = time.perf_counter()
            n_inputs, found = failures(kind, runs, options.sample)
            n_commands = len(next(iter(kind.inputs(runs))).commands)
            print(
                f"{kind.name:36}{n_inputs:8,}{n_commands:10}{len(found):7,}{time.perf_counter() - begun:9.1f}"
            )
            n_failed += len(found)
            for failure in found if options.show else ():
                print(
                    f"    {failure.input.name}\n        {' '.join(failure.command)}\n        {failure.reason[:600]!r}"
                )
    sys.exit(1 if n_failed else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="*", help="these alone")
    parser.add_argument("--sample", type=int, help="so many inputs of each kind alone, drawn")
    parser.add_argument("--show", action="store_true", help="every failure")
    return parser.parse_args()


if __name__ == "__main__":
    main()
