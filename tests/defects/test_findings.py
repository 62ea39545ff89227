"""AdapterHub's further defects. Case numbers are those of the list."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import compose
from compose.dsl import (
    Average,
    BatchSplit,
    Drop,
    Expression,
    Fuse,
    Parallel,
    Route,
    Split,
    Stack,
    parse,
)
from compose.errors import CompileError, ComposeError, ExpressionError, FileError, InputError, RegistryError
from compose.runtime.model import Model
from tests import tiny
from tests.defects.cases import batch, fusion, head, model, out
from tests.laws.worlds import close
from tests.test_layers import ROOT


def temperature(made: Model) -> float:
    """The temperature of the fusion of a and b."""
    return float(made.fusions["a,b"].tensors()["0.ffn.temperature"])


def warm(layers: int = 2) -> Model:
    """A model with a fusion that has a temperature, and a head for it."""
    made = model("bert", layers, a="seq_bn", b="seq_bn")
    fusion(made, Fuse("a", "b"), temperature=True)
    head(made, "a,b", labels=2)
    return made


def test_temperature_in_evaluation(tmp_path: Path) -> None:
    """F1: evaluation leaves the temperature as it is; training lowers it a step at a time; files keep it."""
    made = warm()
    inputs, fuse, labels = batch(), Fuse("a", "b"), torch.tensor([0, 1])
    plan = made.plan(fuse)
    expected, before = out(made, fuse), temperature(made)
    for _ in range(20):
        assert torch.equal(out(made, fuse), expected)
    plan(**inputs, labels=labels).loss.backward()
    assert temperature(made) == before == 50
    made.train()
    for _ in range(3):
        plan(**inputs, labels=labels).loss.backward()
    made.eval()
    assert temperature(made) == pytest.approx(50 - 3 * 0.05)
    cooler = out(made, fuse)
    assert not torch.equal(cooler, expected)
    plan.save(tmp_path)
    loaded = compose.load_plan(tmp_path, model=tiny.model())
    assert temperature(loaded.model) == temperature(made)
    assert torch.equal(out(loaded.model, fuse), cooler)
    fresh = warm()
    fresh.load_state_dict(made.state_dict())
    assert temperature(fresh) == temperature(made)


@pytest.mark.parametrize("reentrant", [False, True])
def test_temperature_and_checkpointing(reentrant: bool) -> None:
    """F1: a layer that runs twice cools once, and its recomputation has the temperature of its call."""
    labels = torch.tensor([0, 1])

    def trained(checkpointed: bool) -> tuple[float, dict[str, Any]]:
        made = warm(3)
        made.train()
        made.train_only(Fuse("a", "b"), "full+adapters")
        if checkpointed:
            made.gradient_checkpointing_enable({"use_reentrant": reentrant})
        plan = made.plan(Fuse("a", "b"))
        losses = [plan(**inputs, labels=labels).loss for inputs in (batch(), batch(padded=True))]
        for loss in losses:
            loss.backward()
        gradients = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
        return temperature(made), gradients

    (cool, gradients), (again, recomputed) = trained(False), trained(True)
    assert cool == again == pytest.approx(50 - 2 * 0.05)
    assert gradients.keys() == recomputed.keys()
    for name, gradient in gradients.items():
        close(recomputed[name], gradient)


def test_adapter_for_fewer_layers(tmp_path: Path) -> None:
    """F3: an adapter of two layers does not go on four, not even on purpose: there is nothing for two of them."""
    made = model(a="seq_bn")
    made.save_adapter("a", tmp_path)
    other = tiny.model("bert", 4)
    with pytest.raises(FileError, match="layers 2, this one has 4"):
        other.load_adapter(tmp_path)
    with pytest.raises(FileError, match="is missing") as caught:
        other.load_adapter(tmp_path, allow_backbone=True)
    assert {problem.where for problem in caught.value.problems} == {
        f"{layer}.ffn.{name}" for layer in (2, 3) for name in ("down.weight", "down.bias", "up.weight", "up.bias")
    }
    assert not other.adapters.names


def test_fuse_without_weights() -> None:
    """F4: it is an error when compiled, which names the fusion and those that there are."""
    made = model(a="seq_bn", b="seq_bn", c="seq_bn")
    fusion(made, Fuse("a", "c"))
    with pytest.raises(CompileError, match="no weights for the fusion 'a,b'") as caught:
        made.plan(Parallel("c", Fuse("a", "b")))
    assert caught.value.problems[0].legal == ("a,c",)


@pytest.mark.parametrize("kind", ["Stack", "Fuse", "Parallel", "Average", "Split", "BatchSplit", "Route", "Drop"])
def test_empty_blocks(kind: str) -> None:
    """F5: a block of nothing is refused where it is written."""
    text = {"Drop": "Drop(first=1)", "Split": "Split(sizes=[])", "BatchSplit": "BatchSplit(sizes=[])"}
    with pytest.raises(ExpressionError):
        parse(text.get(kind, f"{kind}()"))


def test_nothing_is_an_expression() -> None:
    """F5: None stands for no adapter, wherever a child can."""
    made = model(a="seq_bn")
    expected = out(made, "a")
    assert torch.equal(out(made, Stack(None, "a")), expected)
    plain, acted = out(made, Parallel(None, "a")).chunk(2)
    close(plain, out(made, None))
    close(acted, expected)
    rows = out(made, BatchSplit(None, "a", sizes=[1, 1]))
    close(rows[0], plain[0])
    close(rows[1], expected[1])


NESTED: tuple[Expression, ...] = (
    Stack(Parallel("a", "b")),
    Stack("c", Parallel("a", "b")),
    Stack(Parallel("a", "b"), "c"),
    Drop(Parallel("a", "b"), layers=[0]),
    Parallel("c", Parallel("a", "b")),
    Parallel("c", Stack("a", Parallel("b", Stack("c", "lora")))),
)


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
@pytest.mark.parametrize("expression", NESTED, ids=str)
def test_nested_parallel(expression: Expression, architecture: str) -> None:
    """F6: a Parallel deeper down works on every architecture as at the top."""
    made = model(architecture, a="seq_bn", b="double_seq_bn", c="par_bn", lora="lora")
    inputs = batch(architecture, padded=True)
    branches = compose.dsl.branches(expression)
    found = out(made, expression, inputs).chunk(len(branches))
    for branch, rows in zip(branches, found, strict=True):
        close(rows, out(made, branch.expression, inputs))


def test_uneven_batches() -> None:
    """F7: rows are routed one by one, so that a last, smaller batch is like any other."""
    made = model(a="seq_bn", b="lora")
    head(made, "a", labels=2)
    head(made, "b", labels=2)
    inputs = batch()
    found = out(made, Route(a="a", b="b"), inputs, route=["a", "a"])
    close(found, out(made, "a", inputs))
    rest = BatchSplit("a", "b", sizes=[2, None])
    close(out(made, rest, inputs), out(made, "a", inputs))
    outputs = made.plan(rest)(**inputs, labels={"a": [0, 1], "b": []})
    assert outputs["b"].logits.shape == (0, 2) and torch.equal(outputs.loss, outputs["a"].loss)
    with pytest.raises(InputError, match="add up to 3, but there are 2 rows"):
        out(made, BatchSplit("a", "b", sizes=[2, 1]), inputs)


AWKWARD = ("my.sst", "sst-2", "lora", "weight", "train", "double", "names", "0", "_parts", "a.b.c")


def test_awkward_names(tmp_path: Path) -> None:
    """Cases F8 and P11: what the rule for names allows works everywhere, dots and torch's own words too."""
    made = model(**dict.fromkeys(AWKWARD, "lora"))
    made.add_fusion(Fuse(*AWKWARD[:3]))
    for name in AWKWARD:
        head(made, name, labels=2)
    made.train().eval()
    expression = Parallel(*AWKWARD, fused=Fuse(*AWKWARD[:3]))
    head(made, "fused", labels=2)
    expected = made.plan(expression)(**batch())
    made.plan(expression).save(tmp_path)
    loaded = compose.load_plan(tmp_path, model=tiny.model())
    found = loaded(**batch())
    tasks = [*AWKWARD, "fused"]
    assert list(found.keys()) == tasks
    assert all(torch.equal(found[task].logits, expected[task].logits) for task in tasks)
    copy = tiny.model()
    for name in AWKWARD:
        copy.add_adapter(name, "lora")
        copy.add_head(name, labels=2)
    copy.add_head("fused", labels=2)
    copy.add_fusion(Fuse(*AWKWARD[:3]))
    copy.load_state_dict(made.state_dict())
    assert torch.equal(out(copy, expression), out(made, expression))
    for name in ("a b", "a/b", ".", "a:b", "", "x" * 65, "loss"):
        with pytest.raises(RegistryError, match=r"is not a legal adapter name|is reserved"):
            copy.add_adapter(name, "lora")
    for name in AWKWARD:
        copy.delete_adapter(name)
        copy.delete_head(name)
    assert copy.heads.names == ("fused",) and not copy.adapters.names


def test_no_hidden_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    """F9: Adapter+ needs nothing that is not declared."""
    for package in ("torchvision", "timm"):
        monkeypatch.setitem(sys.modules, package, None)
    made = model("vit", a="adapter_plus")
    made.train()
    assert made.plan("a").states(**batch("vit")).last_hidden_state.isfinite().all()


def test_docstrings_are_run_and_right() -> None:
    """F11: docstrings are tests; what `activate` says of a name that is missing is what it does."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
    assert "compose" in options["testpaths"] and "--doctest-modules" in options["addopts"]
    made = model(a="seq_bn")
    made.activate("a")
    expected = out(made, "a")
    for call in (made.activate, made.plan, made.train_only):
        assert "CompileError" in (getattr(Model, call.__name__).__doc__ or "")
        with pytest.raises(CompileError, match="there is no adapter 'z'"):
            call(Stack("a", "z"))
    for call in (made.delete_adapter, made.delete_fusion, made.delete_head):
        assert "RegistryError" in (getattr(Model, call.__name__).__doc__ or "")
        with pytest.raises(RegistryError):
            call("z")
    head(made, "a", labels=2)
    close(made.plan("a").states(**batch()).last_hidden_state.detach(), expected)


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_a_stack_prepares_its_input_once(architecture: str) -> None:
    """F13: a Stack inside a Parallel or a Fuse does what it does alone."""
    made = model(architecture, l="seq_bn", a="seq_bn", b="seq_bn")
    stack, inputs = Stack("l", "a"), batch(architecture, padded=True)
    expected = out(made, stack, inputs)
    first, second = out(made, Parallel(stack, "b"), inputs).chunk(2)
    close(first, expected)
    close(second, out(made, "b", inputs))
    # What a Fuse weighs of a Stack is what its last child adds to the value before it.
    made.add_fusion(Fuse(stack, name="one"), "static")
    added = Average(stack, "l", weights=[1, -1], normalize=False)
    close(out(made, Fuse(stack, name="one"), inputs), out(made, added, inputs))
    made.add_adapter("nothing", "seq_bn", init_weights="mam_adapter")
    fusion(made, Fuse("a", "b"))
    fused = Fuse(Stack("nothing", "a"), "b", name="a,b")
    close(out(made, fused, inputs), out(made, Fuse("a", "b"), inputs))


def test_all_errors_are_ours() -> None:
    """All cases: exactly right, or refused before the first forward by an error of ours."""
    made = model(a="seq_bn", plus="adapter_plus")
    wrong = (
        Fuse("a", "plus"),
        Average("a", "plus"),
        Fuse(Parallel("a", "plus")),
        Split(Parallel("a", None), "a", sizes=[1, None]),
        Drop("a", first=3),
        Parallel(None, Stack(Parallel("a", None), Parallel("plus", None))),
    )
    for expression in wrong:
        with pytest.raises(ComposeError):
            made.plan(expression)
