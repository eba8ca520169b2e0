"""docs/security.md names every module that runs, unpickles, fetches or writes something, and tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`[\w/.]+\.py`[^|]*)\|[^|]*\|[^|]*\|([^|]*)\|$", PAGE, re.MULTILINE)
NAMED = {name for modules, _ in ROWS for name in re.findall(r"`([\w/.]+)`", modules)}
BY_NAME = {"exec", "eval", "compile", "__import__", "open"}
BY_ATTRIBUTE = {
    *("run_path", "run_module", "import_module", "find_spec", "spec_from_file_location", "exec_module"),
    *("Popen", "check_output", "check_call", "_exit", "extract", "extractall"),
    *(
        "from_pretrained",
        "boot_transformers",
        "save_pretrained",
        "snapshot_download",
        "model_info",
        "urlopen",
    ),
    *(
        "write_text",
        "write_bytes",
        "touch",
        "mkdir",
        "unlink",
        "rmdir",
        "rmtree",
        "rename",
        "savefig",
        "symlink_to",
    ),
    *("Unpickler", "unsafe_load", "full_load"),
}
WHOLE = {
    *(
        "torch.load",
        "pickle.load",
        "pickle.loads",
        "np.load",
        "numpy.load",
        "yaml.load",
        "joblib.load",
        "marshal.loads",
    ),
    *("subprocess.run", "subprocess.call", "os.system", "os.popen", "os.open", "webbrowser.open"),
}


def calls(source: str) -> set[str]:
    """The calls in a module that run, unpickle, fetch or write something."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        is_write = name.endswith(".open") and any(
            isinstance(given, ast.Constant) and set(str(given.value)) & set("wxa+")
            for given in node.args[:1]
        )
        if name in BY_NAME | BY_ATTRIBUTE | WHOLE or name.rpartition(".")[2] in BY_ATTRIBUTE or is_write:
            found.add(name)
    return found


def modules() -> dict[str, set[str]]:
    """The modules that have such calls."""
    package = ROOT / "circuitfind"
    found = {
        file.relative_to(package).as_posix(): calls(file.read_text(encoding="utf-8"))
        for file in package.rglob("*.py")
    }
    return {name: which for name, which in found.items() if which}


@pytest.mark.parametrize(
    "source",
    [
        "exec(x)",
        "torch.load(f)",
        "pickle.loads(b)",
        "importlib.import_module(n)",
        "subprocess.run(c)",
        "path.open('wb')",
        "Path(x).write_text(y)",
        "open(x, 'w')",
        "AutoModel.from_pretrained(n)",
        "snapshot_download(r)",
    ],
)
def test_each_kind_of_call_is_seen(source: str) -> None:
    assert calls(source)


def test_reading_is_none_of_them() -> None:
    assert not calls(
        "path.open('rb'); path.read_text(); re.compile('x'); text.replace('a', 'b'); webbrowser"
    )


def test_every_module_with_such_a_call_is_in_the_table() -> None:
    missing = {name: which for name, which in modules().items() if name not in NAMED}
    assert not missing


def test_every_module_and_test_in_the_table_exists() -> None:
    assert len(ROWS) > 15
    for name in NAMED:
        assert (ROOT / "circuitfind" / name).is_file(), name
    for _, tests in ROWS:
        named = re.findall(r"`([\w/.]+)`", tests)
        assert named
        for name in named:
            assert (ROOT / name).is_file(), name


def test_models_are_loaded_without_their_code_and_without_a_network() -> None:
    for name in ("load", "tokenizer", "gguf"):
        source = (ROOT / f"circuitfind/models/loading/{name}.py").read_text(encoding="utf-8")
        assert "trust_remote_code=True" not in source
        assert "local_files_only" in source


def test_torch_reads_no_program() -> None:
    for file in (ROOT / "circuitfind").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("weights_only") == "True", file


def test_security_md_leads_to_the_page() -> None:
    assert "docs/security.md" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "docs/security.md" in (ROOT / "README.md").read_text(encoding="utf-8")
