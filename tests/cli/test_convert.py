"""`compose convert`: from each format into each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import compose
from compose.cli import main
from compose.io import detect
from tests import tiny
from tests.heads.texts import bert


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone, and what can be saved over it."""
    folder = tmp_path_factory.mktemp("convert")
    bert().save_pretrained(folder / "backbone")
    model = compose.load(folder / "backbone")
    model.add_adapter("a", "lora", r=2)
    model.add_adapter("b", "seq_bn", reduction_factor=2)
    model.add_head("a", use_pooler=True)
    model.add_fusion("Fuse('b', 'b')")
    model.save_adapter("a", folder / "adapter", with_head=True)
    model.save_fusion("b,b", folder / "fusion")
    model.save_head("a", folder / "head")
    model.plan("Stack('a', 'b')").save(folder / "plan")
    return folder


def test_an_adapter_with_its_head_through_every_format(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = place / "adapter"
    for form in ("adapterhub", "peft", "native"):
        target = place / form / "a"
        assert call("convert", source, target, "--format", form, "--backbone", place / "backbone") == 0
        assert capsys.readouterr().out == f"{target}: adapter a with its head\n"
        assert detect(target).kinds["adapter"] == form
        source = target
    model = compose.load(place / "backbone")
    model.load_adapter(place / "adapter", "first", with_head=True)
    model.load_adapter(source, "last", with_head=True)
    first, last = (model.adapters[name].tensors() for name in ("first", "last"))
    assert all(first[key].equal(last[key]) for key in first)
    assert model.heads["first"].tensors()["out.weight"].equal(model.heads["last"].tensors()["out.weight"])


@pytest.mark.parametrize("kind", ["fusion", "head", "plan"])
def test_other_things(place: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = place / f"hub-{kind}"
    assert call("convert", place / kind, target, "--format", "adapterhub", "--backbone", place / "backbone") == 0
    assert detect(target).kinds == {"composition" if kind == "plan" else kind: "adapterhub"}
    assert kind == "plan" or f"{kind} " in capsys.readouterr().out


def test_mistakes(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("convert", place / "adapter", tmp_path / "x") == 2
    assert "--backbone" in capsys.readouterr().err
    assert call("convert", place / "nowhere", tmp_path / "x") == 2
    assert "no such folder" in capsys.readouterr().err
    assert call("convert", place / "fusion", tmp_path / "x", "--format", "peft", "--backbone", place / "backbone") == 2
    assert "no fusion" in capsys.readouterr().err
    assert call("convert", place / "adapter", tmp_path / "x", "--task-type", "SEQ_CLS") == 2
    assert "a task_type is PEFT's" in capsys.readouterr().err
    assert call("convert", place / "plan", tmp_path / "plan") == 0
    assert capsys.readouterr().out == f'{tmp_path / "plan"}: plan Stack("a", "b")\n'


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("vera", {"r": 3}),
        ("prompt_tuning", {"prompt_length": 3, "as_words": True}),
        ("prefix_tuning", {"prefix_length": 3, "bottleneck_size": 4, "counted": True}),
    ],
)
def test_pefts_other_methods_there_and_back(
    place: Path, tmp_path: Path, method: str, options: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """What was saved natively computes the same after PEFT's format; an MLP's prefix comes back flat."""
    model = compose.load(place / "backbone")
    tiny.randomize(model.add_adapter("a", method, **options))
    model.save_adapter("a", tmp_path / "a")
    for source, form in (("a", "peft"), ("peft", "native")):
        arguments = ("--format", form, "--backbone", place / "backbone")
        assert call("convert", tmp_path / source, tmp_path / form, *arguments) == 0
    capsys.readouterr()
    model.load_adapter(tmp_path / "native", "b")
    with torch.no_grad():
        first, last = (model.plan(name).states(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state for name in "ab")
    torch.testing.assert_close(first, last, rtol=1e-5, atol=1e-5)
    assert call("convert", tmp_path / "a", tmp_path / "hub", "--format", "adapterhub", *arguments[2:]) == 2
    assert "AdapterHub's format cannot say" in capsys.readouterr().err
