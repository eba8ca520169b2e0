"""What is installed is what the checkout holds: declared, pinned, and run from a wheel in an empty environment."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import circuitfind

ROOT = Path(__file__).parent.parent
PYPROJECT_TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads(PYPROJECT_TEXT)
PROJECT = PYPROJECT["project"]
IMPORTED_AS = {"pyyaml": "yaml"}
NOT_IMPORTED = {
    "gguf",
    "pygraphviz",
}  # transformers reads GGUF files with the one, the process that draws the other
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
INFO = f"circuitfind-{circuitfind.__version__}.dist-info"
FONT_LICENCE = "circuitfind/export/fonts/SourceSansPro-OFL.txt"


def names(requirements: list[str]) -> set[str]:
    """The distributions' names, as pip compares them."""
    return {normal(re.split(r"[<>=\[ ;]", text)[0]) for text in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pinned}


def imports(path: Path) -> set[str]:
    """The top-level modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_the_package_and_pyproject_have_the_same_version() -> None:
    assert PROJECT["version"] == circuitfind.__version__


def test_the_package_imports_what_it_declares_and_nothing_else() -> None:
    files = [*ROOT.glob("circuitfind/**/*.py"), *ROOT.glob("tasks/*.py")]
    files.remove(ROOT / "circuitfind/cli/pytest_plugin.py")  # which pytest alone imports
    imported = set.union(*map(imports, files)) - set(sys.stdlib_module_names) - {"circuitfind"}
    declared = names(PROJECT["dependencies"]) - NOT_IMPORTED
    assert {normal(name) for name in imported} == {
        normal(IMPORTED_AS.get(name, name)) for name in declared
    }


def test_every_dependency_has_its_reason_beside_it() -> None:
    requirements = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    lines = {line.strip() for line in PYPROJECT_TEXT.splitlines()}
    without = [
        r for r in requirements if not any(re.match(rf'"{re.escape(r)}", +# \w', line) for line in lines)
    ]
    assert without == []


def test_every_dependency_is_pinned_to_a_version_that_any_index_has() -> None:
    requirements = [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["dev"],
        *PYPROJECT["build-system"]["requires"],
    ]
    assert names(requirements) - pins().keys() == set()
    assert {
        name: version for name, version in pins().items() if not re.fullmatch(r"[\w.]+", version)
    } == {}


def test_the_lock_has_the_pinned_versions_of_all_but_torch_each_with_hashes() -> None:
    entries = re.findall(
        r"^([^#\s].*?)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", LOCK, re.MULTILINE
    )
    assert {normal(name): version for name, version, _ in entries} == {
        name: pin for name, pin in pins().items() if name != "torch"
    }
    assert sum(line.startswith("    ") for line in LOCK.splitlines()) == LOCK.count("--hash=sha256:")


def test_the_pinned_versions_agree_with_what_transformer_lens_needs() -> None:
    assert (pins()["torch"], pins()["transformer-lens"]) == ("2.13.0", "4.3.0")


def environment() -> dict[str, str]:
    """For pip: every version from constraints.txt, the build backend's too."""
    constraints = str(ROOT / "constraints.txt")
    return os.environ | {"PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": constraints}


def new_python(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def pip_install(python: Path, *what: str | Path) -> None:
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def hatchling(python: Path, source: Path, target: str, out: Path) -> Path:
    """The wheel or sdist built of ``source``."""
    subprocess.run([python, "-m", "hatchling", "build", "-t", target, "-d", out], cwd=source, check=True)
    return next(out.iterdir())


def run_tiny(*command: str | Path, folder: Path) -> None:
    """Runs ioi on the bundled model from ``folder``, which knows nothing of the checkout."""
    arguments = (
        "run",
        "ioi",
        "--model",
        "tiny",
        "--threshold",
        "0.1",
        "--format",
        "svg,pdf",
        "--out",
        folder / "run",
    )
    done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.suffix for path in (folder / "run").glob("circuit.*")} == {
        ".json",
        ".dot",
        ".svg",
        ".pdf",
    }


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("needs the repository and git")
    folder = tmp_path_factory.mktemp("source") / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    return folder


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the build backend."""
    python = new_python(tmp_path_factory.mktemp("builder"))
    pip_install(python, "hatchling")
    return python


@pytest.fixture(scope="module")
def wheel(clone: Path, builder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hatchling(builder, clone, "wheel", tmp_path_factory.mktemp("wheel"))


def tracked(clone: Path, *folders: str) -> set[str]:
    done = subprocess.run(
        ["git", "ls-files", *folders], cwd=clone, check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


@pytest.mark.slow
def test_the_wheel_holds_the_package_with_tasks_model_font_and_licences_and_no_more(
    clone: Path, wheel: Path
) -> None:
    info = (
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
        f"licenses/{FONT_LICENCE}",
    )
    held = set(zipfile.ZipFile(wheel).namelist())
    assert held == {
        *tracked(clone, "circuitfind"),
        *(f"circuitfind/{path}" for path in tracked(clone, "tasks")),
        *(f"{INFO}/{name}" for name in info),
    }
    tiny = "circuitfind/models/tiny/model.safetensors"
    assert {"circuitfind/py.typed", "circuitfind/tasks/ioi.py", tiny, FONT_LICENCE} <= held


@pytest.mark.slow
def test_the_sdist_holds_the_sources_and_builds_the_same_wheel(
    clone: Path, builder: Path, wheel: Path, tmp_path: Path
) -> None:
    sdist = hatchling(builder, clone, "sdist", tmp_path / "dist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    source = tmp_path / "unpacked" / f"circuitfind-{circuitfind.__version__}"
    held = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert (
        tracked(
            clone,
            "circuitfind",
            "tasks",
            "tests",
            "docs",
            "cli.py",
            "Makefile",
            "constraints.txt",
            "requirements.lock",
        )
        <= held
    )
    assert {"LICENSE", "README.md", "CHANGELOG.md", FONT_LICENCE} <= held
    rebuilt = hatchling(builder, source, "wheel", tmp_path / "wheel")
    assert set(zipfile.ZipFile(rebuilt).namelist()) == set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_a_wheel_an_editable_install_and_cli_py_run_from_any_folder(
    clone: Path, wheel: Path, tmp_path: Path
) -> None:
    python = new_python(tmp_path / "venv")
    command = python.parent / "circuitfind"
    installs: list[list[str | Path]] = [[wheel], ["--no-deps", "--editable", clone], ["--no-deps", clone]]
    for number, what in enumerate(installs):
        pip_install(python, *what)
        folder = tmp_path / f"away-{number}"
        folder.mkdir()
        run_tiny(command, folder=folder)
    (tmp_path / "beside").mkdir()
    run_tiny(python, clone / "cli.py", folder=tmp_path / "beside")


@pytest.mark.slow
def test_the_wheel_was_built_of_tracked_files_only(clone: Path) -> None:
    status = subprocess.run(
        ["git", "status", "--short"], cwd=clone, check=True, capture_output=True, text=True
    )
    assert status.stdout == ""
