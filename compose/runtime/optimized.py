"""A plan under `torch.compile`: traced once, for batches of any size and length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._dynamo.decorators import mark_unbacked, maybe_mark_dynamic
from torch._dynamo.exc import TorchDynamoException
from transformers.modeling_outputs import BaseModelOutput

from compose.dsl import to_text
from compose.errors import BackboneError, ComposeError, ConfigError, Problem
from compose.heads.head import Head
from compose.heads.output import MultiHeadOutput
from compose.runtime.calls import ROWS, run_backbone
from compose.runtime.folds import foldable, folds_of
from compose.runtime.frame import Frame, running
from compose.runtime.longer import run_through
from compose.runtime.masks import masks_of

if TYPE_CHECKING:
    from compose.runtime.runnable import RunnablePlan

KEPT = 8
"""How many compiled forms are kept: one for each selection of tasks and set of inputs."""

CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""Modes whose results lie in memory that the next call writes to."""


class OptimizedPlan:
    """A plan whose backbone, adapters and fusions run compiled; made by `plan.optimize()`.

    It is called as the plan is, and answers the same. The first call compiles, which takes a minute or more; later
    ones do not, whatever their number of rows and tokens, but that one row and one token are each a case of their
    own, as are other names of inputs, and another selection of tasks. Weights may change: fusions are folded anew
    outside of compiled code. Where an adapter that it names is replaced, it compiles again.

    It is for inference: what it gives has no gradients. In training mode, and where inputs ask for gradients or
    are no tensors (`output_hidden_states`, caches), the plan itself runs. Heads and losses are never compiled.

    Args:
        plan: the plan.
        mode: as for `torch.compile`: `reduce-overhead` uses CUDA graphs on a GPU.
        backend: as for `torch.compile`.

    Raises:
        ConfigError: torch knows no such mode or backend.
    """

    def __init__(self, plan: RunnablePlan, mode: str | None = None, backend: str = "inductor") -> None:
        _check(mode, backend)
        self.plan = plan
        self.mode = mode
        self.backend = backend
        self._compiled: dict[tuple[int, tuple[str, ...]], tuple[object, Callable[..., Any]]] = {}
        self._inner = plan.with_backbone(self._run)

    def __repr__(self) -> str:
        return f"<optimized plan of {to_text(self.plan.expression)}>"

    @property
    def model(self) -> Any:
        """The model that it runs on."""
        return self.plan.model

    @property
    def tasks(self) -> tuple[str | None, ...]:
        """The names of the outputs, None where one can be reached by position only."""
        return self.plan.tasks

    def heads_of(self, tasks: Sequence[str | int] | None = None) -> list[Head]:
        """The heads of the outputs asked for; see `RunnablePlan.heads_of`."""
        return self.plan.heads_of(tasks)

    def __call__(self, **call: Any) -> MultiHeadOutput:
        """Answers every task; see `RunnablePlan.__call__`.

        Raises:
            BackboneError: if the backbone cannot be compiled, or there is no compiler.
        """
        if not self._compiles(call):
            return self.plan(**call)
        with torch.no_grad():
            return self._inner(**call)

    def states(self, **call: Any) -> BaseModelOutput:
        """The backbone's own output; see `RunnablePlan.states`. Raises as a call does."""
        if not self._compiles(call):
            return self.plan.states(**call)
        with torch.no_grad():
            return self._inner.states(**call)

    def predict(self, inputs: Sequence[Any], **options: Any) -> list[dict[Any, Any]]:
        """Answers for texts, pairs of texts or lists of words; see `RunnablePlan.predict`."""
        return self._inner.predict(inputs, **options)

    def _compiles(self, call: Mapping[str, Any]) -> bool:
        """Whether a call is one that compiled code can answer."""
        inputs = [value for name, value in call.items() if name not in NOT_INPUTS and value is not None]
        return not self.model.training and all(isinstance(one, Tensor) and not one.requires_grad for one in inputs)

    def _run(self, backbone: Any, frame: Frame, given: Mapping[str, Any]) -> Any:
        """Runs the backbone in compiled code, in place of a plain call of it."""
        if backbone is not self.model.backbone or frame.attention is not None:
            return run_backbone(backbone, frame, given)
        key = (id(frame.programs), tuple(sorted(given)))
        if key not in self._compiled:  # the programs are kept too, so that their id stays theirs
            kept = dict(list(self._compiled.items())[-KEPT + 1 :])
            self._compiled = {**kept, key: (frame.programs, self._compile(frame))}
        # One mode of gradients, whatever the caller's: each would be a case of its own.
        with torch.inference_mode(False), torch.no_grad():
            try:
                selections = _selections(frame, rows_of(given).device)
                states, frame.kept, frame.longer = self._compiled[key][1](_any_size(given), selections)
            except TorchDynamoException as error:
                return self._as_it_is(frame, given, error)
        if self.mode in CUDA_GRAPHS and states.last_hidden_state.is_cuda:
            for name, value in states.items():
                states[name] = value.clone() if isinstance(value, Tensor) else value
        return states

    def _compile(self, frame: Frame) -> Callable[..., Any]:
        """A function that is traced on its first call."""
        plan, programs, owner = frame.plan, frame.programs, frame.owner
        keeps, entrance = frame.kept is not None, frame.entrance
        fusions = foldable(programs.values())
        backbone = self.model.backbone

        def run(given: dict[str, Any], selections: Any, folds: Any) -> Any:
            rows = rows_of(given)
            kept: dict[int, Tensor] | None = {} if keeps else None
            masks = masks_of(plan, given)
            call = (plan, programs, rows.shape[0], selections, owner, None, kept)
            own = Frame(*call, folds=folds, masks=masks, entrance=entrance)
            running.frame = own
            try:
                states = run_through(backbone, own, given)
            finally:
                running.frame = None
            return states, kept, own.longer

        # Dynamo counts what it compiles by code object, and gives up after a few: each plan has one of its own.
        copy = FunctionType(run.__code__.replace(), run.__globals__, run.__name__, None, run.__closure__)
        compiled = torch.compile(copy, fullgraph=True, mode=self.mode, backend=self.backend)

        def call(given: dict[str, Any], selections: Any) -> Any:
            return compiled(given, selections, folds_of(fusions))

        return call

    def _as_it_is(self, frame: Frame, given: Mapping[str, Any], error: TorchDynamoException) -> Any:
        """What was wrong: the call itself, which then fails without being compiled too, or compiling it.

        Raises:
            ComposeError: the call's own error.
            BackboneError: if the backbone cannot be compiled.
        """
        try:
            run_backbone(self.model.backbone, frame, given)
        except ComposeError as own:
            raise own from None
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BackboneError(
            f"{type(self.model.backbone).__name__} cannot be compiled with this plan",
            why=first.strip(),
            hint="the plan itself runs without being compiled",
        ) from error


NOT_INPUTS = ("labels", "loss_weights", "tasks", "route")
"""What of a call is not for the backbone."""


def _check(mode: str | None, backend: str) -> None:
    problems = []
    backends = tuple(torch.compiler.list_backends(exclude_tags=()))
    if backend not in backends:
        problems.append(Problem(f"torch has no backend {backend!r}", got=str(backend), legal=backends))
    if mode is not None:
        from torch._inductor import list_mode_options  # takes a second to import

        modes = tuple(dict.fromkeys(("default", *list_mode_options())))
        if mode not in modes:
            problems.append(Problem(f"torch has no mode {mode!r}", got=str(mode), legal=modes))
    if problems:
        raise ConfigError(problems)


def rows_of(given: Mapping[str, Any]) -> Tensor:
    """The input that tells how many rows there are."""
    found: Tensor = next(given[name] for name in ROWS if name in given)
    return found


def _any_size(given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs, marked to be of any number of rows and tokens; all else that compiled code reads has one shape."""
    for name, tensor in given.items():
        if isinstance(tensor, Tensor):
            per_head = name != "pixel_values" and tensor.dim() == 4
            for dimension in (0, 2, 3) if per_head else (0,) if name == "pixel_values" else (0, 1):
                maybe_mark_dynamic(tensor, dimension)
    return dict(given)


def _selections(frame: Frame, device: torch.device) -> dict[Any, Tensor]:
    """Which rows selectors take, always as indices, of which there may be any number: none and one are not special."""
    selections = {}
    for chain, index in frame.selections.items():
        if isinstance(index, slice):
            index = torch.arange(index.start, index.stop, device=device)
        mark_unbacked(index, 0)
        selections[chain] = index
    return selections
