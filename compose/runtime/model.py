"""The model that users hold: a frozen backbone with adapters, fusions and heads."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compose.backbones.resolve import Anatomy
from compose.compile import PlanCache
from compose.dsl import Expression, Fuse, as_expression
from compose.graph.sites import Vocabulary
from compose.heads.build import build_head
from compose.heads.head import Head
from compose.heads.output import MultiHeadOutput
from compose.heads.spec import HeadConfig
from compose.methods.adapter import Adapter
from compose.methods.config import Config
from compose.methods.fusion.spec import FusionOptions
from compose.methods.fusion.whole import Fusion
from compose.methods.registry import make_config
from compose.runtime import files, fresh, merge, state
from compose.runtime.accepts import Accepts
from compose.runtime.defaults import default_plan, use
from compose.runtime.eject import eject_prefix_tuning
from compose.runtime.fusions import new_fusion
from compose.runtime.hooks import Hooks, trained_before
from compose.runtime.host import host_of
from compose.runtime.named import NamedModules
from compose.runtime.plans import RunnablePlans
from compose.runtime.precision import precision_of
from compose.runtime.regimes import Regime, Trainable, train_only
from compose.runtime.runnable import RunnablePlan
from compose.runtime.summary import Summary, summarize


class Model(nn.Module):
    """A backbone that adapters, fusions and heads are combined over.

    Made by `compose.load` and `compose.attach`. The backbone is frozen; its modules stay as they are, and
    `detach` gives it back bit for bit.

    Args:
        backbone: a base model of transformers.
        anatomy: where its sites are.
        tokenizer: turns text into inputs, for `predict`; None where there is none.
        source: how to get the backbone again: a name, a hub id or a folder.
    """

    def __init__(self, backbone: nn.Module, anatomy: Anatomy, tokenizer: Any = None, source: str | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = anatomy.spec
        self.accepts = Accepts.of(backbone)
        self.tokenizer = tokenizer
        self.source = source
        self.adapters = NamedModules("adapter")
        self.fusions = NamedModules("fusion")
        self.heads = NamedModules("head")
        self.plans = PlanCache()
        self.drop_generator = random.Random(0)
        self.version = 0
        self.hooks = Hooks(anatomy, trained_before(backbone))
        self._active: Expression | None = None
        self._runnable = RunnablePlans()
        self.training = backbone.training
        backbone.requires_grad_(False)
        self.hooks.install()

    @property
    def config(self) -> Any:
        """The backbone's transformers configuration."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

    @property
    def precision(self) -> str:
        """What the backbone computes in: `float32`, `bf16`, or the name of another type of torch's."""
        return precision_of(next(self.backbone.parameters()).dtype)

    @property
    def adapter_dtype(self) -> torch.dtype:
        """The type of adapters, fusions and heads: the backbone's if it is float32 or float64, else float32."""
        dtype = next(self.backbone.parameters()).dtype
        return dtype if dtype in (torch.float32, torch.float64) else torch.float32

    @property
    def vocabulary(self) -> Vocabulary:
        """What names in an expression stand for."""
        return Vocabulary(self.spec, self.adapters.specs, self.fusions.specs)

    # what it holds

    def add_adapter(self, name: str, config: str | Config = "seq_bn", **options: Any) -> Adapter:
        """Adds a fresh adapter.

        Args:
            name: its name: letters, digits and `_ - .`, at most 64.
            config: a method or preset, or a config.
            **options: options that differ from it.

        Raises:
            RegistryError: if the name is taken or not legal.
            ConfigError: if an option is unknown or out of range.
        """
        return fresh.add_adapter(self, name, make_config(config, **options))

    def add_fusion(self, fuse: Fuse | str, config: str | FusionOptions = "dynamic", **options: Any) -> Fusion:
        """Adds fresh weights for a Fuse, at every site where one of its children acts.

        Args:
            fuse: the block, or its text; the weights are kept under its own name.
            config: `dynamic` (attention with a value matrix), `static` (without), `scalearn`,
                `scalearn_uniform`, `scalearn++`, `scalearn_uniform++` (learned scales), or a config.
            **options: options that differ from it.

        Raises:
            ExpressionError: if it is no Fuse, or has no name.
            RegistryError: if the name is taken, or an adapter is unknown.
            CompileError: if an adapter has no increment that could be weighed.
            ConfigError: if an option is unknown or out of range.
        """
        fusion = new_fusion(self, fuse, config, options)
        self.register(self.fusions, fusion.name, fusion)
        return fusion

    def add_head(self, name: str, kind: str | HeadConfig | nn.Module = "classification", **options: Any) -> Head:
        """Adds a fresh head.

        Args:
            name: its name, and so its task's.
            kind: `classification`, `tagging`, `question_answering`, `causal_lm`, `masked_lm`, a config, or any module.
            **options: those of the kind, as `labels=["yes", "no"]`.

        Raises:
            RegistryError: if the name is taken or not legal.
            ConfigError: if an option is unknown or out of range.
        """
        self.heads.require_free(name)
        head = build_head(name, kind, host_of(self), **options)
        self.register(self.heads, name, head)
        return head

    def delete_adapter(self, name: str) -> None:
        """Forgets an adapter; plans that use it say so when called. RegistryError: there is none, or it is merged."""
        merge.check_apart(self, name)
        self.adapters.remove(name)
        self.version += 1

    def delete_fusion(self, name: str) -> None:
        """Forgets a fusion. RegistryError: there is none."""
        self.fusions.remove(name)
        self.version += 1

    def eject_prefix_tuning(self, name: str) -> Adapter:
        """Turns a prefix that an MLP makes into a flat one, outputs unchanged. ConfigError: it is no prefix."""
        return eject_prefix_tuning(self, name)

    def delete_head(self, name: str) -> None:
        """Forgets a head. RegistryError: there is none."""
        self.heads.remove(name)
        self.version += 1

    def summary(self) -> Summary:
        """Adapters, fusions and heads with method, parameters, size and whether they are trained; prints well."""
        return summarize(self)

    # what it runs

    def plan(self, expression: Expression, without: Sequence[str] | frozenset[str] = ()) -> RunnablePlan:
        """Compiles an expression, or takes the plan compiled before.

        Args:
            expression: a block, an adapter's name, None for the plain backbone, or the text form.
            without: names of compiler passes to leave out.

        Raises:
            ExpressionError: if the text cannot be read.
            CompileError: if the expression has no meaning over this backbone and these adapters.
        """
        return self._runnable.get(self, expression, without)

    def activate(self, expression: Expression) -> None:
        """Makes the expression's plan the one that `model(...)` runs.

        Raises:
            CompileError: if it has no meaning, as when an adapter is missing; the active plan is as before.
        """
        self._active = self.plan(expression).expression

    @contextmanager
    def using(self, expression: Expression) -> Iterator[RunnablePlan]:
        """Makes the expression's plan the one that `model(...)` runs on this thread, for a while."""
        plan = self.plan(expression)
        with use(self, plan.expression):
            yield plan

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Any = None,
        loss_weights: Mapping[str | int, float] | None = None,
        tasks: Sequence[str | int] | None = None,
        route: Sequence[str] | None = None,
    ) -> MultiHeadOutput:
        """Runs the active plan; see `RunnablePlan.__call__`. Use `plan.states` for a backbone's other arguments."""
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "pixel_values": pixel_values,
            "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
            "decoder_inputs_embeds": decoder_inputs_embeds,
        }
        given: dict[str, Any] = {name: value for name, value in inputs.items() if value is not None}
        plan = self.plan(default_plan(self, self._active))
        return plan(labels=labels, loss_weights=loss_weights, tasks=tasks, route=route, **given)

    def merge(self, *names: str) -> merge.Merging:
        """Multiplies adapters into the backbone's weights, until `unmerge` or the end of a `with`.

        While they are merged, plans of expressions that begin with them run, faster, and all others are refused.
        Raises a `ConfigError` if an adapter has no place in a weight; others as `compose.runtime.merge.merge` says.
        """
        return merge.merge(self, names)

    def unmerge(self, *names: str) -> None:
        """Brings the weights back bit for bit, without some merged adapters, or by default all."""
        merge.unmerge(self, names)

    # how it is trained

    def train_only(
        self,
        expression: Expression,
        regime: Regime = "adapters",
        last: int = 1,
        train_layer_norms: bool = False,
        adapters: Sequence[str] | None = None,
    ) -> Trainable:
        """Sets what of an expression is trained; everything else is frozen.

        Args:
            expression: what is trained in; its heads are always trained.
            regime: `adapters`, `fusion`, `heads`, `last_layers`, `full` (no adapters) or `full+adapters`.
            last: with `last_layers`, how many of the backbone's layers.
            train_layer_norms: the backbone's LayerNorms too.
            adapters: where the regime trains adapters, which of the expression's; None is all of them.

        Returns:
            What is trained, and how many parameters; prints well.

        Raises:
            CompileError: if the expression has no meaning, as when an adapter is missing.
            ConfigError: if the regime is unknown, an adapter is not the expression's, or there is nothing to train.
        """
        return train_only(self, as_expression(expression), regime, last, train_layer_norms, adapters)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Recomputes the layers' activations during backward instead of keeping them.

        Args:
            activation_checkpointing_kwargs: for `torch.utils.checkpoint`, as `{"use_reentrant": False}`.
            **options: others of the transformers version at hand.
        """
        self.hooks.checkpointing.enable(self.backbone, activation_checkpointing_kwargs, options)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """The older name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """Keeps activations again."""
        self.hooks.checkpointing.disable(self.backbone)

    activation_checkpointing_disable = gradient_checkpointing_disable

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Adapters, fusions and heads, and what of the backbone is trained; never its frozen weights."""
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        return state.without_frozen(super().state_dict(*args, **kwargs), self.backbone, f"{prefix}backbone.")

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads what `state_dict` gave; the backbone's frozen weights need not be there."""
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        return state.checked(result, self.backbone, "backbone.", strict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        """A copy with hooks of its own."""
        return state.copied(self, memo)

    def take_over(self, original: Model) -> None:
        """Takes over what else a copy has of its original: the active plan, and what `detach` brings back."""
        self._active, self.hooks.trained = original._active, dict(original.hooks.trained)
        self.drop_generator.setstate(original.drop_generator.getstate())

    def _apply(self, fn: Any, recurse: bool = True) -> Model:
        """Moves and converts the backbone, and adapters with it, but these to `adapter_dtype`."""
        return state.applied(self, fn)

    def __reduce__(self) -> Any:
        raise TypeError("a model with hooks cannot be pickled: use plan.save(folder), or model.state_dict()")

    # files

    def save_adapter(
        self, name: str, folder: str | Path, with_head: bool = False, format: str = "native", **options: Any
    ) -> None:
        """Writes an adapter, and its head if asked for: `native`, `adapterhub` or `peft`; see `io.write_adapter`."""
        files.save_adapter(self, name, folder, with_head, format, options)

    def load_adapter(
        self,
        folder: str | Path,
        name: str | None = None,
        with_head: bool = False,
        allow_backbone: bool = False,
        subtract_projection: bool | None = None,
    ) -> str:
        """Loads an adapter, ours, AdapterHub's or PEFT's, told apart by itself, all of it or nothing; returns its name.

        Args:
            folder: where it is.
            name: its name here; the one it was saved under by default.
            with_head: the head that lies beside it too.
            allow_backbone: load it although it was made for another backbone.
            subtract_projection: True for NoReFT, False for DiReFT, which AdapterHub's files do not tell apart.

        Raises:
            FileError: if it is damaged, incomplete or made for another backbone.
            RegistryError: if the name is taken.
        """
        return files.load_adapter(self, folder, name, with_head, allow_backbone, subtract_projection)

    def save_fusion(self, fuse: Fuse | str, folder: str | Path, format: str = "native") -> None:
        """Writes a fusion's weights; `fuse` is the block or the fusion's own name."""
        files.save_fusion(self, fuse, folder, format)

    def load_fusion(self, folder: str | Path, name: str | None = None, allow_backbone: bool = False) -> str:
        """Loads a fusion, ours or AdapterHub's; returns its name. Raises as `load_adapter`."""
        return files.load_fusion(self, folder, name, allow_backbone)

    def save_head(self, name: str, folder: str | Path, format: str = "native") -> None:
        """Writes a head."""
        files.save_head(self, name, folder, format)

    def load_head(self, folder: str | Path, name: str | None = None, allow_backbone: bool = False) -> str:
        """Loads a head, ours or AdapterHub's; returns its name. Raises as `load_adapter`."""
        return files.load_head(self, folder, name, allow_backbone)

    def detach(self) -> nn.Module:
        """Gives the backbone back as it was before: no hooks, the same weights asking for gradients.

        Where other models are attached to it, it stays frozen until the last of them is detached.
        """
        self.unmerge()
        self.gradient_checkpointing_disable()
        self.hooks.remove()
        self.hooks.thaw(self.backbone)
        return self.backbone

    def register(self, registry: NamedModules, name: str, module: Any) -> None:
        """Keeps a finished module under a free name, on the backbone's device and in the adapters' type."""
        module.to(device=self.device, dtype=self.adapter_dtype)
        module.train(self.training)
        registry.add(name, module, module.spec)
        self.version += 1
