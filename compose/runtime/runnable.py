"""A plan with a model's modules: what users call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from compose.compile import Options, draw_drops, has_random_drops
from compose.dsl import Expression, Slice, fuses, leaves, own_name, to_text
from compose.errors import BackboneError, InputError, RegistryError
from compose.explain import Explanation, explain
from compose.graph.check import check
from compose.heads.head import Head
from compose.heads.output import MultiHeadOutput
from compose.plan import Output, Plan, SiteKey
from compose.runtime import files
from compose.runtime.accepts import CALL
from compose.runtime.aggregate import aggregate, check_heads
from compose.runtime.bind import BoundProgram, Modules, bind, row_chains
from compose.runtime.calls import head_input, prepare_inputs, run_backbone, states_output
from compose.runtime.frame import Frame
from compose.runtime.optimized import OptimizedPlan
from compose.runtime.predict import evaluation, predict
from compose.runtime.rows import check_route, local_index, route_names, select_rows
from compose.runtime.tasks import labels_by_output, loss_weights_of, positions_of
from compose.runtime.trunk import TrunkStates, check_trunk, depth_of, lower, upper, without_embedded

if TYPE_CHECKING:
    from compose.runtime.model import Model

RunBackbone = Callable[[Any, Frame, Mapping[str, Any]], Any]
"""Runs a backbone within a call on its inputs, and gives its output."""


class Bound(NamedTuple):
    """A plan whose programs hold their modules."""

    plan: Plan
    programs: Mapping[SiteKey, BoundProgram]


class RunnablePlan:
    """An expression compiled over a model; callable, immutable, usable from any thread.

    Args:
        model: the model.
        expression: what to run.
        without: names of compiler passes to leave out; the outputs do not depend on them.
        run_backbone: runs the backbone within a call, on its inputs.
    """

    def __init__(
        self,
        model: Model,
        expression: Expression,
        without: Sequence[str] = (),
        run_backbone: RunBackbone = run_backbone,
    ) -> None:
        self.model = model
        self._run_backbone = run_backbone
        self.expression = expression
        self.without = frozenset(without)
        self._random_drops = has_random_drops(expression)
        self._version = -1
        self._stands_for: tuple[Any, ...] = ()
        self._bound: dict[tuple[bool, tuple[int, ...] | None], Bound] = {}
        if self._random_drops:  # what may be drawn later must have a meaning too
            check(expression, model.vocabulary)
        self._resolved = draw_drops(expression, None)
        self._adapters = leaves(self._resolved)
        self._fusions = tuple(own_name(fuse) or "" for fuse in fuses(self._resolved))
        self._outputs = self._bind(False, None).plan.outputs

    def __repr__(self) -> str:
        return f"<plan of {to_text(self.expression)}>"

    @property
    def plan(self) -> Plan:
        """The compiled plan, as it runs at inference."""
        return self._bind(False, None).plan

    @property
    def tasks(self) -> tuple[str | None, ...]:
        """The names of the outputs, None where one can be reached by position only."""
        return self.plan.tasks

    def __call__(
        self,
        *,
        labels: Any = None,
        loss_weights: Mapping[str | int, float] | None = None,
        tasks: Sequence[str | int] | None = None,
        route: Sequence[str] | None = None,
        trunk_states: TrunkStates | None = None,
        **inputs: Any,
    ) -> MultiHeadOutput:
        """Answers every task in one forward pass.

        Args:
            labels: labels by task; those of a single task also plain. Tasks without labels give no loss.
            loss_weights: weight of a task's loss in `out.loss`, 1 by default.
            tasks: the tasks wanted, all by default; the rest is not computed.
            route: for a plan with a Route, for each row the name of its task.
            trunk_states: what `trunk_states` gave for these inputs, so that its layers need not run; their hidden
                states and attentions are not in the output then.
            **inputs: the backbone's inputs, [rows, ...].

        Returns:
            The outputs by task and by position.

        Raises:
            InputError: if labels, tasks, route or rows do not fit.
            RegistryError: if a task has no head.
        """
        if self._random_drops and self.model.training:
            drawn = self.model.plan(draw_drops(self.expression, self.model.drop_generator), self.without)
            given_to = {"labels": labels, "loss_weights": loss_weights, "tasks": tasks, "route": route}
            return drawn(**given_to, trunk_states=trunk_states, **inputs)
        every = self._outputs
        bound = self._bind(self._training(), positions_of(tasks, every))
        heads = [self._head(output) for output in bound.plan.outputs]
        check_heads(bound.plan, heads)
        wanted = labels_by_output(labels, bound.plan.outputs, every)
        weights = loss_weights_of(loss_weights, bound.plan.outputs, every)
        states, frame, given, selected = self._run(bound, inputs, route, own=CALL, trunk=trunk_states)
        results = []
        for output, head, targets in zip(bound.plan.outputs, heads, wanted, strict=True):
            rows = selected[output.rows] if output.rows else None
            result = head(head_input(states, given, frame, output, rows), targets.of(rows, frame.batch))
            if rows is not None:
                result.rows = torch.tensor(rows, device=states.last_hidden_state.device)
            results.append((output.task, result))
        self._after_step()
        return MultiHeadOutput(results, weights)

    def states(
        self, *, route: Sequence[str] | None = None, trunk_states: TrunkStates | None = None, **inputs: Any
    ) -> BaseModelOutput:
        """The backbone's own output, with one block of rows for each branch, branch-major; needs no heads."""
        if self._random_drops and self.model.training:
            drawn = self.model.plan(draw_drops(self.expression, self.model.drop_generator), self.without)
            return drawn.states(route=route, trunk_states=trunk_states, **inputs)
        bound = self._bind(self._training(), None)
        states, frame, _, _ = self._run(bound, inputs, route, trunk=trunk_states)
        return states_output(states, frame)

    @property
    def trunk(self) -> int:
        """How many layers come before the first that adapters reach or that is trained; their states never change."""
        return depth_of(self._bind(self._training(), None).plan, self.model.hooks.anatomy)

    def trunk_states(self, **inputs: Any) -> TrunkStates:
        """What the trunk makes of inputs, without dropout and gradients; computed once, it serves in every epoch.

        Raises:
            InputError: if the plan has no trunk.
        """
        depth, every = self.trunk, self.plan.aggregation is not None
        if not depth:
            raise InputError(
                "the plan has no trunk",
                why="adapters or trained weights act from the first layer on, or the backbone cannot be entered later",
                hint="Drop(..., first=n) leaves the first n layers to the trunk",
            )
        return self.model.plan(None)._trunk_states(depth, every, inputs)

    def _trunk_states(self, depth: int, every: bool, inputs: Mapping[str, Any]) -> TrunkStates:
        kept: dict[int, Tensor] = {}
        with evaluation(self.model), torch.no_grad():
            self._run(self._bind(False, None), inputs, None, kept=kept, below=depth)
        return TrunkStates(depth, tuple(kept[layer] for layer in range(0 if every else depth, depth + 1)))

    def fusion_attention(
        self, *, route: Sequence[str] | None = None, **inputs: Any
    ) -> dict[str, dict[int, dict[str, Tensor]]]:
        """The weights that fusions give their candidates: `{fusion: {layer: {site: weights}}}`.

        Weights are [rows, tokens, candidates]; rows of several branches follow each other.
        """
        attention: dict[tuple[str, int, str], list[Tensor]] = {}
        with torch.no_grad():
            self._run(self._bind(False, None), inputs, route, attention)
        found: dict[str, dict[int, dict[str, Tensor]]] = {}
        for (name, layer, site), weights in sorted(attention.items()):
            found.setdefault(name, {}).setdefault(layer, {})[site] = torch.cat(weights)
        return found

    def explain(
        self,
        rows: int = 8,
        tokens: int = 128,
        decoder_tokens: int | None = None,
        tasks: Sequence[str | int] | None = None,
    ) -> Explanation:
        """What runs where on which rows, and what it costs, for a batch of that size."""
        every = self._bind(False, None).plan.outputs
        plan = self._bind(False, positions_of(tasks, every)).plan
        return explain(plan, self.model.vocabulary, self.model.heads.specs, rows, tokens, decoder_tokens)

    def predict(self, inputs: Sequence[Any], **options: Any) -> list[dict[Any, Any]]:
        """Answers for texts, pairs of texts or lists of words; see `compose.runtime.predict.predict`.

        The rows of a BatchSplit belong to its children by their place, so its inputs stay one batch, in order.
        """
        together = any(isinstance(selector, Slice) for output in self.plan.outputs for selector in output.rows)
        return predict(self, inputs, **{"together": together, **options})

    def optimize(self, mode: str | None = None, backend: str = "inductor") -> OptimizedPlan:
        """The plan under `torch.compile`, for batches of any size and length; see `OptimizedPlan`.

        Args:
            mode: as for `torch.compile`; `reduce-overhead` uses CUDA graphs on a GPU.
            backend: as for `torch.compile`; the default one needs a C++ compiler.
        """
        return OptimizedPlan(self, mode, backend)

    def with_backbone(self, run_backbone: RunBackbone) -> RunnablePlan:
        """The same plan with another way to run the backbone."""
        return RunnablePlan(self.model, self.expression, tuple(self.without), run_backbone)

    def heads_of(self, tasks: Sequence[str | int] | None = None) -> list[Head]:
        """The heads of the outputs asked for, in order.

        Raises:
            RegistryError: if one does not exist.
        """
        chosen = positions_of(tasks, self.plan.outputs)
        outputs = self.plan.outputs if chosen is None else [self.plan.outputs[index] for index in chosen]
        return [self._head(output) for output in outputs]

    def save(self, folder: Any) -> None:
        """Writes the composition as one folder: expression, adapters, fusions, heads."""
        files.save_plan(self.model, self.expression, folder)

    def _after_step(self) -> None:
        """Advances what depends on the training step: the temperature of fusions that have one."""
        if self.model.training and torch.is_grad_enabled():
            for name in self._fusions:
                self.model.fusions[name].advance()

    def _training(self) -> bool:
        """Whether gradients may be asked for of what a fusion folds."""
        if not torch.is_grad_enabled():
            return False
        # One that is missing was deleted: binding says so, and where.
        modules = [module for module in self._modules() if module is not None]
        return any(p.requires_grad for module in modules for p in module.parameters())

    def _modules(self) -> list[nn.Module | None]:
        """The adapters and fusions that it names, None for one that is not there."""
        adapters, fusions = self.model.adapters, self.model.fusions
        return [*map(adapters.get, self._adapters), *map(fusions.get, self._fusions)]

    def _refresh(self) -> None:
        """Forgets what is bound if its names stand for something else by now; other names may come and go."""
        version, stands_for = self.model.version, (self.model.adapter_dtype, *self._modules())
        if stands_for != self._stands_for:
            self._bound, self._stands_for = {}, stands_for
        self._version = version

    def _bind(self, training: bool, positions: tuple[int, ...] | None) -> Bound:
        if torch.compiler.is_dynamo_compiling():
            _bind_while_tracing(self, training, positions)
        if self._version != self.model.version:
            self._refresh()
        bound = self._bound.get((training, positions))
        if bound is None:
            options = Options(training, None if positions is None else frozenset(positions), self.without)
            plan = self.model.plans.get(self._resolved, self.model.vocabulary, options)
            modules = Modules(self.model.adapters, self.model.fusions, self.model.adapter_dtype)
            programs = {key: bind(program, modules) for key, program in plan.programs.items()}
            bound = self._bound[training, positions] = Bound(plan, programs)
        return bound

    def _run(
        self,
        bound: Bound,
        inputs: Mapping[str, Any],
        route: Sequence[str] | None,
        attention: dict[tuple[str, int, str], list[Tensor]] | None = None,
        own: tuple[str, ...] = ("route", "trunk_states"),
        trunk: TrunkStates | None = None,
        kept: dict[int, Tensor] | None = None,
        below: int | None = None,
    ) -> tuple[Any, Frame, dict[str, Any], dict[Any, list[int]]]:
        model, plan = self.model, bound.plan
        if not model.hooks.installed:
            raise BackboneError(
                "the backbone was detached from this model, so no plan can run on it",
                hint="compose.attach(backbone) makes a new model",
            )
        given, batch, device = prepare_inputs(model.backbone, model.spec, inputs, model.accepts, own)
        names = check_route(route, route_names(plan), batch)
        chains = row_chains(list(bound.programs.values()))
        selected = select_rows([*chains, *(output.rows for output in plan.outputs)], batch, names)
        selections = {chain: local_index(selected[chain], selected[chain[:-1]], device) for chain in chains}
        backbone: Any = model.backbone
        if plan.aggregation is not None:
            kept = {}
        if below is not None:
            backbone = lower(backbone, model.hooks.anatomy, below)
        if trunk is not None:
            ids = given.get("input_ids", given.get("inputs_embeds"))
            check_trunk(trunk, plan, model.hooks.anatomy, batch, None if ids is None else ids.shape[1])
            backbone, given = upper(backbone, model.hooks.anatomy, trunk), without_embedded(given)
            if kept is not None:
                kept.update(enumerate(trunk.states))
        frame = Frame(plan, bound.programs, batch, selections, model.hooks, attention, kept)
        model.hooks.checkpointing.prepare()
        states = self._run_backbone(backbone, frame, given)
        if plan.aggregation is not None:
            aggregate(states, frame, given.get("attention_mask"))
        return states, frame, given, selected

    def _head(self, output: Output) -> Head:
        if output.head is None:
            raise RegistryError(
                f"output {output.branch} has no name, so it has no head",
                why="averages, splits and None have no name of their own",
                hint="give its branch one: Parallel(task=...), or use plan.states(...)",
            )
        if output.head not in self.model.heads:
            raise RegistryError(
                f"there is no head '{output.head}'",
                got=output.head,
                legal=self.model.heads.names,
                hint=f"model.add_head({output.head!r}, 'classification', labels=...), or plan.states(...)",
            )
        head: Head = self.model.heads[output.head]
        return head


@torch.compiler.assume_constant_result
def _bind_while_tracing(plan: RunnablePlan, training: bool, positions: tuple[int, ...] | None) -> bool:
    """Compiles and binds a plan when `torch.compile` comes to it, untraced: its trace then finds the result."""
    plan._bind(training, positions)
    return True
