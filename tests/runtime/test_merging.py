"""Adapters of a model, and saved ones, merged into one: what equals what, heads, files, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import compose
from compose.dsl import Average
from compose.errors import ConfigError, RegistryError
from compose.runtime.model import Model
from tests import tiny
from tests.cli.test_cli import call
from tests.heads import texts

GOLDEN = Path(__file__).parents[1] / "golden" / "bert"


def model_of(method: str, architecture: str = "bert", **options: Any) -> Model:
    model = tiny.model(architecture, 2)
    for seed, name in enumerate("ab"):
        tiny.randomize(model.add_adapter(name, method, **options), seed)
    return model


def out(model: Model, expression: Any) -> Tensor:
    with torch.no_grad():
        states: Tensor = model.plan(expression).states(**tiny.inputs(model.spec.architecture, 3, 7)).last_hidden_state
    return states


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
def test_merged_loras_compute_the_average(architecture: str) -> None:
    """The law: side by side, or by SVD of a sufficient rank, merging is `Average`; of the factors it is not."""
    model = model_of("lora", architecture, r=2, alpha=3, intermediate_lora=True)
    tiny.randomize(model.add_adapter("c", "lora", r=3, intermediate_lora=True), 5)
    weights = (0.6, 0.8, -0.5)
    wanted = out(model, Average("a", "b", "c", weights=list(weights), normalize=False))
    compose.merge_adapters(model, [*"abc"], "side", "concat", weights=weights)
    compose.merge_adapters(model, [*"abc"], "svd", "svd", weights=weights, rank=7)
    for name in ("side", "svd"):
        torch.testing.assert_close(out(model, name), wanted, rtol=1e-9, atol=1e-9)
    compose.merge_adapters(model, [*"ab"], "factors")
    assert not torch.allclose(out(model, "factors"), out(model, Average("a", "b")))


def test_merging_an_adapter_with_itself_and_taking_it_away() -> None:
    model = model_of("seq_bn", bottleneck_size=4)
    compose.merge_adapters(model, ["a", "a"], "same")
    torch.testing.assert_close(out(model, "same"), out(model, "a"), rtol=1e-9, atol=1e-9)
    compose.merge_adapters(model, ["a"], "minus", "task_arithmetic", weights=[-1])
    undone = out(model, Average("a", "minus", weights=[1, 1], normalize=False))
    torch.testing.assert_close(undone, out(model, None), rtol=1e-9, atol=1e-9)


def test_heads_are_merged_when_asked_and_the_result_is_saved(tmp_path: Path) -> None:
    model = model_of("lora", r=2)
    for seed, name in enumerate("ab"):
        tiny.randomize(model.add_head(name, labels=["x", "y"]), seed + 7)
    compose.merge_adapters(model, ["a", "b"], "m", "ties", with_heads=True, weights=[1, 3], density=0.6)
    for name, tensor in model.heads["m"].tensors().items():
        one, two = (model.heads[head].tensors()[name] for head in "ab")
        torch.testing.assert_close(tensor, 0.25 * one + 0.75 * two)
    model.save_adapter("m", tmp_path / "m", with_head=True)
    other = tiny.model("bert", 2)
    assert other.load_adapter(tmp_path / "m", with_head=True) == "m"
    assert torch.equal(out(other, "m"), out(model, "m"))

    model.add_adapter("c", "lora", r=2)
    model.add_head("c", labels=["x", "z"])
    before = model.adapters.names
    with pytest.raises(ConfigError, match=r"labels of the heads is \('x', 'y'\) in the one, \('x', 'z'\)"):
        compose.merge_adapters(model, ["a", "c"], "n", with_heads=True)
    with pytest.raises(ConfigError, match="heads cannot be merged with negative weights"):
        compose.merge_adapters(model, ["a", "b"], "n", "task_arithmetic", with_heads=True, weights=[1, -1])
    with pytest.raises(RegistryError, match="there is no adapter 'd'"):
        compose.merge_adapters(model, ["a", "d"], "n")
    with pytest.raises(RegistryError, match="'b' is there already"):
        compose.merge_adapters(model, ["a", "b"], "b")
    assert model.adapters.names == before


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Two saved adapters with heads."""
    model = compose.attach(texts.bert(), texts.tokenizer())
    for seed, name in enumerate(("one", "two")):
        tiny.randomize(model.add_adapter(name, "lora", r=2), seed)
        tiny.randomize(model.add_head(name, labels=2), seed)
        model.save_adapter(name, tmp_path / name, with_head=True)
    return tmp_path


def test_the_command(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(saved / "one"), str(saved / "two")]
    arguments = ["adapter", "merge", *folders, "--into", str(saved / "both")]
    options = ["--kind", "ties", "--weights", "0.5,0.5", "--density", "0.4", "--with-heads"]
    assert call(*arguments, *options) == 0
    said = capsys.readouterr().out
    assert "adapter 'both', ties of 'one', 'two'" in said
    manifest = json.loads((saved / "both" / "adapter.json").read_text())
    assert manifest["meta"]["merged"] == {"kind": "ties", "adapters": ["one", "two"], "weights": [0.5, 0.5]}

    model = compose.attach(texts.bert(), texts.tokenizer())
    for name in ("one", "two", "both"):
        model.load_adapter(saved / name, with_head=True)
    compose.merge_adapters(model, ["one", "two"], "mine", "ties", density=0.4, with_heads=True)
    for name, tensor in model.adapters["mine"].tensors().items():
        assert torch.equal(tensor, model.adapters["both"].tensors()[name])

    assert call(*arguments) == 2
    assert "there is something already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["one", "two", "--kind", "tise"], "no kind of merging 'tise'"),
        (["one", "two", "--weights", "a,b"], "not numbers with commas between"),
        (["one", "two", "--weights", "1"], "1 weights for 2 adapters"),
        (["one", "nowhere"], "no such folder"),
        (["one", "golden"], "--backbone NAME"),
        (["one", "empty"], "holds no adapter"),
        (["one", "two", "--name", "not legal"], "not legal"),
    ],
)
def test_what_the_command_refuses(
    arguments: list[str], words: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (saved / "empty").mkdir()
    given = [
        str(saved / word) if word in ("one", "two", "nowhere", "empty") else str(hub()) if word == "golden" else word
        for word in arguments
    ]
    assert call("adapter", "merge", *given, "--into", str(saved / "out")) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    assert not (saved / "out").exists()


def test_adapters_of_different_backbones_are_not_merged(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = texts.bert()
    tiny.randomize(backbone, 9)
    model = compose.attach(backbone, texts.tokenizer())
    model.add_adapter("other", "lora", r=2)
    model.save_adapter("other", saved / "other")
    assert call("adapter", "merge", str(saved / "one"), str(saved / "other"), "--into", str(saved / "out")) == 2
    said = capsys.readouterr().err
    assert "'one' and 'other'" in said and "they are of different backbones" in said


def hub() -> Path:
    """An AdapterHub folder of the golden cases."""
    return next(path.parent for path in sorted(GOLDEN.rglob("adapter_config.json")))


def test_folders_of_adapterhub_over_their_backbone(tmp_path: Path) -> None:
    folder = hub()
    arguments = ["adapter", "merge", str(folder), str(folder), "--into", str(tmp_path / "out")]
    assert call(*arguments, "--backbone", str(GOLDEN / "backbone")) == 0
    model = compose.load(GOLDEN / "backbone")
    model.load_adapter(folder, name="a")
    model.load_adapter(tmp_path / "out", name="b")
    for name, tensor in model.adapters["a"].tensors().items():
        torch.testing.assert_close(model.adapters["b"].tensors()[name], tensor)


def test_folders_of_peft_over_their_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = compose.load(GOLDEN / "backbone")
    for seed, name in enumerate(("one", "two")):
        tiny.randomize(model.add_adapter(name, "lora", r=2), seed)
        model.save_adapter(name, tmp_path / name, format="peft")
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert call("adapter", "merge", *folders, "--into", str(tmp_path / "m")) == 2
    assert "a PEFT folder can only be read for a backbone" in capsys.readouterr().err
    arguments = ["--into", str(tmp_path / "m"), "--kind", "concat", "--backbone", str(GOLDEN / "backbone")]
    assert call("adapter", "merge", *folders, *arguments) == 0
    model.load_adapter(tmp_path / "m")
    torch.testing.assert_close(out(model, "m"), out(model, Average("one", "two")), rtol=1e-5, atol=1e-6)


def test_what_no_merging_takes() -> None:
    model = model_of("lora", r=2)
    with pytest.raises(ConfigError, match="must be a list of adapters' names, not 'ab'"):
        compose.merge_adapters(model, "ab", "m")
    with pytest.raises(ConfigError, match="below 2\\*\\*63"):
        compose.merge_adapters(model, ["a", "b"], "m", "dare_linear", density=0.5, seed=2**63)
    assert "m" not in model.adapters
