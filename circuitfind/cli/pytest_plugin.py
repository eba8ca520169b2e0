"""A plugin for pytest: ``pytest --circuits results/known`` makes a test of each known circuit.

It is registered as the entry point ``pytest11`` and imports nothing heavy: torch comes when the
first circuit is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from circuitfind.review.tolerances import Verdict


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("circuitfind", "circuits that must still hold")
    group.addoption(
        "--circuits",
        action="append",
        default=[],
        metavar="PATH",
        help="A circuit.json, or a folder of them; several times.",
    )
    group.addoption(
        "--circuits-model", metavar="M", default=None, help="A model in place of the circuits' own."
    )
    group.addoption(
        "--circuits-task", metavar="TASK", default=None, help="A task or its file in place of their own."
    )
    group.addoption(
        "--circuits-trust",
        action="store_true",
        help="Run the task files and open the models that the circuits name.",
    )
    group.addoption(
        "--circuits-evaluate-only",
        action="store_true",
        help="Evaluate the stored circuits; do not look for them anew.",
    )
    group.addoption(
        "--circuits-tolerance",
        action="append",
        default=[],
        metavar="NAME=X",
        help="As of `circuitfind check`.",
    )


def pytest_collection(session: pytest.Session) -> None:
    """Alone, ``--circuits`` runs circuits alone: pytest would look for tests in the working
    directory otherwise.
    """
    config = session.config
    if config.getoption("--circuits") and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    from circuitfind.files.printable import printable

    for given in config.getoption("--circuits"):
        for path in circuit_files(Path(given)):
            items.append(CircuitItem.from_parent(session, name=printable(str(path)), circuit=path))


def circuit_files(path: Path) -> list[Path]:
    """The circuits at a path: the file itself, or those of the folder and below, by name; no link
    out of it counts.

    Raises pytest.UsageError where there are none.
    """
    from circuitfind.files.links import leads_outside

    if path.is_file():
        return [path]
    found = sorted(
        file for file in path.rglob("*.json") if not leads_outside(file, path) and _is_circuit(file)
    )
    if not found:
        raise pytest.UsageError(f"--circuits {path}: there is no circuit file there.")
    return found


def _is_circuit(path: Path) -> bool:
    """By its first line: other JSON files of a run folder are none, and no pipe is."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return "circuitfind.circuit" in file.read(200)


class NotHeldError(Exception):
    """A circuit that has drifted or could not be run."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.headline)
        self.verdict = verdict


class CircuitItem(pytest.Item):
    """One known circuit as a test."""

    def __init__(self, circuit: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.circuit = circuit

    def runtest(self) -> None:
        from circuitfind.review.check import CheckOptions, check
        from circuitfind.review.opening import Named
        from circuitfind.review.tolerances import parse_tolerances

        option = self.config.getoption
        options = CheckOptions(
            named=Named(
                option("--circuits-model"), option("--circuits-task"), option("--circuits-trust")
            ),
            evaluate_only=option("--circuits-evaluate-only"),
            tolerances=parse_tolerances(option("--circuits-tolerance")),
        )
        verdict = check(self.circuit, options)
        if verdict.status != "holds":
            raise NotHeldError(verdict)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from circuitfind.files.printable import printable
        from circuitfind.review.ci_report import lines_of

        if isinstance(excinfo.value, NotHeldError):
            return printable("\n".join(lines_of(excinfo.value.verdict)))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.circuit, 0, f"circuit {self.name}"
