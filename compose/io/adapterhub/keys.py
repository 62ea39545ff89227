"""AdapterHub's names of weights: one table per architecture, and how a key is read with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from compose.errors import FileError
from compose.specs import LAYER, BackboneSpec

Kind = Literal[
    "adapters", "loras", "refts", "adapter_fusion_layer", "invertible_adapters", "prompt_tunings", "shared_parameters"
]
KINDS: tuple[Kind, ...] = ("adapters", "loras", "refts", "adapter_fusion_layer")

EMBEDDED: Mapping[Kind, str] = {
    "invertible_adapters": "invertible_adapters.",
    "prompt_tunings": "prompt_tuning.prompt_tunings.",
}
"""How the keys of what acts on the embeddings' output begin."""

LEGACY_PARTS = {
    "attention_text_task_adapters": "adapters",
    "attention_text_lang_adapters": "adapters",
    "layer_text_task_adapters": "adapters",
    "layer_text_lang_adapters": "adapters",
    "invertible_lang_adapters": "invertible_adapters",
}
"""Parts of keys that were called differently before `adapters` 1.0."""


@dataclass(frozen=True)
class StackKeys:
    """One stack of layers; all paths but the first are relative to the layer.

    Args:
        layers: path of the list of layers.
        stack: which of the backbone's stacks it is.
        values: the parents of bottleneck adapters and fusions, and their sub-layer sites.
        linears: the modules that LoRA wraps, and their linear sites; several for a fused map, in order.
    """

    layers: str
    stack: Literal["encoder", "decoder"]
    values: Mapping[str, str]
    linears: Mapping[str, str | tuple[str, ...]]

    def parents(self, kind: Kind) -> Mapping[str, str | tuple[str, ...]]:
        """The modules inside a layer that have weights of a kind, and their sites."""
        return {"loras": self.linears, "refts": {"reft_layer": LAYER}}.get(kind, self.values)


@dataclass(frozen=True)
class ArchitectureKeys:
    """The keys of one architecture.

    Args:
        prefixes: what may stand before them, depending on the class that saved them.
        stacks: its stacks.
        feed_forward_swapped: `intermediate_lora` means the last map of the feed-forward block there, and
            `output_lora` the first.
        model_class: AdapterHub's class with heads; a head is loaded into no other.
        embedded: what can act there on the embeddings' output.
    """

    prefixes: tuple[str, ...]
    stacks: tuple[StackKeys, ...]
    feed_forward_swapped: bool = False
    model_class: str = ""
    embedded: tuple[Kind, ...] = ("invertible_adapters",)


class Place(NamedTuple):
    """Where a tensor belongs.

    Args:
        layer: index of the layer, through encoder, then decoder; -1 at the embeddings.
        sites: its site; several for a fused map, none for what all parts of an adapter share.
        kind: what it is a weight of.
        name: whose weight it is.
        parameter: its name there.
    """

    layer: int
    sites: tuple[str, ...]
    kind: Kind
    name: str
    parameter: str


class Home(NamedTuple):
    """Where weights lie.

    Args:
        path: what stands before their kind: the prefix and the module, up to a dot.
        kind: what they are weights of.
        sites: their site; several for a fused map, in the order of its rows.
    """

    path: str
    kind: Kind
    sites: tuple[str, ...]


_SHARED = re.compile(r"shared_parameters\.([^.]+)\.(.+)")


def _linears(attention: str, projections: str, **feed_forward: str) -> dict[str, str | tuple[str, ...]]:
    """Rows for the attention's q, k, v (`projections`, in this order) and the feed-forward block's maps."""
    attn = {f"{attention}{name}": f"attn.{site}" for name, site in zip(projections.split(), "qkv", strict=True)}
    return {**attn, feed_forward["first"]: "ffn.in", feed_forward["last"]: "ffn.out"}


def _bert(prefix: str, model_class: str) -> ArchitectureKeys:
    return ArchitectureKeys(
        model_class=model_class,
        embedded=("invertible_adapters", "prompt_tunings"),
        prefixes=(prefix,),
        stacks=(
            StackKeys(
                "encoder.layer",
                "encoder",
                {"attention.output": "attn", "output": "ffn"},
                _linears("attention.self.", "query key value", first="intermediate.dense", last="output.dense"),
            ),
        ),
    )


_T5_SELF: Mapping[str, str | tuple[str, ...]] = {f"layer.0.SelfAttention.{site}": f"attn.{site}" for site in "qkv"}
_T5_CROSS: Mapping[str, str | tuple[str, ...]] = {
    f"layer.1.EncDecAttention.{site}": f"cross.attn.{site}" for site in "qkv"
}


def _t5_feed_forward(index: int) -> dict[str, str | tuple[str, ...]]:
    path = f"layer.{index}.DenseReluDense"
    return {f"{path}.wi": "ffn.in", f"{path}.wi_1": "ffn.in", f"{path}.wo": "ffn.out"}


KEYS: Mapping[str, ArchitectureKeys] = {
    "bert": _bert("bert.", "BertAdapterModel"),
    "roberta": _bert("roberta.", "RobertaAdapterModel"),
    "distilbert": ArchitectureKeys(
        model_class="DistilBertAdapterModel",
        embedded=("invertible_adapters", "prompt_tunings"),
        prefixes=("distilbert.",),
        stacks=(
            StackKeys(
                "transformer.layer",
                "encoder",
                {"attention_adapters": "attn", "output_adapters": "ffn"},
                _linears("attention.", "q_lin k_lin v_lin", first="ffn.lin1", last="ffn.lin2"),
            ),
        ),
    ),
    "gpt2": ArchitectureKeys(
        model_class="GPT2AdapterModel",
        prefixes=("transformer.",),
        stacks=(
            StackKeys(
                "h",
                "decoder",
                {"attention_adapters": "attn", "output_adapters": "ffn"},
                {
                    "attn.c_attn": ("attn.q", "attn.k", "attn.v"),
                    "mlp.c_fc": "ffn.in",
                    "mlp.c_proj": "ffn.out",
                },
            ),
        ),
    ),
    "llama": ArchitectureKeys(
        model_class="LlamaAdapterModel",
        prefixes=("model.",),
        stacks=(
            StackKeys(
                "layers",
                "decoder",
                {"attention_adapters": "attn", "output_adapters": "ffn"},
                _linears("self_attn.", "q_proj k_proj v_proj", first="mlp.up_proj", last="mlp.down_proj"),
            ),
        ),
        feed_forward_swapped=True,
    ),
    "t5": ArchitectureKeys(
        model_class="T5AdapterModel",
        prefixes=("transformer.",),
        stacks=(
            StackKeys(
                "encoder.block",
                "encoder",
                {"layer.0": "attn", "layer.1": "ffn"},
                {**_T5_SELF, **_t5_feed_forward(1)},
            ),
            StackKeys(
                "decoder.block",
                "decoder",
                {"layer.0": "attn", "layer.1": "cross.attn", "layer.2": "ffn"},
                {**_T5_SELF, **_T5_CROSS, **_t5_feed_forward(2)},
            ),
        ),
    ),
    "vit": ArchitectureKeys(
        model_class="ViTAdapterModel",
        embedded=("prompt_tunings",),
        prefixes=("vit.",),
        stacks=(
            StackKeys(
                "encoder.layer",
                "encoder",
                {"attention_adapters": "attn", "output.output_adapters": "ffn"},
                _linears("attention.attention.", "query key value", first="intermediate.dense", last="output.dense"),
            ),
        ),
    ),
}


@dataclass(frozen=True)
class KeyTable:
    """The keys of one backbone: reads and writes them.

    Args:
        keys: the table of its architecture.
        backbone: its spec.
        modules: the names of its modules, which tell between several that could be meant; for writing.
    """

    keys: ArchitectureKeys
    backbone: BackboneSpec
    modules: frozenset[str] = frozenset()
    _first: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        first: dict[str, int] = {}
        for layer in self.backbone.layers:
            first.setdefault(layer.stack, layer.index)
        object.__setattr__(self, "_first", first)

    @classmethod
    def of(cls, backbone: BackboneSpec, where: str, modules: frozenset[str] = frozenset()) -> KeyTable:
        """The table for a backbone.

        Raises:
            FileError: AdapterHub's keys for its architecture are not known; names `where`.
        """
        keys = KEYS.get(backbone.architecture)
        if keys is None:
            raise FileError(
                f"there are no folders of AdapterHub's for backbones of architecture '{backbone.architecture}'",
                where=where,
                got=backbone.architecture,
                legal=tuple(KEYS),
            )
        return cls(keys, backbone, modules)

    def read(self, key: str) -> Place | str:
        """Where the tensor of a key belongs.

        Returns:
            Its place, or in words why it has none.
        """
        for old, new in LEGACY_PARTS.items():
            key = key.replace(f"{old}.", f"{new}.")
        for prefix in self.keys.prefixes:
            # No prefix is the name of a module inside its backbone, except DistilBERT's `transformer`,
            # which is not one of its prefixes: none is stripped in error.
            key = key.removeprefix(prefix)
        shared = _SHARED.fullmatch(key)
        if shared:
            return Place(len(self.backbone.layers), (), "shared_parameters", shared[1], shared[2])
        for stack in self.keys.stacks:
            match = re.fullmatch(rf"{re.escape(stack.layers)}\.(\d{{1,6}})\.(.+)", key)
            if match:
                return self._read_layer(stack, int(match[1]), match[2])
        # An encoder-decoder has them in its encoder.
        inner = key.removeprefix("encoder.") if self.backbone.encoder_decoder else key
        for kind, start in EMBEDDED.items():
            if inner.startswith(start):
                layer, site = self.backbone.embed_key
                name, _, parameter = inner.removeprefix(start).partition(".")
                return Place(layer, (site,), kind, name, parameter)
        return f"there is no such module in a {self.backbone.architecture} backbone"

    def _read_layer(self, stack: StackKeys, number: int, rest: str) -> Place | str:
        count = sum(layer.stack == stack.stack for layer in self.backbone.layers)
        if number >= count:
            return f"the backbone's {stack.stack} has {count} layers, 0 to {count - 1}"
        layer = self._first[stack.stack] + number
        for kind in KINDS:
            for parent, site in stack.parents(kind).items():
                start = f"{parent}.{kind}."
                if rest.startswith(start):
                    name, _, parameter = rest.removeprefix(start).partition(".")
                    return Place(layer, (site,) if isinstance(site, str) else site, kind, name, parameter)
        return "no adapter, LoRA or fusion can be there"

    def home(self, layer: int, site: str, kinds: Iterable[Kind]) -> Home | None:
        """Where the weights of a site lie.

        Args:
            layer: index of the layer, through encoder, then decoder; -1 at the embeddings.
            site: name of the site.
            kinds: what of is looked for; the first that can lie there counts.

        Returns:
            None if nothing of these kinds can act at the site.
        """
        find = self._embedded if (layer, site) == self.backbone.embed_key else self._inside
        homes = (find(layer, site, kind) for kind in kinds)
        return next((home for home in homes if home is not None), None)

    @property
    def shared(self) -> Home:
        """Where the weights lie that all parts of an adapter share."""
        return Home(self.keys.prefixes[0], "shared_parameters", ("",))

    def _embedded(self, layer: int, site: str, kind: Kind) -> Home | None:
        if kind not in self.keys.embedded:
            return None
        stack = "encoder." if self.backbone.encoder_decoder else ""
        return Home(f"{self.keys.prefixes[0]}{stack}{EMBEDDED[kind].removesuffix(f'{kind}.')}", kind, (site,))

    def _inside(self, layer: int, site: str, kind: Kind) -> Home | None:
        if kind not in KINDS:
            return None
        stack = next(each for each in self.keys.stacks if each.stack == self.backbone.layers[layer].stack)
        layer_path = f"{stack.layers}.{layer - self._first[stack.stack]}"
        found: list[tuple[str, tuple[str, ...]]] = []
        for parent, named in stack.parents(kind).items():
            sites = (named,) if isinstance(named, str) else named
            if site in sites:
                found.append((f"{layer_path}.{parent}", sites))
        there = [row for row in found if row[0] in self.modules]
        return next((Home(f"{self.keys.prefixes[0]}{path}.", kind, sites) for path, sites in there or found), None)
