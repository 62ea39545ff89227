"""Training a fusion: what is added to the loss, and what decays."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import compose
from compose.dsl import Fuse
from compose.runtime.model import Model
from compose.train.fit import Settings, fit
from compose.train.rows import RowGroup
from tests import tiny
from tests.heads import texts

FUSE = Fuse("a", "b")
ROWS = ({"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1], "labels": {"a,b": 0}},)


def model_of(kind: str, **options: Any) -> Model:
    made = compose.attach(texts.bert(), texts.tokenizer())
    for seed, name in enumerate("ab"):
        tiny.randomize(made.add_adapter(name, bottleneck_size=4), seed)
    tiny.randomize(made.add_fusion(FUSE, kind, **options), 3)
    tiny.randomize(made.add_head("a,b", labels=2), 4)
    made.train_only(FUSE, "fusion")
    return made


def first_loss(made: Model) -> float:
    return fit(made, made.plan(FUSE), [RowGroup(("a,b",), ROWS)], Settings(epochs=1)).losses[0]


def test_fit_adds_the_distance_from_the_identity() -> None:
    regularized, free = model_of("dynamic"), model_of("dynamic", regularization=False)
    added = float(regularized.fusions["a,b"].regularization_loss().detach())
    assert added > 0.1
    assert first_loss(regularized) == pytest.approx(first_loss(free) + added, rel=1e-5)


def test_what_nobody_trains_adds_nothing() -> None:
    frozen, free = model_of("dynamic"), model_of("dynamic", regularization=False)
    for made in (frozen, free):
        made.train_only(FUSE, "heads")
    assert first_loss(frozen) == pytest.approx(first_loss(free))


@pytest.mark.parametrize(
    ("kind", "decayed", "kept"),
    [
        ("dynamic", {"query.weight", "key.weight"}, {"query.bias", "key.bias", "value.weight"}),
        ("static", {"query.weight", "key.weight"}, {"query.bias", "key.bias"}),
        ("scalearn", set(), {"scales"}),
        ("scalearn_uniform++", set(), {"scales"}),
    ],
)
def test_what_decays(kind: str, decayed: set[str], kept: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of the parameters of each group of the optimizer."""
    made = model_of(kind)
    groups: list[dict[str, Any]] = []

    class Recording(torch.optim.AdamW):
        def __init__(self, given: list[dict[str, Any]], **options: Any) -> None:
            groups.extend(given)
            super().__init__(given, **options)

    monkeypatch.setattr(torch.optim, "AdamW", Recording)
    fit(made, made.plan(FUSE), [RowGroup(("a,b",), ROWS)], Settings(epochs=1, weight_decay=0.1))
    assert all(weight.grad is None for weight in made.parameters())  # what was folded need not be compared
    names = {id(parameter): name for name, parameter in made.fusions.named_parameters()}
    found = {bool(group["weight_decay"]): {names[id(p)] for p in group["params"] if id(p) in names} for group in groups}
    layers = (0,) if "++" in kind else (0, 1)
    for decays, wanted in ((True, decayed), (False, kept)):
        assert found[decays] == {f":a,b.parts.{layer}:ffn.{name}" for layer in layers for name in wanted}
