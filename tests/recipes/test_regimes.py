"""The recipe after Raschka's article trains exactly the parameters that the article counts."""

from __future__ import annotations

import pytest
import torch
from transformers import DistilBertConfig, DistilBertModel

from compose.dsl import as_expression
from compose.recipes.members import members
from compose.recipes.shipped import find
from compose.recipes.validate import read_recipe, validate
from compose.runtime.attach import attach
from compose.runtime.model import Model

COUNTS = {
    "head alone": 592_130,
    "adapters as published": 599_424 + 592_130,  # the article does not count the head here
    "adapters with a residual": 599_424 + 592_130,
    "all layers": 66_955_010,
    "all layers and adapters as published": 67_554_434,
    "all layers and adapters with a residual": 67_554_434,
}


@pytest.fixture(scope="module")
def backbone() -> DistilBertModel:
    with torch.device("meta"):  # of its true size, without its weights
        return DistilBertModel(DistilBertConfig())


def test_every_regime_trains_what_the_article_counts(backbone: DistilBertModel) -> None:
    document, recipe = read_recipe(find("sentiment/distilbert-regimes"))
    found = {}
    for member in members(document, recipe.sweep):
        one = validate(member.document)
        model: Model = attach(backbone)
        for name, adapter in one.adapters.items():
            model.add_adapter(name, adapter.method, **adapter.options)
        for name, head in one.heads.items():
            model.add_head(name, head.kind, labels=head.labels, **head.options)
        (stage,) = one.train
        found[member.values["trained"]] = model.train_only(as_expression(stage.expression), stage.regime).count
        (adapter_spec,) = (adapter.spec for _, adapter in model.adapters.items())
        assert sum(part.parameters for part in adapter_spec.parts) == 599_424
        model.detach()
    assert found == COUNTS
