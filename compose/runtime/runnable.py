"""A plan with a model's modules: what users call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from compose.compile import draw_drops, has_random_drops
from compose.dsl import Expression, Slice, branches, to_text
from compose.errors import BackboneError, InputError, Problem, RegistryError
from compose.explain import Explanation, explain
from compose.graph.check import check
from compose.heads.head import Head
from compose.heads.output import MultiHeadOutput, TaskOutput
from compose.plan import Output, Plan
from compose.runtime import files
from compose.runtime.accepts import CALL
from compose.runtime.aggregate import aggregate, check_heads
from compose.runtime.apart import Share, shares_of
from compose.runtime.bind import row_chains
from compose.runtime.bound import Bindings, Bound
from compose.runtime.calls import head_input, prepare_inputs, run_backbone, states_output
from compose.runtime.frame import Frame
from compose.runtime.host import embeddings_of
from compose.runtime.inverse import Inverse, inverses_of
from compose.runtime.longer import Entrance, begins_apart
from compose.runtime.masks import masks_of
from compose.runtime.merge import check_mode
from compose.runtime.optimized import OptimizedPlan
from compose.runtime.predict import evaluation, predict
from compose.runtime.rows import check_route, local_index, route_names, select_rows
from compose.runtime.tasks import labels_by_output, loss_weights_of, positions_of
from compose.runtime.trunk import TrunkStates, check_trunk, depth_of, lower, no_trunk, upper, without_embedded

if TYPE_CHECKING:
    from compose.runtime.model import Model

RunBackbone = Callable[[Any, Frame, Mapping[str, Any]], Any]
"""Runs a backbone within a call on its inputs, and gives its output."""


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
        if self._random_drops:  # what may be drawn later must have a meaning too
            check(expression, model.vocabulary)
        resolved = draw_drops(expression, None)
        self._bindings = Bindings(model, resolved, self.without)
        self._branches = branches(resolved)
        plan = self._bindings.get(False, None).plan
        self._outputs = plan.outputs
        self._entrance = Entrance(model.backbone, model.hooks.anatomy) if begins_apart(plan) else None

    def __repr__(self) -> str:
        return f"<plan of {to_text(self.expression)}>"

    @property
    def plan(self) -> Plan:
        """The compiled plan, as it runs at inference."""
        return self._bindings.get(False, None).plan

    @property
    def tasks(self) -> tuple[str | None, ...]:
        """The names of the outputs, None where one can be reached by position only."""
        return self.plan.tasks

    @property
    def together(self) -> bool:
        """Whether rows are told apart by their place in the batch, so that inputs must stay one, in order."""
        return any(isinstance(selector, Slice) for output in self.plan.outputs for selector in output.rows)

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
        positions = positions_of(tasks, every)
        training = self._bindings.in_training()
        asked = self._bindings.get(training, positions).plan
        heads = dict(zip(asked.outputs, [self._head(output) for output in asked.outputs], strict=True))
        check_heads(asked, list(heads.values()))
        inverses: dict[Output, Inverse] = {}
        if asked.embedding is not None:
            inverses = inverses_of(self.model, self._branches, asked.outputs, list(heads.values()))
        targets = dict(zip(asked.outputs, labels_by_output(labels, asked.outputs, every), strict=True))
        weights = loss_weights_of(loss_weights, asked.outputs, every)
        shares: tuple[Share, ...] = (Share(positions, True),)
        if training and (self.model.training or labels is not None):  # else there is no step to make cheaper
            depth = trunk_states.depth if isinstance(trunk_states, TrunkStates) else self.trunk
            shares = shares_of(self.model, self._bindings, self._branches, every, positions, inputs, depth)
            if len(shares) > 1 and trunk_states is None and depth:
                trunk_states = self._trunk_of(inputs)
        results: dict[Output, TaskOutput] = {}
        for share in shares:
            with nullcontext() if share.recorded else torch.no_grad():
                bound = self._bindings.get(training and share.recorded, share.positions)
                states, frame, given, selected = self._run(bound, inputs, route, own=CALL, trunk=trunk_states)
            for output in bound.plan.outputs:
                rows = selected[output.rows] if output.rows else None
                labels_here = targets[output].of(rows, frame.batch)
                head = heads[output]
                words = embeddings_of(self.model) if head.reads_embeddings else None
                read = head_input(states, given, frame, output, rows, inverses.get(output), words)
                result = head(read, labels_here)
                if rows is not None:
                    result.rows = torch.tensor(rows, device=states.last_hidden_state.device)
                results[output] = result
        self._after_step()
        return MultiHeadOutput([(output.task, results[output]) for output in asked.outputs], weights)

    def states(
        self, *, route: Sequence[str] | None = None, trunk_states: TrunkStates | None = None, **inputs: Any
    ) -> BaseModelOutput:
        """The backbone's own output, with one block of rows for each branch, branch-major; needs no heads."""
        if self._random_drops and self.model.training:
            drawn = self.model.plan(draw_drops(self.expression, self.model.drop_generator), self.without)
            return drawn.states(route=route, trunk_states=trunk_states, **inputs)
        bound = self._bindings.get(self._bindings.in_training(), None)
        states, frame, _, _ = self._run(bound, inputs, route, trunk=trunk_states)
        return states_output(states, frame)

    @property
    def trunk(self) -> int:
        """How many layers come before the first that adapters, frozen ones too, reach or that is trained.

        Their states never change.
        """
        if self.model.hooks.merged.names:  # `None`, as which it is computed, has no meaning over merged weights
            return 0
        return depth_of(self._bindings.get(self._bindings.in_training(), None).plan, self.model.hooks.anatomy)

    def trunk_states(self, **inputs: Any) -> TrunkStates:
        """What the trunk makes of inputs, without dropout and gradients; computed once, it serves in every epoch.

        Raises:
            InputError: if the plan has no trunk.
        """
        if not self.trunk:
            raise InputError(self.no_trunk())
        with evaluation(self.model):
            return self._trunk_of(inputs)

    def no_trunk(self) -> Problem:
        """Why `trunk` is 0, for messages."""
        return no_trunk(self.plan, self.model.hooks.anatomy, self._random_drops)

    def _trunk_of(self, inputs: Mapping[str, Any]) -> TrunkStates:
        """What the trunk makes of inputs in the mode that the model is in, without gradients."""
        depth, every = self.trunk, self.plan.aggregation is not None
        kept: dict[int, Tensor] = {}
        with torch.no_grad():
            self.model.plan(None)._run_below(depth, inputs, kept)
        return TrunkStates(depth, tuple(kept[layer] for layer in range(0 if every else depth, depth + 1)))

    def _run_below(self, depth: int, inputs: Mapping[str, Any], kept: dict[int, Tensor]) -> None:
        self._run(self._bindings.get(False, None), inputs, None, kept=kept, below=depth)

    def fusion_attention(
        self, *, route: Sequence[str] | None = None, **inputs: Any
    ) -> dict[str, dict[int, dict[str, Tensor]]]:
        """The weights that fusions give their candidates: `{fusion: {layer: {site: weights}}}`.

        Weights are [rows, tokens, candidates]; rows of several branches follow each other, and so do those of the
        pieces where a Route or BatchSplit stands in or around a Fuse. Of a fusion that scales they are the means of
        each child's scales, the same for all tokens.

        Raises:
            InputError: a Split gives pieces of a fusion different numbers of tokens.
        """
        attention: dict[tuple[str, int, str], list[Tensor]] = {}
        with torch.no_grad():
            self._run(self._bindings.get(False, None), inputs, route, attention)
        found: dict[str, dict[int, dict[str, Tensor]]] = {}
        for (name, layer, site), weights in sorted(attention.items()):
            if len({piece.shape[1] for piece in weights}) > 1:
                what = f"the fusion '{name}' weighs spans of different lengths at layer {layer}, {site}"
                raise InputError(what, hint="ask for it in an expression without Split")
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
        every = self._bindings.get(False, None).plan.outputs
        plan = self._bindings.get(False, positions_of(tasks, every)).plan
        return explain(plan, self.model.vocabulary, self.model.heads.specs, rows, tokens, decoder_tokens)

    def predict(self, inputs: Sequence[Any], **options: Any) -> list[dict[Any, Any]]:
        """Answers for texts, pairs of texts or lists of words; see `compose.runtime.predict.predict`.

        The rows of a BatchSplit belong to its children by their place, so its inputs stay one batch, in order.
        """
        return predict(self, inputs, **{"together": self.together, **options})

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

    def save(self, folder: Any, format: str = "native", with_backbone: bool = False) -> None:
        """Writes the composition as one folder: expression, adapters, fusions, heads; `native` or `adapterhub`.

        `with_backbone` writes the backbone's weights too: where they were trained, or are in no file.
        """
        files.save_plan(self.model, self.expression, folder, format, with_backbone)

    def _after_step(self) -> None:
        """Advances what depends on the training step: the temperature of fusions that have one."""
        if self.model.training and torch.is_grad_enabled():
            for name in self._bindings.fusions:
                self.model.fusions[name].advance()

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
        check_mode(model)
        self._bindings.enforce_masks()
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
        entrance = self._entrance if begins_apart(plan) else None  # fewer tasks may have no prompts
        if entrance is not None:
            entrance.refresh()  # here, since compiled code would be made anew for each mode that it meets
        call = (plan, bound.programs, batch, selections, model.hooks, attention, kept)
        frame = Frame(*call, masks=masks_of(plan, given), entrance=entrance)
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
