"""Where the branches of a plan part, and why there."""

from __future__ import annotations

from collections.abc import Sequence

from compose.explain.acts import Acts
from compose.explain.explanation import Fork
from compose.plan import Plan, SiteProgram
from compose.specs import LAYER, LayerSpec

Classes = dict[int, int]
"""The class that each branch belongs to at some place."""


def forks_of(plan: Plan) -> tuple[Fork, ...]:
    """The forks of a plan in the order in which it runs, followed back from its end."""
    forks: list[Fork] = []
    after: Classes = {branch: end for branch, end in enumerate(plan.branches) if end is not None}
    if plan.aggregation is not None:
        before = _back(after, plan.aggregation.sources)
        forks += _parted(*plan.backbone.states_key, before, after, _why(plan.aggregation, before, after))
        after = before
    for layer, rows in zip(reversed(plan.backbone.layers), reversed(plan.layers), strict=True):
        at_end = after
        sites = [site.name for sublayer in layer.sublayers for site in sublayer.exits]
        for site in (LAYER, *reversed(sites)):
            program = plan.programs.get((layer.index, site))
            if program is not None:
                before = _back(after, program.sources)
                forks += _parted(layer.index, site, before, after, _why(program, before, after))
                after = before
        if rows.gather is not None:
            before = _back(after, rows.gather)
            why = f"they differ at {_differing(plan, layer, at_end)}; inside the layer rows cannot be repeated"
            forks += _parted(layer.index, "", before, after, why)
            after = before
        if layer.index and layer.stack != plan.backbone.layers[layer.index - 1].stack:
            after = _back(after, plan.entry)
    if plan.embedding is not None:
        before = dict.fromkeys(after, 0)
        forks += _parted(*plan.backbone.embed_key, before, after, _why(plan.embedding, before, after))
    return tuple(reversed(forks))


def _why(program: SiteProgram, before: Classes, after: Classes) -> str:
    return f"they differ in {_shown([Acts(program).of(index) for index in _firsts(before, after)])}"


def _back(after: Classes, sources: Sequence[int]) -> Classes:
    return {branch: sources[number] for branch, number in after.items()}


def _parted(layer: int, site: str, before: Classes, after: Classes, why: str) -> list[Fork]:
    """A fork for each class that becomes several."""
    groups: dict[int, dict[int, list[int]]] = {}
    for branch, number in before.items():
        groups.setdefault(number, {}).setdefault(after[branch], []).append(branch)
    return [
        Fork(layer, site, tuple(tuple(group) for group in leaving.values()), why)
        for leaving in reversed(groups.values())
        if len(leaving) > 1
    ]


def _firsts(before: Classes, after: Classes) -> list[int]:
    """The classes that come out of classes that become several."""
    leaving: dict[int, set[int]] = {}
    for branch, number in before.items():
        leaving.setdefault(number, set()).add(after[branch])
    return sorted(number for numbers in leaving.values() if len(numbers) > 1 for number in numbers)


def _shown(texts: Sequence[str]) -> str:
    return " | ".join(texts[:8]) + (" | ..." if len(texts) > 8 else "")


def _differing(plan: Plan, layer: LayerSpec, at_end: Classes) -> str:
    """The sites of a layer at which not all branches do the same."""
    sites = [site for site in layer.sites if _differ(plan.programs.get((layer.index, site)))]
    return ", ".join(sites) or "a later layer"


def _differ(program: SiteProgram | None) -> bool:
    if program is None:
        return False
    acts = Acts(program)
    return len({acts.of(index) for index in range(len(program.results))}) > 1
