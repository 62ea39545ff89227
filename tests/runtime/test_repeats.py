"""What has one entry per row is repeated once per call, where branches part, and not again in every layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compose.runtime import repeat
from tests import tiny

LAYERS = 4


def repeats(monkeypatch: pytest.MonkeyPatch, architecture: str, expression: str, **options: Any) -> tuple[int, int]:
    """How often a call repeats an argument, and how many layers are given one that was repeated."""
    model = tiny.model(architecture, LAYERS, **options)
    for name in ("a", "b", "c"):
        tiny.randomize(model.add_adapter(name, "seq_bn", bottleneck_size=4))
    made: list[torch.Tensor] = []
    given: set[int] = set()
    real, arguments = repeat.take_classes, repeat._repeat

    def take(tensor: torch.Tensor, classes: tuple[int, ...], batch: int) -> torch.Tensor:
        made.append(real(tensor, classes, batch))
        return made[-1]

    def argument(frame: Any, layer: Any, name: str, value: Any) -> Any:
        found = arguments(frame, layer, name, value)
        if found is not value and isinstance(found, torch.Tensor):
            given.add(layer.index)
        return found

    monkeypatch.setattr(repeat, "take_classes", take)
    monkeypatch.setattr(repeat, "_repeat", argument)
    plan = model.plan(expression)
    plan.states(**tiny.inputs(architecture, padded=architecture != "vit"))
    return len(made), len(given)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_mask_is_repeated_once(monkeypatch: pytest.MonkeyPatch, attention: str) -> None:
    # Branches part at the end of the first layer, so that three of four run on repeated rows.
    found = repeats(monkeypatch, "bert", "Parallel('a', 'b', 'c')", attn_implementation=attention)
    assert found == (1, LAYERS - 1)


def test_branches_that_part_twice_repeat_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert repeats(monkeypatch, "bert", "Parallel('a', Drop('a', first=2), Drop('b', first=2))") == (2, LAYERS - 1)


def test_masks_and_positions_of_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    # A mask, positions, and the sines and cosines made from them.
    made, given = repeats(monkeypatch, "llama", "Parallel('a', 'b', 'c')")
    assert made <= 4 and given == LAYERS - 1


def test_no_branches_no_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    assert repeats(monkeypatch, "bert", "Stack('a', 'b', 'c')") == (0, 0)
