"""Rows of about one length run together, within limits, and answers do not depend on which."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compose.errors import InputError
from compose.heads.spans import Source, Window
from compose.runtime.agreement import agreement
from compose.runtime.attach import attach
from compose.runtime.batches import CPU_TOKENS, batches, default_tokens
from compose.runtime.predict import predict
from compose.runtime.runnable import RunnablePlan
from tests.heads.texts import LIMIT, bert, tokenizer
from tests.methods.shapes import FEWER
from tests.tiny import randomize

LIMITS = st.none() | st.integers(1, 60)
WORDS = st.lists(st.sampled_from(["a", "love", "new", "york", "b.", "loving"]), max_size=8)
TEXT = WORDS.map(" ".join)
INPUTS = st.lists(TEXT | st.tuples(TEXT, st.just("or not")) | WORDS, min_size=1, max_size=9)


@given(st.lists(st.integers(0, 40), max_size=60), LIMITS, LIMITS)
def test_every_row_is_in_one_batch_within_the_limits(
    lengths: list[int], batch_size: int | None, batch_tokens: int | None
) -> None:
    found = batches(lengths, batch_size, batch_tokens)
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    widths = [max(lengths[place] for place in batch) for batch in found]
    for batch, width in zip(found, widths, strict=True):
        assert batch_size is None or len(batch) <= batch_size
        assert batch_tokens is None or len(batch) * width <= batch_tokens or len(batch) == 1
    assert widths == sorted(widths)
    for before, after in pairwise(found):  # a batch ends only where one more row is too much
        shortest = min(lengths[place] for place in after)
        tokens = (len(before) + 1) * shortest
        assert len(before) == batch_size or (batch_tokens is not None and tokens > batch_tokens)


def test_rows_of_one_length_keep_their_order() -> None:
    assert batches([3, 3, 3, 3, 1], batch_tokens=6) == [[4, 0], [1, 2], [3]]
    assert batches([]) == [] and batches([7, 2]) == [[1, 0]]


def test_hardly_anything_is_padding() -> None:
    lengths = [4 + (13 * place) % 41 for place in range(5000)]

    def padded(found: list[list[int]]) -> int:
        return sum(len(batch) * max(lengths[place] for place in batch) for batch in found)

    as_they_come = [list(range(start, min(start + 32, 5000))) for start in range(0, 5000, 32)]
    assert sum(lengths) <= padded(batches(lengths, batch_tokens=CPU_TOKENS)) < 1.02 * sum(lengths)
    assert padded(as_they_come) > 1.7 * sum(lengths)


class Recorded:
    """A plan that notes its batches."""

    def __init__(self, plan: RunnablePlan) -> None:
        self.plan, self.model = plan, plan.model
        self.shapes: list[tuple[int, int]] = []

    def heads_of(self, tasks: Any = None) -> Any:
        return self.plan.heads_of(tasks)

    def __call__(self, **inputs: Any) -> Any:
        self.shapes.append(tuple(inputs["input_ids"].shape))
        return self.plan(**inputs)


def plan_of(expression: str) -> RunnablePlan:
    model = attach(bert().double(), tokenizer())
    for name in ("topic", "many", "tags", "value"):
        model.add_adapter(name, "seq_bn", reduction_factor=2)
        randomize(model.adapters[name])
    model.add_head("topic", "classification", labels=["x", "y", "z"])
    model.add_head("many", "multi_label", labels=["x", "y"], pooling="mean")
    model.add_head("tags", "tagging", labels=["O", "B-t", "I-t"])
    model.add_head("value", "regression")
    return model.plan(expression)


@cache
def everything() -> RunnablePlan:
    return plan_of('Parallel("topic", Stack("topic", "many"), Drop("tags", first=1), "value")')


@cache
def windowed() -> tuple[list[Any], list[Any]]:
    """Inputs of which most take several windows, and the answer to each by itself, its windows one by one."""
    inputs = ["a love " * 20, "b", ["new", "york"] * 15, ("a", "york " * 30)]
    return inputs, [everything().predict([each], stride=4, batch_size=1)[0] for each in inputs]


def same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            same(mine, theirs)
    elif isinstance(one, str):
        assert one == other
    else:
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)  # probabilities are said in float32


@FEWER
@given(INPUTS, LIMITS, LIMITS)
def test_answers_are_the_same_in_any_batches_and_in_order(
    inputs: list[Any], batch_size: int | None, batch_tokens: int | None
) -> None:
    plan = Recorded(everything())
    answers = predict(plan, inputs, batch_size=batch_size, batch_tokens=batch_tokens, truncate=True)
    assert sum(rows for rows, _ in plan.shapes) == len(inputs)
    budget = batch_tokens if batch_size or batch_tokens else CPU_TOKENS
    for rows, tokens in plan.shapes:
        assert batch_size is None or rows <= batch_size
        assert budget is None or rows * tokens <= budget or rows == 1
    for given_, answer in zip(inputs, answers, strict=True):
        same(answer, everything().predict([given_], truncate=True)[0])


@given(LIMITS, LIMITS)
def test_windows_of_one_input_may_run_in_different_batches(batch_size: int | None, batch_tokens: int | None) -> None:
    inputs, expected = windowed()
    plan = Recorded(everything())
    answers = predict(plan, inputs, batch_size=batch_size, batch_tokens=batch_tokens, stride=4)
    assert sum(rows for rows, _ in plan.shapes) > len(inputs) and max(tokens for _, tokens in plan.shapes) == LIMIT
    same(answers, expected)


def test_a_batch_split_stays_one_batch_in_order() -> None:
    inputs = ["a love new york", "b", "love b. love"]
    plan = plan_of('BatchSplit("topic", "value", sizes=[1, 2])')
    whole = plan.predict(inputs)
    same(plan.predict(inputs, batch_size=1, batch_tokens=1), whole)
    assert [list(answer) for answer in whole] == [["topic"], ["value"], ["value"]]
    same(whole[2]["value"], everything().predict(inputs)[2]["value"])
    plan = plan_of('BatchSplit("topic", "value", sizes=[1, 2])')
    assert agreement(plan, plan, inputs).share == 1.0  # whose warm-up must not be of fewer inputs


def test_route_follows_the_rows() -> None:
    inputs = ["a love new york", "b", "love b. love", "new"]
    names = ["topic", "value", "topic", "value"]
    answers = plan_of('Route(topic="topic", value="value")').predict(inputs, route=names, batch_tokens=6)
    for name, answer, expected in zip(names, answers, everything().predict(inputs), strict=True):
        assert list(answer) == [name]
        same(answer[name], expected[name])


@pytest.mark.parametrize("wrong", [0, -3, 2.0, "8", True])
def test_wrong_limits_are_told_at_once(wrong: Any) -> None:
    with pytest.raises(InputError) as caught:
        everything().predict(["a"], batch_size=wrong, batch_tokens=wrong)
    assert [problem.what.split("=")[0] for problem in caught.value.problems] == ["batch_size", "batch_tokens"]
    assert f"{wrong!r}, but a whole number of at least 1" in str(caught.value)


def test_the_default_is_the_devices() -> None:
    assert default_tokens("cpu") < default_tokens("cuda")
    plan = Recorded(everything())
    predict(plan, ["a b"] * 300)  # rows of 4 tokens
    assert plan.shapes == [(256, 4), (44, 4)]


def test_nothing_is_kept_once_an_input_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of every token of every input would fill the memory."""
    decoded: list[int] = []
    head = everything().heads_of(["tags"])[0]
    own = type(head).decode
    monkeypatch.setattr(type(head), "decode", lambda *given: decoded.append(len(plan.shapes)) or own(*given))
    plan = Recorded(everything())
    predict(plan, ["a", "a b c", "a b c d e f"], batch_size=1, tasks=["tags"])
    assert decoded == [1, 2, 3]


def test_decoding_several_inputs_is_decoding_each() -> None:
    torch.manual_seed(0)
    windows = [[Window(torch.randn(3), (None,)) for _ in range(count)] for count in (1, 3, 1, 2)]
    sources = [Source((text,), ()) for text in "abcd"]
    head = everything().heads_of(["topic"])[0]
    assert head.decode_all(windows, sources) == [
        head.decode(each, source) for each, source in zip(windows, sources, strict=True)
    ]
    assert head.decode_all([], []) == []
    mean = torch.stack([window.logits.softmax(-1) for window in windows[1]]).mean(0)
    assert head.decode_all(windows, sources)[1]["probability"] == pytest.approx(float(mean.max()))
