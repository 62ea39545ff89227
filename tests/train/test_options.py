"""Options of training: accumulated and recomputed gradients, sampling, weights, early stopping, rates, loggers."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from compose.dsl import Drop, Fuse, Parallel, Route
from compose.errors import ConfigError
from compose.runtime.attach import attach
from compose.runtime.model import Model
from compose.train.class_weights import weights_of
from compose.train.data import Example
from compose.train.epochs import UNIFORM, epochs
from compose.train.evaluate import evaluate
from compose.train.fit import EarlyStopping, History, Settings, fit
from compose.train.rows import RowGroup, row_groups
from tests.heads.texts import bert, tokenizer

TEXTS = ["a b new york", "c d", "a a b a b", "d d new york c", "b a", "c c d", "a new york", "d c c c d"]
LABELLED = [Example(text, "first" if text[0] in "ab" else "second") for text in TEXTS]
MARKED = [
    Example(text, ((text.index("new"), text.index("new") + 8, "city"),) if "new" in text else ()) for text in TEXTS
]
BOTH = Parallel(first="a", town="b")


def model(dropout: float = 0.0) -> Model:
    backbone = bert().double()
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    torch.manual_seed(0)
    made = attach(backbone, tokenizer())
    for name in "ab":
        made.add_adapter(name, "seq_bn", reduction_factor=2)
    made.add_head("first", "classification", labels=["first", "second"], pooling="mean", dropout=dropout)
    made.add_head("town", "tagging", labels=["O", "B-city", "I-city"], dropout=dropout)
    return made


def groups_of(made: Model) -> tuple[RowGroup, ...]:
    """Rows of both tasks, of which some have no label of the first."""
    (group,) = row_groups(made, {"first": LABELLED, "town": MARKED})
    rows = [
        {**row, "labels": {**row["labels"], "first": None}} if place % 3 == 0 else row
        for place, row in enumerate(group.rows)
    ]
    return (RowGroup(group.tasks, tuple(rows)),)


def trained(expression: Any = BOTH, made: Model | None = None, **settings: Any) -> tuple[Model, History]:
    made = made or model()
    made.train_only(expression)
    chosen = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, **settings}
    return made, fit(made, made.plan(expression), groups_of(made), Settings(**chosen))


def assert_same(one: Model, other: Model) -> None:
    expected = other.state_dict()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("limits", [{"batch_size": 2}, {"batch_size": 1}, {"batch_size": None, "batch_tokens": 10}])
def test_accumulated_gradients_are_those_of_the_whole_step(limits: dict[str, Any]) -> None:
    times = 4 // (limits["batch_size"] or 2)
    whole_limits = {key: value and value * times for key, value in limits.items()}
    whole, told = trained(**whole_limits, loss_weights={"town": 0.3})
    parts, again = trained(**limits, gradient_accumulation=times, loss_weights={"town": 0.3})
    assert again.losses == pytest.approx(told.losses, rel=1e-9) and again.steps == told.steps
    assert_same(parts, whole)


def test_a_seed_may_be_greater_than_the_ones_numpy_takes() -> None:
    assert trained(seed=2**40, max_steps=1)[1].losses == trained(seed=2**40, max_steps=1)[1].losses


def test_a_step_counts_once_however_many_parts_it_has() -> None:
    found = []
    for size, times in ((4, 1), (1, 4)):
        made = model()
        made.add_fusion(Fuse("a", "b", name="f"), temperature=True, dropout_prob=0.0)
        expression = Parallel(first=Drop(Fuse("a", "b", name="f"), first=(0, 2)))
        made.train_only(expression, "fusion")
        settings = Settings(2, size, 1e-2, gradient_accumulation=times)
        history = fit(made, made.plan(expression), row_groups(made, {"first": LABELLED}), settings)
        found.append((made, history.losses))
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-9)  # the same layers were dropped, and regularised once
    assert_same(found[0][0], found[1][0])


def test_recomputed_activations_change_nothing() -> None:
    kept, recomputed = trained()[0], trained(gradient_checkpointing=True)[0]
    assert_same(recomputed, kept)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in recomputed.backbone.modules())


def test_training_ends_after_so_many_steps() -> None:
    history = trained(epochs=3, max_steps=3)[1]
    assert history.steps == 3 and len(history.losses) == 2


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, *((1 + math.cos(math.pi * done / 4)) / 2 for done in (1, 2, 3))]),
        ("constant", [0.5, 1, 1, 1, 1, 1]),
    ],
)
def test_rates(scheduler: Any, rates: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    own = torch.optim.AdamW.step

    def step(optimizer: Any, *given: Any) -> Any:
        seen.append(optimizer.param_groups[0]["lr"] / 1e-2)
        return own(optimizer, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    trained(epochs=3, scheduler=scheduler, warmup=1 / 3)
    assert seen == pytest.approx(rates)


def test_sampling_by_temperature() -> None:
    lengths = [[5] * 160, [5] * 40, [5] * 10]

    def counted(temperature: float, count: int = 1) -> list[dict[int, int]]:
        found = epochs(lengths, count, 0, batch_size=5, temperature=temperature)
        return [Counter(group for group, _ in steps) for steps in found]

    assert counted(1.0) == [{0: 32, 1: 8, 2: 2}]
    assert counted(UNIFORM) == [{0: 14, 1: 14, 2: 14}]
    assert counted(2.0) == [{0: 24, 1: 12, 2: 6}]
    seen = Counter(
        place for steps in epochs(lengths, 3, 0, 5, temperature=UNIFORM) for group, places in steps for place in places
        if group == 0
    )  # fmt: skip
    assert set(seen.values()) <= {1, 2} and len(seen) == 160, "what was left out comes first in the next epoch"
    with pytest.raises(ConfigError, match=r"temperature=0\.5, but a number of at least 1"):
        Settings(temperature=0.5)


def test_class_weights_are_in_the_loss() -> None:
    made = model()
    head = made.heads["first"]
    logits, labels = torch.randn(6, 2, dtype=torch.float64), torch.tensor([0, 0, 1, 0, -100, 1])
    head.class_weights = torch.tensor([0.5, 3.0])
    weights = torch.tensor([0.5, 3.0], dtype=torch.float64)
    expected = F.cross_entropy(logits, labels, weights, ignore_index=-100)
    torch.testing.assert_close(head.loss(logits, labels, None), expected)  # type: ignore[arg-type]
    assert head.counted(labels) == 3 * 0.5 + 2 * 3.0
    nothing = head.loss(logits, torch.full((6,), -100), None)  # type: ignore[arg-type]
    assert float(nothing) == 0.0


def test_balanced_weights_and_those_that_are_said() -> None:
    made = model()
    groups = row_groups(made, {"first": LABELLED[:1] * 3 + LABELLED[1:2], "town": MARKED[:4]})
    seen: list[Any] = []
    head = made.heads["first"]
    own = head.loss

    def loss(logits: Any, labels: Any, inputs: Any) -> Any:
        seen.append(head.class_weights)
        return own(logits, labels, inputs)

    made.train_only(BOTH)
    head.loss = loss  # type: ignore[method-assign]
    for chosen, expected in (("balanced", [4 / (2 * 3), 4 / (2 * 1)]), ({"second": 5.0}, [1.0, 5.0])):
        fit(made, made.plan(BOTH), groups, Settings(1, class_weights={"first": chosen}))
        assert seen[-1].tolist() == pytest.approx(expected) and head.class_weights is None
    plain, weighed = trained()[1], trained(class_weights={"town": "balanced"})[1]
    assert plain.losses != weighed.losses
    split = trained(class_weights={"town": "balanced", "first": {"first": 9.0}}, batch_size=2, gradient_accumulation=2)
    assert split[1].losses == pytest.approx(
        trained(class_weights={"town": "balanced", "first": {"first": 9.0}})[1].losses, rel=1e-9
    )


def test_several_labels_a_row_weigh_their_yes() -> None:
    made = model()
    head = made.add_head("marks", "multi_label", labels=["often", "rarely", "never", "always"])
    logits = torch.randn(3, 4, dtype=torch.float64)
    labels = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 1], [torch.nan] * 4], dtype=torch.float64)
    head.class_weights = torch.tensor([2.0, 5.0, 1.0, 1.0])
    expected = F.binary_cross_entropy_with_logits(logits[:2], labels[:2], pos_weight=head.class_weights.double())
    torch.testing.assert_close(head.loss(logits, labels, None), expected)  # type: ignore[arg-type]
    assert head.counted(labels) == 8.0, "a weight does not make more labels"
    said = [("often", "always"), ("often", "rarely", "always"), ("always",), ("often", "always"), None]
    groups = row_groups(made, {"marks": [Example(text, each) for text, each in zip(TEXTS, said, strict=False)]})
    assert weights_of(head, groups, "balanced").tolist() == [1 / 3, 3.0, 1.0, 1.0]
    assert weights_of(head, groups, {"rarely": 4.0}).tolist() == [1.0, 4.0, 1.0, 1.0]
    rows = [{"labels": {"marks": row}} for row in ([1, 0, 0, -100], [0, 0, 1, -100], [0, 0, 1, 1])]
    holed = [RowGroup(("marks",), tuple(rows)), RowGroup(("marks",), ({"labels": {}},))]
    assert weights_of(head, holed, "balanced").tolist() == [2.0, 1.0, 0.5, 1.0]
    assert weights_of(head, holed[1:], "balanced").tolist() == [1.0] * 4, "where no row has any"


def test_class_weights_that_do_not_fit() -> None:
    made = model()
    made.add_head("b", "regression")
    made.train_only(Parallel("b", first="a"))
    groups = row_groups(made, {"first": LABELLED, "b": [Example(text, 1.0) for text in TEXTS]})
    weights: Any = {"first": {"third": 1.0, "second": -1.0}, "b": "balanced", "c": "balanced"}
    with pytest.raises(ConfigError) as caught:
        fit(made, made.plan(Parallel("b", first="a")), groups, Settings(1, class_weights=weights))
    told = str(caught.value)
    for part in ("no label 'third'", "second=-1.0", "head 'b' has no classes", "no task 'c' is trained"):
        assert part in told


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    """Trained on the wrong labels after the right ones would be best early; here by a rate that destroys."""
    made = model()
    made.train_only(BOTH)
    validation = {"first": LABELLED, "town": MARKED}
    settings = Settings(30, 4, 0.2, early_stopping=EarlyStopping(2), scheduler="constant", seed=3)
    groups = row_groups(made, validation)
    history = fit(made, made.plan(BOTH), groups, settings, validation=validation)
    means = [(each["first"]["accuracy"] + each["town"]["f1"]) / 2 for each in history.metrics]
    assert len(history.losses) == len(history.metrics) == history.best + 2 < 30  # type: ignore[operator]
    assert history.best == 1 + means.index(max(means))
    assert evaluate(made.plan(BOTH), validation) == history.metrics[history.best - 1]
    by_task = Settings(2, 4, early_stopping=EarlyStopping(1, "town.precision"))
    assert fit(made, made.plan(BOTH), groups, by_task, validation=validation).best is not None


def test_early_stopping_without_what_it_needs() -> None:
    made = model()
    made.train_only(BOTH)
    groups = groups_of(made)
    with pytest.raises(ConfigError, match="needs a validation part"):
        fit(made, made.plan(BOTH), groups, Settings(early_stopping=EarlyStopping()))
    with pytest.raises(ConfigError, match=r"no metric 'first\.f2' to stop early by"):
        stop = Settings(early_stopping=EarlyStopping(metric="first.f2"))
        fit(made, made.plan(BOTH), groups, stop, validation={"first": LABELLED})
    with pytest.raises(ConfigError, match="patience=0"):
        EarlyStopping(0)


def test_rows_go_the_way_of_their_task() -> None:
    """Alternating batches of a Route train as each child alone would, and are scored likewise."""
    expression = Route(first="a", town="b")
    made, history = trained(expression, epochs=1)
    assert history.steps == 4  # the rows of both tasks, once for each
    scores = evaluate(made.plan(expression), {"first": LABELLED, "town": MARKED})
    assert scores == {
        **evaluate(made.plan(Parallel(first="a")), {"first": LABELLED}),
        **evaluate(made.plan(Parallel(town="b")), {"town": MARKED}),
    }


def test_loggers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no logger 'tensorbord'"):
        trained(log=("tensorbord",))
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = model()
    made.train_only(BOTH)
    settings = Settings(2, 4, log=("tensorboard",))
    fit(made, made.plan(BOTH), groups_of(made), settings, validation={"first": LABELLED}, log_folder=tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train/loss", "train/learning_rate", "eval/first_accuracy"} <= set(tags)
    assert [event.step for event in events.Scalars("eval/first_accuracy")] == [2, 4]


def test_wrong_options_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(gradient_accumulation=0, max_steps=0, scheduler="steep", checkpoint_steps=-1)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 4
