"""Branches in which nothing is trained are not recorded: they run by themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from compose import Drop, Parallel, Route, Stack
from compose.dsl import Expression
from compose.runtime import apart
from compose.runtime.model import Model
from tests import tiny

LAYERS = 4
LABELS = torch.tensor([0, 1, 1])


def model_of(kind: str = "bert", trained: str = "a") -> Model:
    model = tiny.model(kind, LAYERS).double()
    for seed, name in enumerate("abc"):
        tiny.randomize(model.add_adapter(name, "seq_bn"), seed)
        model.add_head(name, labels=2, pooling="first")
    model.train_only(trained)
    model.heads.requires_grad_(True)
    return model


def step(model: Model, expression: Expression, **options: Any) -> tuple[dict[Any, Tensor], dict[str, Tensor]]:
    """Logits by task, and the gradients."""
    model.zero_grad()
    with torch.enable_grad():
        plan = model.plan(expression)
        asked = options.get("tasks", plan.tasks)
        out = plan(**tiny.inputs(), labels=dict.fromkeys(asked, LABELS), **options)
        out.loss.backward()
    return {key: one.logits for key, one in out.items()}, {
        name: p.grad for name, p in model.named_parameters() if p.grad is not None
    }


def rows_recorded(model: Model, expression: Expression, **options: Any) -> list[tuple[int, int, bool]]:
    """Each run of a layer: which, over how many rows, whether backward goes through it."""
    found: list[tuple[int, int, bool]] = []

    def note(index: int, output: Tensor | tuple[Tensor, ...]) -> None:
        tensor = output if isinstance(output, Tensor) else output[0]
        found.append((index, tensor.shape[0], tensor.requires_grad))

    handles = [
        layer.layer.register_forward_hook(lambda module, args, output, index=layer.index: note(index, output))
        for layer in model.hooks.anatomy.layers
    ]
    with torch.enable_grad():
        model.train().plan(expression)(**{**tiny.inputs(), **options})
    for handle in handles:
        handle.remove()
    return found


EXPRESSIONS = (
    Parallel("a", "b"),
    Parallel("b", "a", "c"),
    Parallel(a="a", b=None),
    Parallel(a=Drop("a", first=1), b=Drop("b", first=2)),
    Stack("c", Parallel("a", "b")),
)


@pytest.mark.parametrize("kind", ("bert", "gpt2", "t5"))
@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
@pytest.mark.parametrize("forced", (False, True), ids=("by count", "always"))
def test_answers_and_gradients_are_those_of_one_pass(
    expression: Expression, kind: str, forced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(kind)
    if forced:
        monkeypatch.setattr(apart, "saves", lambda *_: True)
    logits, gradients = step(model, expression)
    monkeypatch.setattr("compose.runtime.runnable.shares_of", lambda *_: (apart.Share(None, True),))
    whole_logits, whole_gradients = step(model, expression)
    assert list(logits) == list(whole_logits) and gradients.keys() == whole_gradients.keys()
    for name, tensor in {**whole_logits, **whole_gradients}.items():
        torch.testing.assert_close({**logits, **gradients}[name], tensor, rtol=1e-9, atol=1e-12)


def test_rows_of_frozen_branches_are_not_recorded() -> None:
    model = model_of()
    runs = rows_recorded(model, Parallel("a", "b", "c"))
    assert [run for run in runs if run[0] == LAYERS - 1] == [(LAYERS - 1, 6, False), (LAYERS - 1, 3, True)]


def test_the_trunk_runs_once_for_both() -> None:
    model = model_of()
    runs = rows_recorded(model, Parallel(a=Drop("a", first=1), b=Drop("b", first=1)))
    assert runs == [
        (0, 3, False),
        *((layer, 3, False) for layer in (1, 2, 3)),
        *((layer, 3, True) for layer in (1, 2, 3)),
    ]


def test_the_trunk_has_its_dropout_in_training() -> None:
    model = model_of().train()
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    expression = Parallel(a=Drop("a", first=1), b=Drop("b", first=1))
    torch.manual_seed(0)
    first = model.plan(expression)(**tiny.inputs())["b"].logits
    second = model.plan(expression)(**tiny.inputs())["b"].logits
    assert not torch.equal(first, second)


@pytest.mark.parametrize("expression", (Route(a="a", b="b"), "a"), ids=str)
def test_other_plans_run_in_one_pass(expression: Expression) -> None:
    model = model_of()
    route = {"route": ["a", "b", "a"]} if isinstance(expression, Route) else {}
    assert len(rows_recorded(model, expression, **route)) == LAYERS


def test_all_is_recorded_where_inputs_ask_for_gradients_or_the_backbone_is_trained() -> None:
    model = model_of()
    width = model.config.hidden_size
    embedded = torch.randn(2, 5, width, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        out = model.plan(Parallel("a", "b"))(inputs_embeds=embedded)
    assert torch.autograd.grad(out["b"].logits.sum(), embedded)[0].abs().sum() > 0
    model.train_only(Parallel("a", "b"), "full")
    assert len(rows_recorded(model, Parallel("a", "b"))) == LAYERS


def test_tasks_are_chosen_before() -> None:
    model = model_of()
    assert len(rows_recorded(model, Parallel("a", "b"), tasks=["b"])) == LAYERS
    logits, _ = step(model, Parallel("b", "a", "c"), tasks=["c", "a"])
    assert list(logits) == ["a", "c"]


def test_what_would_run_twice_for_too_little_runs_once() -> None:
    """Branches that part at the last layer, over layers that are no trunk since a shared adapter acts there."""
    model = model_of()
    late = Stack("c", Parallel(a=Drop("a", first=LAYERS - 1), b=Drop("b", first=LAYERS - 1)))
    assert model.plan(late).trunk == 0
    assert [rows for _, rows, _ in rows_recorded(model, late)] == [
        3,
        3,
        3,
        6,
    ]  # one run each; the last one parts inside
    assert len(rows_recorded(model, Parallel("a", "b"))) == 2 * LAYERS


def test_the_count() -> None:
    """Four layers, forked at the end of the first: 1 + 2 + 2 + 2 both ways, against three times four."""
    model = model_of()

    def bound(training: bool, positions: tuple[int, ...] | None, *drops: int) -> Any:
        names = [Drop(name, first=first) for name, first in zip("ab", drops, strict=True)]
        return model.plan(Parallel(*names))._bindings.get(training, positions)

    for drops, trunk, apart_is_less in (((0, 0), 0, True), ((1, 1), 1, True), ((2, 2), 2, False), ((2, 2), 0, False)):
        shares = bound(True, None, *drops), bound(True, (0,), *drops), bound(False, (1,), *drops)
        assert apart.saves(*shares, trunk) is apart_is_less, (drops, trunk)


def test_outside_of_a_step_all_runs_in_one_pass() -> None:
    model = model_of()
    with torch.enable_grad():
        plan, ran = model.plan(Parallel("a", "b")), []
        model.hooks.anatomy.layers[0].layer.register_forward_hook(lambda *_: ran.append(1))
        plan(**tiny.inputs())
        assert len(ran) == 1  # in evaluation, without labels: nobody trains
        plan(**tiny.inputs(), labels={"b": LABELS, "a": LABELS})
        assert len(ran) == 3


def test_inputs_inside_of_others_and_earlier_tokens() -> None:
    model = model_of("t5")
    states = torch.randn(3, 7, 32, dtype=torch.float64)
    decoder = tiny.inputs("t5")["decoder_input_ids"]
    for asks in (False, True):
        output = BaseModelOutput(last_hidden_state=states.clone().requires_grad_(asks))
        out = model.plan(Parallel("a", "b"))(
            encoder_outputs=output, decoder_input_ids=decoder, labels={"a": LABELS, "b": LABELS}
        )
        if asks:
            assert torch.autograd.grad(out["b"].logits.sum(), output.last_hidden_state)[0].abs().sum() > 0
    assert apart._asks(((None, [states.clone().requires_grad_()]),)) and not apart._asks((states, {"a": "b"}))
    model, cache = model_of("gpt2"), DynamicCache()
    rows_recorded(model, Parallel("a", "b"), past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == 7  # not 14, as after two passes


def test_reentrant_checkpoints_take_all_branches_together() -> None:
    model = model_of()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    assert len(rows_recorded(model, Parallel("a", "b"))) == LAYERS


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("prompt_tuning", {"prompt_length": 2}),
        ("prefix_tuning", {"prefix_length": 2, "bottleneck_size": 4}),
        ("prefix_tuning_flat", {"prefix_length": 2}),
        ("bitfit", {}),
        ("loreft", {"r": 2}),
    ],
)
def test_whatever_is_trained_counts(method: str, options: dict[str, Any]) -> None:
    """Also what acts before the layers, and weights that all layers share: backward goes through all of them."""
    model = model_of()
    model.add_adapter("trained", method, **options)
    model.add_head("trained", labels=2, pooling="first")
    model.train_only("trained")
    runs = rows_recorded(model, Parallel("trained", "a", "b", "c"))
    assert [run for run in runs if run[0] == LAYERS - 1] == [(LAYERS - 1, 9, False), (LAYERS - 1, 3, True)]
    for name, parameter in model.adapters["trained"].named_parameters():
        parameter.requires_grad_(name.startswith("shared"))
    if any(p.requires_grad for p in model.adapters["trained"].parameters()):
        assert len(rows_recorded(model, Parallel("trained", "a", "b", "c"))) == 2 * LAYERS
