"""A training that is interrupted and goes on from its checkpoint ends with the same weights, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compose.dsl import Drop, Fuse, Parallel
from compose.errors import ConfigError, FileError
from compose.runtime.attach import attach
from compose.runtime.model import Model
from compose.train.checkpoint import Identity
from compose.train.data import Example
from compose.train.fit import History, Settings, fit
from compose.train.rows import row_groups
from compose.train.trunk_cache import TrunkCache
from tests.heads.texts import bert, tokenizer

TEXTS = ["a b new york", "c d", "a a b a b", "d d new york c", "b a", "c c d", "a new york", "d c c c d"]
EXAMPLES = [Example(text, "first" if text[0] in "ab" else "second") for text in TEXTS]
SETTINGS = Settings(3, 3, 3e-2, checkpoint_steps=1, weight_decay=0.1)
STEPS = 3 * 5
"""Of two groups, of eight rows and of six."""


def model() -> Model:
    made = attach(bert(), tokenizer())
    torch.manual_seed(0)
    for name in "ab":
        made.add_adapter(name, "seq_bn", reduction_factor=2)
        made.add_head(name, "classification", labels=["first", "second"], dropout=0.2)
    made.add_fusion(Fuse("a", "b", name="f"), temperature=True)
    made.add_head("f", "classification", labels=["first", "second"])
    return made


Way = Callable[[Model], tuple[Any, TrunkCache | None]]
"""Chooses what is trained; gives the expression and the cache."""


def adapters(made: Model) -> tuple[Any, None]:
    made.train_only(Parallel("a", "b"))
    return Parallel("a", "b"), None


def random_drops(made: Model) -> tuple[Any, None]:
    expression = Parallel(a=Drop("a", first=(0, 2)), b="b")
    made.train_only(expression)
    return expression, None


def fusion(made: Model) -> tuple[Any, None]:
    expression = Parallel(a=Fuse("a", "b", name="f"), b=Fuse("a", "b", name="f"))
    made.train_only(expression, "fusion")
    return expression, None


def backbone(made: Model) -> tuple[Any, None]:
    made.train_only(Parallel("a", "b"), "full+adapters")
    return Parallel("a", "b"), None


def cached(made: Model) -> tuple[Any, TrunkCache]:
    expression = Drop(Parallel("a", "b"), first=1)
    made.train_only(expression)
    return expression, TrunkCache()


class Stop(Exception):
    """The end of the world."""


def trained(way: Way, path: Path | None = None, stop: int | None = None, **changed: Any) -> tuple[Model, History]:
    made = model()
    expression, cache = way(made)
    groups = row_groups(made, {"a": EXAMPLES, "b": EXAMPLES[:6]})

    def on_step(done: int, total: int, loss: float) -> None:
        assert total == STEPS
        if done == stop:
            raise Stop

    settings = Settings(**{**vars(SETTINGS), **changed})
    return made, fit(made, made.plan(expression), groups, settings, on_step, cache, path)


@pytest.mark.parametrize("way", [adapters, random_drops, fusion, backbone, cached])
def test_the_same_weights_wherever_it_stops(way: Way, tmp_path: Path) -> None:
    whole, told = trained(way)
    path = tmp_path / "training.safetensors"
    for stop in (1, 5, 7):  # in the first epoch, at the end of it, in the second
        with pytest.raises(Stop):
            trained(way, path, stop)
    resumed, again = trained(way, path)
    assert (again.losses, again.steps) == (told.losses, told.steps) and again.seconds > 0
    assert len(again.epoch_seconds) == len(told.losses)
    expected = whole.state_dict()
    assert any(name.startswith("backbone.") for name in expected) == (way is backbone)
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


def test_checkpoints_between_steps_cost_no_difference_where_none_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    with pytest.raises(Stop):
        trained(adapters, path, 9, checkpoint_steps=None)  # the last checkpoint is that of the first epoch
    whole, resumed = trained(adapters)[0].state_dict(), trained(adapters, path, checkpoint_steps=4)[0].state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_what_is_finished_is_only_read(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    first, told = trained(adapters, path)
    second, again = trained(adapters, path, stop=1)  # no step is done
    assert again == told and not second.training
    other = second.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_another_training_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    trained(adapters, path)
    with pytest.raises(ConfigError) as caught:
        trained(adapters, path, epochs=4, learning_rate=1e-3)
    told = str(caught.value)
    assert "settings.epochs was 3, and is 4" in told and "settings.learning_rate was 0.03, and is 0.001" in told
    facts = Identity({"kind": "adapters"}).differences({"kind": "adapters", "settings.gone": "2"})
    assert [each.what for each in facts] == ["settings.gone was 2, and is not there"]
    with pytest.raises(ConfigError, match=r"expression was Parallel"):
        trained(random_drops, path)
    with pytest.raises(ConfigError, match="what is trained differs"):
        trained(backbone, path)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    trained(adapters, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FileError, match=r"training\.safetensors: a damaged checkpoint"):
        trained(adapters, path)


def test_dropout_is_on_while_training() -> None:
    losses = []
    for rate in (0.0, 0.5):
        made = model()
        made.heads["a"].dropout.p = rate  # type: ignore[union-attr]
        made.train_only("a")
        assert not made.training
        losses.append(fit(made, made.plan("a"), row_groups(made, {"a": EXAMPLES}), Settings(1)).losses)
    assert losses[0] != losses[1]
