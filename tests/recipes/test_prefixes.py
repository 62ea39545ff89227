"""Prefixes in recipes."""

from __future__ import annotations

from compose.methods.registry import make_config
from tests.recipes.small import changed, error_of, read


def test_a_prefix_in_a_recipe() -> None:
    recipe = read(changed("{method: lora, r: 4}", "{method: prefix_tuning, prefix_length: 6, use_gating: true}"))
    made = make_config(recipe.adapters["entities"].method, **recipe.adapters["entities"].options)
    assert made == make_config("prefix_tuning", prefix_length=6, use_gating=True)
    assert "prefix_length must be a whole number" in error_of(
        changed("{method: lora, r: 4}", "{method: prefix_tuning_flat, prefix_length: none}")
    )
