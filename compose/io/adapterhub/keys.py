"""AdapterHub's names of modules: one table per architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from compose.specs import LAYER

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
    "xlm-roberta": _bert("roberta.", "XLMRobertaAdapterModel"),
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
