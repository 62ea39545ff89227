"""A batch answered without gradients."""

from __future__ import annotations

from typing import Any

import torch

from compose.bench.loop import Work
from compose.bench.setups.models import Told, add_heads, batch_of, expression_of, our_model, plain_backbone
from compose.runtime.sparsity import prune_neurons

COUNTED = "eager"
"""The attention with which FLOPs are counted: nothing is compiled then."""


def plain(told: Told, attention: str) -> Work:
    """The backbone alone, on `times` as many rows where that is told."""
    backbone = plain_backbone(told, attention)
    batch = batch_of(told, told["rows"] * told.get("times", 1))

    def call() -> None:
        with torch.no_grad():
            backbone(**batch)

    return Work(call, {"rows": len(batch["input_ids"])})


def ours(told: Told, attention: str) -> Work:
    """An expression with its heads; on batches of several `shapes`, and compiled, where that is told."""
    model = our_model(told, attention)
    plan = model.plan(expression_of(model, told))
    batches = [batch_of(told)]
    if "shapes" in told:
        batches = [batch_of(told, round(told["rows"] * r), round(told["tokens"] * t)) for r, t in told["shapes"]]
    run: Any = plan
    if told.get("optimized") and attention != COUNTED:
        # A tiny backbone is for trying things out, which needs no C++ compiler.
        tiny = told["size"] == "tiny"
        run = plan.optimize(backend="eager") if tiny else plan.optimize(mode=told.get("mode"))
    if told["setup"] == "route":
        for batch in batches:  # each row belongs to the next adapter
            batch["route"] = [plan.tasks[row % len(plan.tasks)] for row in range(len(batch["input_ids"]))]

    def call() -> None:
        with torch.no_grad():
            for batch in batches:
                run(**batch)

    return Work(call, {} if "shapes" in told else explained(plan, told))


def pruned(told: Told, attention: str) -> Work:
    """One bottleneck beside the feed-forward block, without a share of its neurons where that is told."""
    model = our_model(told, attention)
    model.add_adapter("a0", "par_bn")
    if told["sparsity"]:
        prune_neurons(model, "a0", told["sparsity"])
    add_heads(model, ["a0"])
    plan, batch = model.plan("a0"), batch_of(told)
    found = plan.explain(rows=told["rows"], tokens=told["tokens"])
    own = found.flops - found.plain.flops - sum(head.flops for head in found.heads)

    def call() -> None:
        with torch.no_grad():
            plan(**batch)

    return Work(call, {**explained(plan, told), "FLOPs of the adapter": own})


def explained(plan: Any, told: Told) -> dict[str, Any]:
    """What `explain` says of a plan: FLOPs in all, and by the number of rows that they are run on."""
    found = plan.explain(rows=told["rows"], tokens=told["tokens"])
    by_rows: dict[str, int] = {}
    for layers in found.ranges:
        key = str(layers.rows)
        by_rows[key] = by_rows.get(key, 0) + layers.flops
    rest = found.flops - sum(by_rows.values())
    by_rows[str(told["rows"])] = by_rows.get(str(told["rows"]), 0) + rest
    return {"explained": found.flops, "flops_by_rows": by_rows}
