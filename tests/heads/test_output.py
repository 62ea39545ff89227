"""What plans return: by task, by position, and through everything that rebuilds outputs."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from accelerate.utils.operations import convert_to_fp32, recursively_apply

from compose.errors import InputError
from compose.heads.output import MultiHeadOutput, TaskOutput


def task(value: float = 1.0, loss: float | None = None, dtype: torch.dtype = torch.float32) -> TaskOutput:
    made = None if loss is None else torch.tensor(loss, dtype=dtype)
    return TaskOutput(logits=torch.full((2, 3), value, dtype=dtype), loss=made)


def test_dict_of_tasks_and_list_of_outputs() -> None:
    a, b, c = task(1), task(2), task(3)
    out = MultiHeadOutput([("nli", a), ("tone", b), ("topic", c)])
    assert out["tone"] is out[1] is out[-2] is b
    assert len(out) == 3 and out[1:] == [b, c]
    first, second, third = out
    assert (first is a) and (second is b) and (third is c)
    assert list(out.keys()) == ["nli", "tone", "topic"] and list(out.values()) == [a, b, c]
    assert [name for name, _ in out.items()] == list(dict(out)) == ["nli", "tone", "topic"]
    assert isinstance(out, dict) and next(reversed(out)) is c
    assert out.get("x") is None and out.get("nli") is a and "nli" in out and 2 in out and 3 not in out
    with pytest.raises(KeyError, match="no output is called 'x'; there are 'nli', 'tone', 'topic'"):
        out["x"]
    with pytest.raises(IndexError):
        out[3]


def test_names_that_cannot_be_asked_for() -> None:
    outputs = [task(1), task(2), task(3), task(4)]
    out = MultiHeadOutput(zip(["a", None, "b", "a"], outputs, strict=True))
    assert list(out.keys()) == [0, 1, "b", 3] and len(out) == 4
    assert all(out[index] is outputs[index] for index in range(4))
    assert "a" not in out
    with pytest.raises(KeyError, match=r"2 outputs are called 'a': ask by position, out\[0\] and out\[3\]"):
        out["a"]
    again = pickle.loads(pickle.dumps(out))
    with pytest.raises(KeyError, match="ask by position"):
        again["a"]


def test_loss() -> None:
    out = MultiHeadOutput([("a", task(loss=1.0)), ("b", task(loss=2.0)), ("c", task())], weights={"b": 0.5})
    assert out.loss == out["loss"] == out.get("loss") == 2.0 and "loss" in out
    assert "loss" not in list(out.keys()) and out["b"].loss == 2.0
    none = MultiHeadOutput([("a", task())])
    assert none.loss is None and "loss" not in none and none.get("loss") is None
    with pytest.raises(KeyError, match="no labels"):
        none["loss"]
    with pytest.raises(InputError, match="legal: 'b'"):
        MultiHeadOutput([("b", task(loss=1.0))], weights={"bb": 1.0})


def test_copies() -> None:
    out = MultiHeadOutput([("a", task(loss=1.0)), (None, task(loss=2.0))], weights={1: 0.5})
    for other in (copy.copy(out), copy.deepcopy(out), pickle.loads(pickle.dumps(out)), MultiHeadOutput(out)):
        assert isinstance(other, MultiHeadOutput) and list(other.keys()) == ["a", 1]
        assert other.loss == 2.0 and torch.equal(other[1].logits, out[1].logits)
    assert "MultiHeadOutput" in repr(out)


def test_accelerate_rebuilds_it() -> None:
    half = torch.float16
    out = MultiHeadOutput([("a", task(loss=1.0, dtype=half)), (None, task(loss=2.0, dtype=half))], weights={1: 0.5})
    converted = convert_to_fp32(out)
    assert isinstance(converted, MultiHeadOutput) and list(converted.keys()) == ["a", 1]
    assert converted["a"].logits.dtype == converted.loss.dtype == torch.float32 and converted.loss == 2.0
    doubled = recursively_apply(lambda tensor: tensor * 2, MultiHeadOutput([("a", task(loss=1.0))]))
    assert doubled.loss == 2.0


def test_gradients_survive() -> None:
    weight = torch.ones((), requires_grad=True)
    out = MultiHeadOutput([("a", TaskOutput(logits=weight * 2, loss=weight * 3))], weights={"a": 2.0})
    convert_to_fp32(out).loss.backward()
    assert weight.grad == 6.0
