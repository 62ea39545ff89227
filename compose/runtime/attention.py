"""The site `attn.core`: attention over virtual tokens and the layer's own.

Transformers calls the attention function whose name an attention module reads in its configuration. While a hook
site is installed there, the module reads it through a `CoreConfig`: the name of ours for the duration of a call in
which prefixes act there, else the one that the backbone has. So no module, class or entry of the registry is
changed, calls without prefixes run as ever, and which function runs is decided by the call's own frame, on every
thread and in recomputations too. Other ways would be worse: to name our function in the backbone's configuration
would also change which masks are made, what `output_attentions` allows and what a user reads there; to replace
entries of the registry would change every model of the process.

The mask of a call is the same for all layers, prefixes are not: so the mask, too, grows here, not where it is made.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from compose.backbones.resolve import Anatomy
from compose.errors import BackboneError
from compose.methods.prefix.module import PrefixPart
from compose.runtime.bind import BoundProgram
from compose.runtime.frame import Frame, running
from compose.runtime.prefixes import Prefix, run_prefixes

NAME = "compose_prefixes"
"""What our attention function is called among transformers'."""

_ACTING = "core"
"""Where a call's frame holds the attention that runs, from its input until it has called our function."""


@dataclass(frozen=True)
class Core:
    """An attention of a backbone.

    Args:
        key: its layer and site.
        module: its module.
        eager: the plain attention function of its architecture, None if there is none.
        position: the module that makes the relative position bias of its stack, None if there is none (T5: the
            first layer's attention makes that of all).
        score: what is added to the scores of virtual tokens.
    """

    key: tuple[int, str]
    module: Any
    eager: Callable[..., Any] | None
    position: Any | None
    score: float


class CoreConfig:
    """An attention module's configuration, read through.

    Args:
        original: the configuration.
    """

    def __init__(self, original: Any) -> None:
        self.original = original
        self.owners: list[object] = []

    @property
    def _attn_implementation(self) -> Any:
        frame = running.frame
        if frame is not None and _ACTING in frame.scratch:
            return NAME
        return self.original._attn_implementation

    def __getattr__(self, name: str) -> Any:
        if name == "original":  # while a copy is being made
            raise AttributeError(name)
        return getattr(self.original, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of a backbone has a configuration of its own, and no hooks."""
        return copy.deepcopy(self.original, memo)


def cores_of(anatomy: Anatomy) -> Iterator[Core]:
    """The attentions of a backbone."""
    positions: dict[tuple[str, str], Any] = {}
    for layer in anatomy.layers:
        for sublayer in layer.sublayers:
            if sublayer.core is None:
                continue
            stack = (layer.stack, sublayer.name)
            if hasattr(sublayer.core, "relative_attention_bias"):
                positions[stack] = sublayer.core
            home = sys.modules.get(type(sublayer.core).__module__)
            eager = getattr(home, "eager_attention_forward", None)
            key = (layer.index, f"{sublayer.name}.core")
            yield Core(key, sublayer.core, eager, positions.get(stack), sublayer.prefix_score)


def read_through(cores: Mapping[Any, Core], owner: object) -> None:
    """Lets attention modules read their configuration through a `CoreConfig`."""
    for core in cores.values():
        config = getattr(core.module, "config", None)
        if config is not None and not isinstance(config, CoreConfig):
            config = CoreConfig(config)
            core.module.config = config
        if config is not None:
            config.owners.append(owner)


def read_plainly(cores: Mapping[Any, Core], owner: object) -> None:
    """Undoes `read_through`, unless other models are still attached."""
    for core in cores.values():
        config = getattr(core.module, "config", None)
        if isinstance(config, CoreConfig):
            config.owners = [other for other in config.owners if other is not owner]
            if not config.owners:
                core.module.config = config.original


def core_input(core: Core) -> Callable[..., Any]:
    """A pre-hook of an attention module: says that its prefixes are to act."""
    name = next(iter(inspect.signature(core.module.forward).parameters))

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        frame = running.frame
        if frame is not None and core.key in frame.programs:
            frame.scratch[_ACTING] = (core, args[0] if args else kwargs[name])

    return hook


def core_output(core: Core) -> Callable[..., Any]:
    """A hook on an attention module: sees that its prefixes have acted."""

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        frame = running.frame
        if frame is not None and frame.scratch.pop(_ACTING, None) is not None:
            raise BackboneError(
                f"{type(module).__name__} does not call transformers' attention functions, so no prefix can act there",
                where=f"layer {core.key[0]}, site '{core.key[1]}'",
                hint="a newer version of transformers, or adapters at other sites",
            )

    return hook


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> Any:
    """Attention over prefixes and tokens, by the backbone's own attention function.

    Args:
        module: the attention.
        query: [rows, heads, queries, head width].
        key, value: [rows, key heads, keys, head width].
        attention_mask: broadcasts to [rows, heads, queries, keys]: what is visible as bool, or what is added to the
            scores; None where all is visible, or where the function sees to causality itself.
        **options: those of the backbone's function.

    Returns:
        What that function returns.

    Raises:
        BackboneError: if it takes no mask for each pair of tokens.
    """
    frame = running.frame
    assert frame is not None, "the configuration names this function only within a call"
    core, input = frame.scratch.pop(_ACTING)
    implementation = core.module.config.original._attn_implementation
    functions = {"eager": core.eager, "sdpa": ALL_ATTENTION_FUNCTIONS["sdpa"]}
    function = functions.get(implementation)
    if function is None:
        raise BackboneError(
            f"prefixes cannot act in the attention implementation '{implementation}'",
            where=f"layer {core.key[0]}, site '{core.key[1]}'",
            why="it takes no mask for each pair of tokens",
            legal=tuple(functions),
            hint="load the backbone with attn_implementation='sdpa' or 'eager'",
        )
    prefix = run_prefixes(frame, frame.programs[core.key], input, key.shape[1] * key.shape[3])
    queries, keys = query.shape[2], key.shape[2]
    if attention_mask is None and implementation == "sdpa" and queries > 1:
        # It sees to causality itself where there is no mask, but would count the virtual tokens as the row's first.
        causal = options.get("is_causal")
        if getattr(module, "is_causal", True) if causal is None else causal:
            every = torch.ones((1, 1, queries, keys), dtype=torch.bool, device=query.device)
            attention_mask = every.tril()
    if attention_mask is None and (core.score or prefix.visible is not None):
        attention_mask = _all_seen(query, keys, additive=implementation == "eager")
    if attention_mask is not None:
        attention_mask = _with_prefix(frame, core, attention_mask, prefix, query.dtype)
    bias = options.get("position_bias")
    if bias is not None:
        counted = _is_counted(frame.programs[core.key])
        options["position_bias"] = _position_bias(frame, core, bias, prefix, queries, counted)
    states = prefix.states.to(key.dtype).unflatten(3, (key.shape[1], key.shape[3])).transpose(2, 3)
    states = states.expand(-1, len(key), -1, -1, -1)
    key, value = torch.cat([states[0], key], dim=2), torch.cat([states[1], value], dim=2)
    return function(module, query, key, value, attention_mask, **options)


def _with_prefix(frame: Frame, core: Core, mask: Tensor, prefix: Prefix, dtype: torch.dtype) -> Tensor:
    """The mask with a column for each virtual token; made once a call where layers have one mask and one length."""
    place = ("mask with prefix", core.key[1], prefix.length)
    source, grown = frame.repeated.get(place, (None, None))
    if source is not mask:
        seen = _additive(mask, dtype) if core.score and mask.dtype == torch.bool else mask
        grown = functional.pad(seen, (prefix.length, 0), value=True if seen.dtype == torch.bool else core.score)
        frame.repeated[place] = (mask, grown)
    assert grown is not None
    if prefix.visible is None:
        return grown
    columns = functional.pad(prefix.visible, (0, mask.shape[-1]), value=True)[:, None, None]
    if grown.dtype == torch.bool:
        return grown & columns
    return grown.masked_fill(~columns, torch.finfo(grown.dtype).min)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of what is seen as one that is added to the scores."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def _all_seen(query: Tensor, keys: int, additive: bool) -> Tensor:
    """A mask that hides nothing."""
    if additive:
        return query.new_zeros((1, 1, 1, keys))
    return torch.ones((1, 1, 1, keys), dtype=torch.bool, device=query.device)


def _position_bias(frame: Frame, core: Core, bias: Tensor, prefix: Prefix, queries: int, counted: bool) -> Tensor:
    """The relative position bias with a column for each virtual token.

    The virtual tokens have the first positions among the keys and the tokens those after them. Queries keep theirs,
    as in AdapterHub, or where virtual tokens are counted have those of their own keys. Padding is counted nowhere.
    """
    length, keys = prefix.length, bias.shape[3]
    if core.position is None:
        return functional.pad(bias, (length, 0))
    # A stack's layers see equally many tokens; their numbers in a key would be constants of compiled code.
    place = ("position bias with prefix", length)
    source, whole = frame.repeated.get(place, (None, None))
    if source is not core.position:
        whole = core.position.compute_bias(length + keys, length + keys)
        if not whole.requires_grad:
            frame.repeated[place] = (core.position, whole)
    assert whole is not None
    # The last of all keys is that of the last query: what was read before has keys, but no queries.
    first = keys - queries
    if prefix.visible is None:
        return whole.narrow(2, first + length * counted, queries)
    padding = length - prefix.visible.sum(1)
    columns = (torch.arange(length + keys, device=whole.device) - padding[:, None]).clamp(min=0)
    moved = (length - padding)[:, None] * counted
    places = first + torch.arange(queries, device=whole.device) + moved
    rows, heads = len(columns), whole.shape[1]
    own = whole.expand(rows, -1, -1, -1).gather(2, places[:, None, :, None].expand(-1, heads, -1, length + keys))
    return own.gather(3, columns[:, None, None].expand(-1, heads, queries, -1))


def _is_counted(bound: BoundProgram) -> bool:
    """Whether a program's virtual tokens take up positions: all of them, or none, as the plan has been checked for."""
    operations = (operation for step in bound.steps for operation in step.operations)
    return any(isinstance(each.part, PrefixPart) and each.part.config.counted for each in operations)


AttentionInterface.register(NAME, attend)
