"""What was made from a weight is made anew when an optimizer has moved it, whatever way it takes."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import optimizer

from compose.dsl import Drop
from compose.methods.reft.orthogonal import Projection, orthonormal
from compose.methods.watched import Watched
from compose.runtime.sparsity import sparsify
from compose.train.trunk_cache import TrunkCache
from tests import tiny

WAYS: Any = pytest.mark.parametrize("way", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)


def step(weights: list[nn.Parameter], way: dict[str, bool]) -> None:
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    torch.optim.AdamW(weights, lr=0.1, **way).step()


@WAYS
def test_steps_are_changes_of_what_moves(way: dict[str, bool]) -> None:
    moved, frozen = (nn.Parameter(torch.ones(3)) for _ in range(2))
    watched = [Watched.of(weight) for weight in (moved, frozen)]
    moved.sum().backward()
    torch.optim.AdamW([moved, frozen], lr=0.1, **way).step()
    assert [one.unchanged() for one in watched] == [False, True]


@WAYS
def test_orthogonal_projections(way: dict[str, bool]) -> None:
    projection = Projection(2, 6, orthogonal=True)
    nn.init.normal_(projection.weight)
    with torch.no_grad():
        before = projection.matrix()
        step([projection.weight], way)
        assert not torch.equal(projection.matrix(), before)
        torch.testing.assert_close(projection.matrix(), orthonormal(projection.weight))


@WAYS
def test_sparse_adapters(way: dict[str, bool]) -> None:
    model = tiny.model()
    adapter = model.add_adapter("a", "seq_bn")
    sparsify(model, "a", 0.5)
    model.plan("a").states(**tiny.inputs())
    step([weight for weight in adapter.parameters() if weight.dim() > 1], way)
    model.plan("a").states(**tiny.inputs())
    for name, weight in adapter.weights().items():
        if weight.dim() > 1:
            assert torch.equal(weight == 0, ~adapter.masks.by_name()[name])


@WAYS
def test_trunks(way: dict[str, bool]) -> None:
    model, cache, inputs = tiny.model(), TrunkCache(), tiny.inputs()
    model.add_adapter("a", "seq_bn")
    plan = model.plan(Drop("a", first=1))
    for _ in range(2):
        torch.testing.assert_close(cache.states(plan, inputs).states, plan.trunk_states(**inputs).states)
        step([model.backbone.get_input_embeddings().weight], way)  # type: ignore[operator,union-attr,list-item]
    torch.testing.assert_close(cache.states(plan, inputs).states, plan.trunk_states(**inputs).states)
    assert cache.computed == 9


class Trained:
    """A projection that is evaluated and trained in some order."""

    def __init__(self, way: dict[str, bool]) -> None:
        self.projection = Projection(2, 6, orthogonal=True)
        nn.init.normal_(self.projection.weight)
        weight = self.projection.weight
        self.optimizer = torch.optim.AdamW([weight], lr=0.1, **way)
        self.other = torch.optim.SGD([weight], lr=0.1, **way)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def do(self, what: str) -> None:
        weight = self.projection.weight
        actions: dict[str, Callable[[], object]] = {
            "evaluate": self.evaluate,
            "backward": lambda: self.loss().backward(),
            "scaled": lambda: self.scaler.scale(self.loss()).backward(),
            "derive": lambda: setattr(weight, "grad", torch.autograd.grad(self.loss(), [weight])[0]),
            "step": self.optimizer.step,
            "other": self.other.step,
            "unscaled": lambda: (self.scaler.step(self.optimizer), self.scaler.update()),
            "forget": self.optimizer.zero_grad,
            "zero": lambda: self.optimizer.zero_grad(set_to_none=False),
            "freeze": lambda: weight.requires_grad_(False),
            "thaw": lambda: weight.requires_grad_(True),
        }
        before = weight.detach().clone()
        actions[what]()
        assert torch.equal(before, weight) == (what not in ("step", "other", "unscaled")), what

    def loss(self) -> Tensor:
        return (self.projection.matrix() * torch.arange(12.0).view(2, 6)).sum()

    @torch.no_grad()
    def evaluate(self) -> None:
        made = self.projection.matrix()
        torch.testing.assert_close(made, orthonormal(self.projection.weight), rtol=0, atol=0)
        assert self.projection.matrix() is made  # nothing came between


@WAYS
@pytest.mark.parametrize(
    "order",
    [
        "evaluate backward step evaluate",
        "evaluate backward step forget evaluate",
        "evaluate backward step zero evaluate",
        "evaluate backward evaluate step evaluate",
        "evaluate backward evaluate step forget evaluate",
        "evaluate backward evaluate step zero evaluate step evaluate",
        "evaluate backward step evaluate step evaluate forget evaluate",
        "evaluate backward evaluate backward evaluate step evaluate forget evaluate",
        "evaluate zero forget backward step evaluate forget backward step forget evaluate",
        "evaluate backward step evaluate other evaluate forget evaluate",
        "evaluate backward other forget backward step forget evaluate",
        "evaluate scaled evaluate unscaled forget evaluate scaled unscaled evaluate",
        "evaluate derive step forget evaluate derive evaluate step evaluate",
        "freeze evaluate thaw backward step forget freeze evaluate",
        "freeze evaluate thaw backward freeze evaluate step forget evaluate",
    ],
)
def test_orders(way: dict[str, bool], order: str) -> None:
    trained = Trained(way)
    for what in order.split():
        trained.do(what)


def test_what_nothing_changed_is_kept() -> None:
    trained = Trained({"fused": True})
    for order in ("", "backward", "step", "forget", "freeze"):
        for what in order.split():
            trained.do(what)
        with torch.no_grad():
            made = trained.projection.matrix()
            assert trained.projection.matrix() is made


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("frozen", [True, False])
def test_steps_that_no_hook_of_an_optimizer_sees(frozen: bool) -> None:
    class Forgetful(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            self.zero_grad()

    trained = Trained({})
    weight = trained.projection.weight
    made: Any = Forgetful([weight], lr=0.1, fused=True)
    for step in (made.step, torch.compile(made.step, backend="eager")):
        weight.requires_grad_(not frozen)
        trained.do("evaluate")
        weight.requires_grad_(True)
        trained.do("backward")
        before = weight.detach().clone()
        step()
        assert weight.grad is None and not torch.equal(before, weight)
        weight.requires_grad_(not frozen)
        trained.do("evaluate")


def test_nothing_of_the_process_is_changed() -> None:
    trained = Trained({"fused": True})
    trained.do("evaluate")
    hooks = [*optimizer._global_optimizer_post_hooks.values(), *optimizer._global_optimizer_pre_hooks.values()]
    assert not [hook for hook in hooks if hook.__module__.startswith("compose")]


def test_copies_and_pickles_are_on_their_own() -> None:
    trained = Trained({"fused": True})
    trained.do("evaluate")
    weight = trained.projection.weight
    file = io.BytesIO()
    torch.save({"weight": weight}, file)
    file.seek(0)
    read = torch.load(file, weights_only=True)["weight"]
    seen = Watched.of(weight)
    for twin in (copy.deepcopy(trained.projection).weight, read):
        own = Watched.of(twin)
        twin.sum().backward()
        assert seen.unchanged() and not own.unchanged()
    plain = torch.ones(3, requires_grad=True)  # a tensor that is no parameter: torch warns of hooks it cannot pickle
    Watched.of(plain)
    torch.save(plain, io.BytesIO())


def test_watching_leaves_weights_as_they_are() -> None:
    frozen, whole = nn.Parameter(torch.ones(3), requires_grad=False), torch.ones(3, dtype=torch.int64)
    for weight in (frozen, whole):
        version = weight._version
        assert Watched.of(weight).unchanged() and Watched.of(weight).unchanged()
        assert not weight.requires_grad and weight._version == version and not vars(weight)
    assert len(frozen._backward_hooks or ()) == 1


def test_two_calls_and_their_backward_passes_around_an_evaluation() -> None:
    model = tiny.model()
    model.add_adapter("a", "seq_bn")
    sparsify(model, "a", 0.5)
    model.train_only("a")
    plan = model.plan("a")
    first, second = (plan.states(**tiny.inputs()).last_hidden_state.sum() for _ in range(2))
    first.backward()
    third = plan.states(**tiny.inputs()).last_hidden_state.sum()
    with torch.no_grad():
        plan.states(**tiny.inputs())
    second.backward()
    third.backward()


@WAYS
def test_sparse_adapters_whose_optimizer_remembers(way: dict[str, bool]) -> None:
    model = tiny.model()
    adapter = model.add_adapter("a", "seq_bn")
    plan = model.plan("a")
    weights = [weight for weight in adapter.parameters() if weight.dim() > 1]
    optimizer = torch.optim.AdamW(weights, lr=0.1, **way)

    def backward() -> None:
        found = plan.states(**tiny.inputs()).last_hidden_state
        (found * torch.arange(found.shape[-1], dtype=found.dtype)).sum().backward()

    def run() -> None:
        with torch.no_grad():
            plan.states(**tiny.inputs())
        for name, weight in adapter.weights().items():
            if weight.dim() > 1:
                assert not weight[~adapter.masks.by_name()[name]].any()

    backward()
    optimizer.step()
    sparsify(model, "a", 0.5)
    for order in ("s", "rs", "zbs", "zbrs", "zbrsz", "bsz"):
        for what in order:
            {"z": optimizer.zero_grad, "b": backward, "s": optimizer.step, "r": run}[what]()
        run()


def test_compiled_training_goes_on_where_weights_are_watched() -> None:
    module = nn.Linear(3, 3)
    compiled: Any = torch.compile(module, backend="eager", fullgraph=True)
    compiled(torch.ones(2, 3)).sum().backward()
    module.zero_grad()
    seen = [Watched.of(weight) for weight in module.parameters()]
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(torch.ones(2, 3)).sum().backward()
    module.zero_grad()
    assert not any(one.unchanged() for one in seen)
