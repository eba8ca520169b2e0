"""Prints what the house rules count: ``python -m tools.measure [FOLDER]``.

Modules, lines, lengths of functions, parameters, public names, long lines and comments of a package,
and of its tests their lines.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "circuitfind"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def length(function: Function) -> int:
    """Lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1


def n_parameters(function: Function) -> int:
    """Parameters, ``self`` and ``cls`` aside."""
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def public_names(tree: ast.Module) -> list[str]:
    """The functions, classes and constants of a module that another may import."""
    named = [node.name for node in tree.body if isinstance(node, Function | ast.ClassDef)]
    assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    assigned += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    named += [target.id for target in assigned if isinstance(target, ast.Name)]
    return [name for name in named if not name.startswith("_")]


def n_comments(source: str) -> int:
    """Comments, those for tools aside."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = (token.string for token in tokens if token.type == tokenize.COMMENT)
    return len([text for text in comments if not text.startswith(("# type:", "# noqa", "# fmt:"))])


def quantile(values: list[int], share: float) -> int:
    """The value that this share of all lie at or below."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main(package: Path = PACKAGE) -> None:
    """Print the figures of a package."""
    files = sorted(package.rglob("*.py"))
    sources = {file: file.read_text(encoding="utf-8") for file in files}
    trees = {file: ast.parse(source) for file, source in sources.items()}
    lines = [line for source in sources.values() for line in source.splitlines()]
    lengths = [length(function) for tree in trees.values() for function in functions(tree)]
    wide = [
        f"{file.relative_to(package)}:{function.name}"
        for file, tree in trees.items()
        if "cli" not in file.relative_to(package).parts
        for function in functions(tree)
        if n_parameters(function) >= 7
    ]
    tests = sum(
        len(file.read_text(encoding="utf-8").splitlines()) for file in (ROOT / "tests").rglob("*.py")
    )
    figures = {
        "modules": len(files),
        "lines": len(lines),
        "functions, median and 90th percentile of lines": (
            quantile(lengths, 0.5),
            quantile(lengths, 0.9),
        ),
        "functions of more than 60 lines": len([n for n in lengths if n > 60]),
        "functions of 7 parameters or more outside cli/": len(wide),
        "public names": sum(len(public_names(tree)) for tree in trees.values()),
        "lines over 100 columns": f"{sum(len(line) > 100 for line in lines) / len(lines):.1%}",
        "lines over 110 columns": sum(len(line) > 110 for line in lines),
        "comments": sum(map(n_comments, sources.values())),
        "lines of tests to lines of code": f"{tests / len(lines):.2f}",
    }
    for name, figure in figures.items():
        print(f"{name:52} {figure}")
    print("\n".join(wide))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
