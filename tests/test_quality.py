"""What no linter looks for: habits that the code keeps."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_layers import FILES, ROOT

PYTHON = [*FILES.values(), *sorted((ROOT / "tests").rglob("*.py"))]
TEXT = [
    *PYTHON,
    *(ROOT / name for name in ("Makefile", "pyproject.toml", "mkdocs.yml", ".ci/run", "README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.yaml")),
]
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
# Places of one machine do not belong in files that travel.
LOCAL = re.compile(r"(?<![\w./])/(tmp|work|home|root|opt)/\w")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(paths: list[Path]) -> Iterator[tuple[Path, ast.Module]]:
    for path in paths:
        yield path, ast.parse(path.read_text("utf-8"))


def lines_with(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    return [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in paths
        if path.exists() and path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def test_nothing_is_left_unfinished() -> None:
    assert not lines_with(UNFINISHED, PYTHON)


def test_no_places_of_one_machine() -> None:
    assert not lines_with(LOCAL, TEXT)


def test_every_module_says_what_it_is() -> None:
    silent = [relative(path) for path, tree in parsed(PYTHON) if not ast.get_docstring(tree)]
    assert not silent


def public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def test_public_functions_and_classes_have_docstrings() -> None:
    silent = [
        f"{relative(path)}:{node.lineno}: {node.name}"
        for path, tree in parsed(list(FILES.values()))
        for node in public(tree)
        if not ast.get_docstring(node)
    ]
    assert not silent


GRAB_BAG = re.compile(r"(utils?|helpers?|misc|common)\.py")


def test_no_grab_bags_and_no_mixins() -> None:
    bags = [relative(path) for path in FILES.values() if re.fullmatch(r"(utils?|helpers?|misc|common)\.py", path.name)]
    mixins = [
        f"{relative(path)}: {node.name}"
        for path, tree in parsed(list(FILES.values()))
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith("Mixin")
    ]
    assert not bags + mixins


def test_no_eval_no_globals_no_star_imports() -> None:
    wrong = []
    for path, tree in parsed(list(FILES.values())):
        for node in ast.walk(tree):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            star = isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
            bare = isinstance(node, ast.ExceptHandler) and node.type is None
            if called in ("eval", "exec") or star or bare or isinstance(node, ast.Global):
                wrong.append(f"{relative(path)}:{node.lineno}")
    assert not wrong


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=relative)
def test_test_files_are_collected(path: Path) -> None:
    """A file with tests in it that the collector never sees cannot fail."""
    tree = ast.parse(path.read_text("utf-8"))
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert not tests or path.name.startswith("test_")


def test_no_two_tests_of_one_name() -> None:
    """The second would hide the first."""
    twice = []
    for path, tree in parsed(sorted((ROOT / "tests").rglob("test_*.py"))):
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        twice += [f"{relative(path)}: {name}" for name in set(names) if names.count(name) > 1]
    assert not twice
