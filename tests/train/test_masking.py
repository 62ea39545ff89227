"""Learning from texts alone: which tokens are masked, when, and what comes of it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from compose.dsl import Drop, Route
from compose.errors import ConfigError, InputError
from compose.runtime.attach import attach
from compose.runtime.model import Model
from compose.train.data import Example
from compose.train.evaluate import evaluate
from compose.train.fit import EarlyStopping, History, Settings, fit
from compose.train.head_only import head_only
from compose.train.masking import Masking
from compose.train.metrics import score
from compose.train.rows import row_groups
from compose.train.trunk_cache import TrunkCache
from tests.heads.texts import bert, tokenizer

TEXTS = [f"{letter} new york {other} c d e f, a b" for letter in "abcd" for other in ("e f", "g")]
ALONE = [Example(text, None) for text in TEXTS]
LABELLED = [Example(text, "first" if text[0] in "ab" else "second") for text in TEXTS]
MASK = 33
"""The id of `!`, which stands in for a mask token."""


def model(**options: Any) -> Model:
    backbone = bert().double()
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    made = attach(backbone, tokenizer(mask_token="!"))
    torch.manual_seed(0)
    for name in "ab":
        made.add_adapter(name, "seq_bn_inv", reduction_factor=2)
        made.add_head(name, "masked_lm", **options)
    made.add_head("label", "classification", labels=["first", "second"], dropout=0.0)
    made.add_head("next", "causal_lm", tied=True)
    return made


class Stop(Exception):
    """The end of the world."""


def trained(
    stop: int = 0, path: Path | None = None, expression: Any = "a", tasks: str = "a", **changed: Any
) -> tuple[Model, History]:
    made = model()
    made.train_only(expression)

    def on_step(done: int, total: int, loss: float) -> None:
        if done == stop:
            raise Stop

    settings = Settings(**{"epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_steps": 1, **changed})
    groups = row_groups(made, {task: LABELLED if task == "label" else ALONE for task in tasks.split()})
    return made, fit(made, made.plan(expression), groups, settings, on_step, None, path)


def test_some_tokens_are_chosen_and_most_of_them_masked() -> None:
    masking = Masking(0.15, MASK, frozenset({0, 1, 2, 3, MASK}), 64)
    row = {"input_ids": [2, *range(40, 60), 3, 0, 0], "attention_mask": [1] * 22 + [0] * 2}
    seen: Counter[str] = Counter()
    places: set[int] = set()
    for key in range(400):
        made = masking(row, ("a", "b"), str(key))
        labels = made["labels"]["a"]
        assert labels == made["labels"]["b"] and made["attention_mask"] == row["attention_mask"]
        chosen = [place for place, label in enumerate(labels) if label != -100]
        assert len(chosen) == 3 and not set(chosen) & {0, 21, 22, 23}
        places |= set(chosen)
        for place, (given, shown) in enumerate(zip(row["input_ids"], made["input_ids"], strict=True)):
            assert shown == given if place not in chosen else labels[place] == given
            if place in chosen:
                assert shown == MASK or shown not in masking.special
                seen["masked" if shown == MASK else "kept" if shown == given else "another"] += 1
    assert len(places) == 20
    shares = [seen[name] / seen.total() for name in ("masked", "another", "kept")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    assert masking(row, ("a",), "7") == masking(row, ("a",), "7") != masking(row, ("a",), "8")
    assert masking({"input_ids": [2, 3]}, ("a",), "7")["labels"]["a"] == [-100, -100]


def test_each_step_draws_its_own() -> None:
    made = model()
    (group,) = row_groups(made, {"a": ALONE, "b": ALONE})
    assert group.tasks == ("a", "b") and group.drawn(0, 1, 2) == group.drawn(0, 1, 2)
    drawn = {tuple(group.drawn(0, seed, step)["input_ids"]) for seed in range(4) for step in range(4)}
    assert len(drawn) > 12


def test_rows_are_masked_only_for_those_who_learn_from_it() -> None:
    made = model()
    groups = row_groups(made, {"a": ALONE, "label": LABELLED, "next": ALONE})
    assert [group.tasks for group in groups] == [("a",), ("label", "next")]
    assert groups[1].masking is None and groups[1].drawn(0, 1, 2) is groups[1].rows[0]


def test_languages_are_learned() -> None:
    _, history = trained(epochs=30)
    assert history.losses[-1] < history.losses[0] - 0.5


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, told = trained()
    path = tmp_path / "training.safetensors"
    for stop in (1, 4):
        with pytest.raises(Stop):
            trained(stop, path)
    resumed, again = trained(path=path)
    assert again.losses == told.losses
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_parts_of_a_step_make_the_whole() -> None:
    expression, tasks = Route(a="a", label="b"), "a label"
    whole, told = trained(expression=expression, tasks=tasks)
    parts, again = trained(expression=expression, tasks=tasks, batch_size=2, gradient_accumulation=2)
    assert again.losses == pytest.approx(told.losses, rel=1e-9)
    expected = whole.state_dict()
    for name, value in parts.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-7, atol=1e-9, msg=name)


def test_another_share_is_another_training(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    trained(path=path)
    made = model(mask_probability=0.5)
    made.train_only("a")
    settings = Settings(3, 4, 1e-2, checkpoint_steps=1)
    with pytest.raises(ConfigError, match="the rows differs"):
        fit(made, made.plan("a"), row_groups(made, {"a": ALONE}), settings, checkpoint=path)


def test_what_is_masked_anew_cannot_be_kept() -> None:
    made = model()
    made.add_adapter("plain", "seq_bn")
    expression = Drop("plain", first=1)
    made.train_only(expression)
    plan = made.plan(f"Parallel(a={expression!r})")
    with pytest.raises(ConfigError, match="a trunk cache cannot serve the task 'a'"):
        fit(made, plan, row_groups(made, {"a": ALONE}), Settings(1), cache=TrunkCache())


def test_without_a_mask_token_there_is_no_masking() -> None:
    made = attach(bert(), tokenizer())
    made.add_head("a", "masked_lm")
    with pytest.raises(InputError, match="has no mask token"):
        row_groups(made, {"a": ALONE})
    with pytest.raises(ConfigError, match="no baseline of the head alone"):
        head_only(made, made.heads["a"].config, ALONE, ALONE, 0)


@pytest.mark.parametrize("expression", ["a", "Route(a='a', b='b')", "BatchSplit('a', 'b', sizes=[3, 5])"])
def test_scores_are_those_of_the_tokens_that_count(expression: str) -> None:
    made = model()
    plan = made.plan(expression)
    found = evaluate(plan, {"a": ALONE})["a"]
    (group,) = row_groups(made, {"a": ALONE})
    right, losses = [], []
    for place in range(3 if "Split" in expression else len(ALONE)):
        row = group.drawn(place, 0, 0)
        labels = torch.tensor(row["labels"]["a"])
        with torch.no_grad():
            logits = made.plan("a")(input_ids=torch.tensor([row["input_ids"]]))["a"].logits[0]
        counts = labels != -100
        right += (logits.argmax(-1) == labels)[counts].tolist()
        losses += F.cross_entropy(logits, labels, reduction="none")[counts].tolist()
    assert found["accuracy"] == pytest.approx(sum(right) / len(right))
    assert found["cross_entropy"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["cross_entropy"]))
    assert evaluate(plan, {"a": ALONE}, batch_size=2)["a"] == pytest.approx(found)


def test_the_next_token_is_scored_too() -> None:
    made = model()
    found = evaluate(made.plan("Parallel(next='a')"), {"next": ALONE[:2]})["next"]
    ids = made.tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    alone = evaluate(made.plan("Parallel(next='a')"), {"next": ALONE[:1]})["next"]
    with torch.no_grad():
        loss = made.plan("Parallel(next='a')")(input_ids=ids, labels=ids).loss
    assert alone["cross_entropy"] == pytest.approx(float(loss), rel=1e-5) and found != alone


def test_training_stops_early_by_perplexity() -> None:
    made = model()
    made.train_only("a")
    settings = Settings(3, learning_rate=1e-2, early_stopping=EarlyStopping(1, "a.perplexity"))
    history = fit(made, made.plan("a"), row_groups(made, {"a": ALONE}), settings, validation={"a": ALONE})
    assert set(history.metrics[0]["a"]) == {"accuracy", "perplexity", "cross_entropy"}


def test_token_metrics() -> None:
    found = score("tokens", [(7, 8), (9,)], [((7, 0.0), (5, 3.0)), ((9, 0.0),)])
    assert found == {"accuracy": 2 / 3, "cross_entropy": 1.0, "perplexity": pytest.approx(math.e)}


def test_some_adapters_of_an_expression_are_trained() -> None:
    made = model()
    told = made.train_only("Stack('a', 'b')", adapters=["b"])
    assert "adapter b" in told.parts and "adapter a" not in told.parts
    with pytest.raises(ConfigError, match="the expression has no adapter 'c'"):
        made.train_only("Stack('a', 'b')", adapters=["c"])
    with pytest.raises(ConfigError, match="trains no adapters"):
        made.train_only("Stack('a', 'b')", "heads", adapters=["b"])
