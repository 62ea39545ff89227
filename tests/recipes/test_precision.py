"""The recipe's key `precision`."""

from __future__ import annotations

from compose.recipes.resolved import to_yaml
from tests.recipes.small import SMALL, error_of, read


def test_the_key() -> None:
    assert read(SMALL).precision is None
    recipe = read(SMALL, "precision=bf16")
    assert recipe.precision == "bf16" and "precision: bf16" in to_yaml(recipe)


def test_other_names_are_told_with_the_legal_ones() -> None:
    said = error_of(SMALL, "precision=float16")
    assert "--set precision=float16" in said and "'float32'" in said and "'bf16'" in said


def test_what_it_cannot_stand_beside() -> None:
    assert "say the same thing" in error_of(SMALL, "precision=bf16", "backbone={name: minilm, dtype: float32}")
    for override in ("train.0.regime=full", "train.0.regime=last_layers", "train.0.train_layer_norms=true"):
        assert "which bf16 is too coarse for" in error_of(SMALL, "precision=bf16", override)
    assert read(SMALL, "precision=float32", "train.0.regime=full").precision == "float32"
