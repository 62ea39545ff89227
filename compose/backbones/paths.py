"""The names of a backbone's linear maps: those that its modules have, and those of other versions."""

from __future__ import annotations

from typing import Any

from compose.backbones.resolve import TABLES, Anatomy
from compose.backbones.table import Fused

Paths = dict[str, tuple[int, tuple[str, ...]]]
"""By the path of the module: the layer and the site; several sites, in order, for a fused map."""


def linear_paths(model: Any, anatomy: Anatomy) -> Paths:
    """The linear maps of a backbone under its modules' own names.

    Args:
        model: the base model.
        anatomy: where its sites are.
    """
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[str, tuple[int, list[tuple[int, str]]]] = {}
    for layer in anatomy.layers:
        for sublayer in layer.sublayers:
            for linear in sublayer.linears:
                _, sites = found.setdefault(names[id(linear.module)], (layer.index, []))
                sites.append((linear.fused[0] if linear.fused else 0, linear.site))
    return {path: (layer, tuple(site for _, site in sorted(sites))) for path, (layer, sites) in found.items()}


def older_paths(anatomy: Anatomy) -> Paths:
    """The same maps as other versions of transformers call them; empty where they never had other names."""
    found: dict[str, tuple[int, list[tuple[int, str]]]] = {}
    for table in TABLES.get(anatomy.spec.architecture, ()):
        if table is anatomy.table:
            continue
        for stack in table.stacks:
            layers = [layer.index for layer in anatomy.spec.layers if layer.stack == stack.stack]
            for number, index in enumerate(layers):
                for sublayer in stack.sublayers:
                    for linear, path in sublayer.linears.items():
                        fused = path.index if isinstance(path, Fused) else 0
                        plain = path.path if isinstance(path, Fused) else path
                        site = f"{sublayer.name}.{linear}"
                        for each in (plain,) if isinstance(plain, str) else plain:
                            key = f"{stack.layers}.{number}.{each}"
                            found.setdefault(key, (index, []))[1].append((fused, site))
    return {path: (layer, tuple(site for _, site in sorted(sites))) for path, (layer, sites) in found.items()}


def words_alone(model: Any, anatomy: Anatomy) -> bool:
    """Whether nothing runs before the layers but the embeddings of words."""
    words = model.get_input_embeddings()
    return len(anatomy.before) == 1 and anatomy.before[0] is words
