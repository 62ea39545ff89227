"""`import compose` is light, and its lazy names, its stubs and what they stand for agree."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import compose
from tests.test_layers import FILES, ROOT, is_heavy

BLOCK = """
import sys
for name in {names!r}:
    sys.modules[name] = None  # an import of it is an ImportError
"""


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_import_needs_nothing_that_computes() -> None:
    code = BLOCK.format(names=["torch", "transformers", "numpy", "networkx", "pydantic", "typer"])
    done = python(code + "import compose\nprint(compose.Stack('a', 'b'), compose.parse(\"Fuse('a', 'b')\"))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == """Stack("a", "b") Fuse("a", "b")"""


def test_the_compiler_needs_no_torch() -> None:
    light = [name for name in FILES if not is_heavy(name) and name != "compose.__main__"]
    assert "compose.compile" in light and "compose.methods.registry" in light
    code = BLOCK.format(names=["torch", "transformers"])
    done = python(code + f"import importlib\nfor name in {light!r}:\n    importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_import_loads_two_modules_and_few_of_pythons_own() -> None:
    done = python("import sys; before = set(sys.modules); import compose; print(*set(sys.modules) - before)")
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names} == {
        "compose",
        "compose.exports",
    }
    assert len(loaded) < 15


HOME = {name: module for module, names in compose._PUBLIC.items() for name in names}


@pytest.mark.parametrize("name", HOME)
def test_every_public_name_is_there(name: str) -> None:
    assert name in compose.__all__
    module = importlib.import_module(HOME[name])
    assert getattr(compose, name) is getattr(module, name)
    assert name in dir(compose)


def test_stubs_say_the_same_as_the_table() -> None:
    stub = ast.parse(Path(compose.__file__).with_suffix(".pyi").read_text("utf-8"))
    said = {alias.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert said == HOME


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Stak'"):
        compose.__getattr__("Stak")
