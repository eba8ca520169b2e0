"""The order of the rooms: what is imported lies below, no import goes round in a circle, and what needs no torch has
none."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "circuitfind"

RANKS = (
    ("errors", "progress", "version"),
    ("files",),
    ("circuits",),
    ("prompts",),
    ("models",),
    ("options", "metrics"),
    ("patching",),
    ("evaluation",),
    ("methods", "known", "exchange"),
    ("export", "truth"),
    ("runs",),
    ("pipeline",),
    ("sweep", "review"),
    ("cli",),
    ("__init__", "__main__"),
)
"""The rooms of the package, the lowest first: a module imports from its own room and from lower ones alone."""
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
WITHOUT_TORCH = (
    "files",
    "circuits",
    "prompts",
    "exchange",
    "known",
    "export",
    "cli",
    "options",
    "errors",
    "progress",
)
"""The rooms that a command goes through which runs no model."""
WITH_TORCH = {
    *(
        f"circuits.{name}"
        for name in ("bootstrap", "masks", "outputs", "scores_file", "selection", "units")
    ),
    "prompts.batch",
    "prompts.roles",
}
"""The modules there that compute with tensors."""
ALSO_WITHOUT_TORCH = (
    "methods.catalogue",
    "runs.plan",
    "runs.sweep_plan",
    "runs.resume",
    "review.evaluate_plan",
)

BLOCKED = """
import importlib, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformer_lens", "transformers"):
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, NoTorch())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    paths = (ROOT / PACKAGE).rglob("*.py")
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def imports(source: str, known: Mapping[str, object]) -> Iterator[str]:
    """The modules of the package that a module imports anywhere, in functions and for types alone too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            assert node.module is not None and node.level == 0
            for alias in node.names:
                as_module = f"{node.module}.{alias.name}"
                if as_module in known:
                    yield as_module
                else:
                    yield node.module


def room_of(module: str) -> str:
    """The room that a module is in: its folder, or itself where it stands alone."""
    _, _, rest = module.partition(".")
    return rest.partition(".")[0] or "__init__"


def arrows() -> list[tuple[str, str]]:
    """Which module imports which."""
    known = modules()
    return sorted(
        {
            (name, imported)
            for name, path in known.items()
            for imported in imports(path.read_text(encoding="utf-8"), known)
            if imported != name
        }
    )


def test_every_import_goes_down() -> None:
    up = [
        f"{name} imports {imported}"
        for name, imported in arrows()
        if room_of(name) != room_of(imported) and RANK[room_of(imported)] >= RANK[room_of(name)]
    ]
    assert not up


def test_no_import_goes_round_in_a_circle() -> None:
    graph = nx.DiGraph((name, imported) for name, imported in arrows())
    circles = [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1]
    assert not circles


def test_every_room_has_its_rank_and_no_other_module_stands_alone() -> None:
    rooms = {room_of(name) for name in modules()}
    assert rooms == set(RANK)
    alone = {path.stem for path in (ROOT / PACKAGE).glob("*.py")}
    assert alone == {
        "__init__",
        "__main__",
        "errors",
        "options",
        "pipeline",
        "progress",
        "sweep",
        "version",
    }


@pytest.mark.parametrize(
    "source",
    [
        "from circuitfind.cli.app import main",
        "def f():\n    from circuitfind.cli import app",
        "import circuitfind.cli.app",
        "if TYPE_CHECKING:\n    from circuitfind.cli.app import main",
    ],
)
def test_every_way_to_import_is_seen(source: str) -> None:
    assert list(imports(source, modules())) == ["circuitfind.cli.app"]


def test_what_needs_no_torch_has_none() -> None:
    light = [
        name
        for name in modules()
        if room_of(name) in WITHOUT_TORCH and name.removeprefix(f"{PACKAGE}.") not in WITH_TORCH
    ]
    light += [f"{PACKAGE}.{name}" for name in ALSO_WITHOUT_TORCH]
    command = [sys.executable, "-c", BLOCKED, *light]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_modules_that_compute_are_named() -> None:
    assert {f"{PACKAGE}.{name}" for name in WITH_TORCH} <= set(modules())
