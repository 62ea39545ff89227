"""Steps of training: every row once an epoch, within the limits, in an order that the seed decides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compose.errors import ConfigError
from compose.recipes.resolved import resolve
from compose.runtime.attach import attach
from compose.runtime.model import Model
from compose.train.data import Example
from compose.train.epochs import epochs
from compose.train.evaluate import evaluate
from compose.train.fit import Settings, fit
from compose.train.rows import row_groups
from tests.heads.texts import bert, tokenizer
from tests.recipes.small import changed, error_of, read

LENGTHS = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=80), min_size=1, max_size=3)


@given(LENGTHS, st.integers(0, 9), st.none() | st.integers(1, 9), st.none() | st.integers(1, 90))
def test_every_row_once_an_epoch(lengths: Any, seed: int, batch_size: int | None, batch_tokens: int | None) -> None:
    found = list(epochs(lengths, 2, seed, batch_size, batch_tokens))
    assert found == list(epochs(lengths, 2, seed, batch_size, batch_tokens)) and len(found) == 2
    for steps in found:
        seen = sorted((group, place) for group, places in steps for place in places)
        assert seen == [(group, place) for group, each in enumerate(lengths) for place in range(len(each))]
        for group, places in steps:
            width = max(lengths[group][place] for place in places)
            assert batch_size is None or len(places) <= batch_size
            assert batch_tokens is None or len(places) * width <= batch_tokens or len(places) == 1


def test_the_order_is_random_and_the_seeds() -> None:
    lengths = [list(range(1, 200))]
    first, second = epochs(lengths, 2, seed=1, batch_tokens=400)
    (other,) = epochs(lengths, 1, seed=2, batch_tokens=400)
    assert first != second and first != other
    widths = [max(lengths[0][place] for place in places) for _, places in first]
    assert widths != sorted(widths)


def test_little_of_a_step_is_padding() -> None:
    lengths = [[5 + (7 * place) % 40 for place in range(400)]]
    (steps,) = epochs(lengths, 1, seed=0, batch_tokens=256)
    padded = sum(len(places) * max(lengths[0][place] for place in places) for _, places in steps)
    assert padded < 1.2 * sum(lengths[0])
    assert len(steps) < 1.3 * sum(lengths[0]) / 256  # and steps are full


TEXTS = ["a b new york", "c d", "a a b a b a b", "d d new york c", "b a", "c c d", "a new york", "d c c c d d d"]
EXAMPLES = [Example(text, "first" if text[0] in "ab" else "second") for text in TEXTS]


def model() -> Model:
    made = attach(bert(), tokenizer())
    torch.manual_seed(0)
    made.add_adapter("a", "seq_bn", reduction_factor=2)
    made.add_head("a", "classification", labels=["first", "second"], pooling="mean")
    return made


def trained(copies: int = 1, **settings: Any) -> tuple[Model, list[tuple[int, int]], tuple[float, ...]]:
    """The model, each step's number with the total, and the losses."""
    made = model()
    made.train_only("a")
    told: list[tuple[int, int]] = []
    groups = row_groups(made, {"a": EXAMPLES * copies})
    options = {"learning_rate": 3e-2, "seed": 1, **settings}
    history = fit(
        made, made.plan("a"), groups, Settings(**options), on_step=lambda done, total, loss: told.append((done, total))
    )
    assert history.steps == len(told)
    assert len(history.epoch_seconds) == len(history.losses) and min(history.epoch_seconds) > 0
    assert sum(history.epoch_seconds) == pytest.approx(history.seconds)
    return made, told, history.losses


def test_training_within_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    own = torch.optim.AdamW.step

    def step(optimizer: Any, *given: Any) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return own(optimizer, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    made, told, losses = trained(5, epochs=6, batch_tokens=24, warmup=0.25)
    lengths = [[len(tokenizer()(text).input_ids) for text in TEXTS * 5]]
    steps = [len(each) for each in epochs(lengths, 6, 1, batch_tokens=24)]
    assert len(set(steps)) > 1, "epochs differ in steps, and all of them are counted"
    assert told == [(done, sum(steps)) for done in range(1, sum(steps) + 1)]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert evaluate(made.plan("a"), {"a": EXAMPLES}, batch_tokens=20)["a"]["accuracy"] == 1.0
    top = rates.index(max(rates))
    assert top + 1 == round(sum(steps) * 0.25) and max(rates) == pytest.approx(3e-2)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(3e-2 / (sum(steps) - top - 1))  # the last step is one before 0


def test_limits_of_steps() -> None:
    assert trained(epochs=1)[1] == [(1, 1)], "16 rows where nothing is said"
    assert len(trained(epochs=1, batch_size=3)[1]) == 3
    assert len(trained(epochs=1, batch_tokens=10**6)[1]) == 1
    assert len(trained(epochs=1, batch_size=1, batch_tokens=10**6)[1]) == len(TEXTS)
    assert len(trained(epochs=1, batch_tokens=1)[1]) == len(TEXTS), "what is too long is a step of its own"


def test_one_budget_and_seed_give_the_same_weights() -> None:
    one, same, other = (trained(epochs=3, batch_tokens=30, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(batch_size=0, batch_tokens=-1)
    assert len(caught.value.problems) == 2 and "batch_tokens=-1" in str(caught.value)


STAGE = "{expression: topic, epochs: 2, learning_rate: 5e-4}"


def test_recipes_say_budgets(tmp_path: Any) -> None:
    recipe = read(
        changed("learning_rate: 5e-4", "batch_tokens: 512").replace("evaluate:", "evaluate:\n  batch_tokens: 64")
    )
    assert (recipe.train[0].batch_size, recipe.train[0].batch_tokens) == (None, 512)
    assert (recipe.evaluate.batch_size, recipe.evaluate.batch_tokens) == (None, 64)
    assert resolve(recipe, tmp_path, {}).train[0].batch_size is None
    plain = resolve(read(changed("epochs: 2", "epochs: 3")), tmp_path, {})
    assert plain.train[0].batch_size == 16, "a default is written out"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("batch_tokens: 0", "greater than or equal to 1"),
        ("batch_tokens: 9.5", "must be a whole number, not 9.5"),
        ("max_tokens: 9", "'batch_tokens' is what it is called here"),
    ],
)
def test_wrong_budgets_in_recipes(said: str, message: str) -> None:
    assert message in error_of(changed("learning_rate: 5e-4", said))


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_epochs_are_a_whole_number_of_at_least_1(epochs: Any) -> None:
    with pytest.raises(ConfigError, match=f"epochs={epochs}, but a whole number of at least 1"):
        Settings(epochs=epochs)
