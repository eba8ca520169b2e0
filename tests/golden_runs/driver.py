"""Runs circuitfind's commands, each in a process of its own, forked from one in which torch is loaded already.

``python driver.py < jobs.json`` in the folder to work in, with the circuitfind to run on the path. It is called as
``python -m circuitfind`` calls it, and of its modules nothing is known here. A command's exit code, stdout and stderr
go to ``console.txt`` in the run's folder.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import pkgutil
import runpy
import shlex
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBRARIES = [
    *("torch._dynamo", "transformer_lens.model_bridge", "scipy.stats", "pygraphviz", "matplotlib.figure"),
    *(f"transformers.models.{family}.modeling_{family}" for family in ("gpt2", "gpt_neox", "llama")),
]
STATE_FILES = ("search.safetensors", "report.json")
"""Those of a search and of an evaluation: `--resume` goes on from them."""


def main() -> None:
    load_libraries()
    in_a_child(make_models, Path("making-models.txt"))
    in_a_child(write_fingerprint, Path("fingerprint.txt"))
    for job in json.load(sys.stdin):
        do(**job)


def load_libraries() -> None:
    """Import what takes a run seconds to import. Nothing is computed: a thread of torch's would be lost in a child."""
    import circuitfind

    names = [module.name for module in pkgutil.walk_packages(circuitfind.__path__, "circuitfind.")]
    for name in LIBRARIES + [name for name in names if not name.endswith("__main__")]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def make_models() -> None:
    import models

    models.save_all(Path("models"))


def write_fingerprint() -> None:
    import fingerprint

    Path("fingerprint.json").write_text(json.dumps(fingerprint.take()))


def do(name: str, command: str, kill_after: int | None) -> None:
    """Runs one command; ``kill_after`` so many saves of its state it is killed, and then resumed."""
    folder, arguments = Path(name), shlex.split(command)
    if arguments[0] not in ("run", "sweep", "evaluate"):
        folder.mkdir()
    console = Path(f"{name}.console")
    console.write_text(f"$ circuitfind {command}\n")
    if kill_after is not None:
        killed = in_a_child(lambda: call(arguments, kill_after), Path(os.devnull))
        with console.open("a") as file:
            file.write(
                "killed\n" if killed == -signal.SIGKILL else f"NOT KILLED, but ended with {killed}\n"
            )
        arguments.append("--resume")
    code = in_a_child(lambda: call(arguments), console)
    with console.open("a") as file:
        file.write(f"exit code {code}\n")
    folder.mkdir(exist_ok=True)
    shutil.move(console, folder / "console.txt")


def call(arguments: list[str], kill_after: int | None = None) -> None:
    if kill_after is not None:
        save_always_and_die(kill_after)
    sys.argv = ["circuitfind", *arguments]
    runpy.run_module("circuitfind", run_name="__main__")


def save_always_and_die(n_saves: int) -> None:
    """Have every state saved, since time flies, and this process killed as it would save one more than ``n_saves``."""
    clock, left = itertools.count(0, 1000), itertools.count(n_saves, -1)
    time.monotonic = lambda: float(next(clock))

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and Path(os.fspath(arguments[1])).name in STATE_FILES and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def in_a_child(function: Callable[[], None], output: Path) -> int:
    """The exit code of a child in which the function is called; minus the signal's number, if one ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        with output.open("a") as file:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = exit_code(function)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def exit_code(function: Callable[[], None]) -> int:
    try:
        function()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
