"""Law: branches that nothing is trained in, run by themselves or with the others, give the same."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compose.dsl import Expression, Parallel, leaves
from compose.errors import InputError
from compose.runtime import apart, runnable
from tests.laws.test_training import same
from tests.laws.worlds import ARCHITECTURES, ROWS, batch, drawn, is_gated, planned, world

LABELS = torch.tensor([0, 1, 1, 0])
assert len(LABELS) == ROWS


@st.composite
def parallels(draw: Any) -> tuple[str, Expression, str]:
    """Two or three named branches over an architecture, and the adapter that is trained."""
    architecture = draw(st.sampled_from(ARCHITECTURES))
    branch = drawn(architecture, ("Stack", "Fuse", "Drop", "Average"), 3)
    whole = Parallel({f"t{number}": draw(branch) for number in range(draw(st.integers(2, 3)))})
    names = sorted(set(leaves(whole)))
    assume(names and not is_gated(whole))  # a gate also reads the padding beside longer branches
    return architecture, whole, draw(st.sampled_from(names))


@given(parallels())
@settings(max_examples=40)
def test_apart_or_together(setting: tuple[str, Expression, str]) -> None:
    architecture, expression, trained = setting
    model = world(architecture)
    plan = planned(model, expression)
    assume(plan is not None)
    assert plan is not None
    for task in plan.tasks:
        model.add_head(str(task), labels=2, pooling="first", dropout=0.0)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    model.adapters[trained].requires_grad_(True)
    model.heads.requires_grad_(True)
    inputs, found = batch(architecture, padded=True), []
    try:
        for saves in (True, False):
            split: list[int] = []

            def shares_of(*given: Any, seen: list[int] = split) -> Any:
                shares = apart.shares_of(*given)
                seen.append(len(shares))
                return shares

            with (
                mock.patch.object(apart, "saves", lambda *_, saves=saves: saves),
                mock.patch.object(runnable, "shares_of", shares_of),
            ):
                model.zero_grad()
                try:
                    out = plan(**inputs, labels=dict.fromkeys(plan.tasks, LABELS))
                except InputError as error:  # by themselves, branches may have a meaning that they have not together
                    assume("ReFT in one batch" not in str(error))
                    raise
                assert out.loss is not None
                out.loss.backward()
            assert saves or split in ([], [1])
            gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            found.append(({str(key): one.logits.detach() for key, one in out.items()}, gradients))
    finally:
        model.zero_grad()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before.get(name, True))
        for task in plan.tasks:
            model.delete_head(str(task))
    for one, other in zip(*found, strict=True):
        same(one, other, architecture)
