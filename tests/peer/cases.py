"""The cases: presets and options, compositions and heads, each on the architectures that AdapterHub takes it on.

A method is a row of `ADAPTERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from compose import BatchSplit, Fuse, Parallel, Stack
from compose.dsl import Expression
from tests import tiny

ALL = tuple(tiny.CONFIGS)
ENCODERS = ("bert", "roberta", "distilbert")
CAUSAL = ("gpt2", "llama")
TEXT = tuple(name for name in ALL if name != "vit")
OF_ONE_WIDTH = tuple(name for name in ALL if name not in CAUSAL)
UNFUSED = tuple(name for name in ALL if name != "gpt2")
PREFIXED = tuple(name for name in ALL if name not in ("gpt2", "llama"))
"""Where AdapterHub's prefixes have an effect."""
AS_DORA = {"scaled_norm": False, "scaled_bias": True}
"""DoRA as AdapterHub computes it."""


class AdapterCase(NamedTuple):
    """An adapter alone.

    Args:
        preset: a preset or method of ours.
        options: that differ from it.
        architectures: where it is tried.
    """

    preset: str
    options: Mapping[str, Any]
    architectures: tuple[str, ...] = ALL


class HeadCase(NamedTuple):
    """An adapter with a head."""

    kind: str
    options: Mapping[str, Any]
    architectures: tuple[str, ...]


ADAPTERS: Mapping[str, AdapterCase] = {
    "seq_bn": AdapterCase("seq_bn", {}),
    "double_seq_bn": AdapterCase("double_seq_bn", {}),
    "par_bn": AdapterCase("par_bn", {}),
    "scaled_par_bn": AdapterCase("scaled_par_bn", {}),
    "adapter_plus": AdapterCase("adapter_plus", {"stochastic_depth": 0.0}),
    "norms": AdapterCase("seq_bn", {"ln_before": True, "ln_after": True, "residual_before_ln": False}),
    "post_add": AdapterCase("seq_bn", {"residual_before_ln": "post_add"}, ("bert", "roberta", "distilbert")),
    "gated": AdapterCase("double_seq_bn", {"use_gating": True, "scaling": "channel"}),
    "factors": AdapterCase("seq_bn", {"reduction_factor": {"0": 4, "default": 8}}),
    "size": AdapterCase("seq_bn", {"bottleneck_size": 5, "leave_out": [0]}),
    "cross": AdapterCase("seq_bn", {"cross_adapter": True}, ("t5",)),
    "prelu": AdapterCase("seq_bn", {"non_linearity": "prelu"}, ("bert", "gpt2")),
    "lora": AdapterCase("lora", {"alpha": 16}),
    "lora_all": AdapterCase(
        "lora", {"attn_matrices": ["q", "k", "v"], "intermediate_lora": True, "output_lora": True, "r": 3}
    ),
    "lora_gated": AdapterCase("lora", {"use_gating": True, "attn_matrices": ["k"], "leave_out": [1]}),
    "lora_ffn": AdapterCase("lora", {"selfattn_lora": False, "intermediate_lora": True}),
    "inv": AdapterCase("seq_bn_inv", {}, TEXT),  # its glow fails wherever it is run
    "compacter": AdapterCase("compacter", {"reduction_factor": 4}),
    "compacter_shared": AdapterCase("compacter++", {"reduction_factor": 4, "shared_W_phm": True}),
    "compacter_own": AdapterCase("compacter", {"reduction_factor": 4, "shared_phm_rule": False}),
    "ia3": AdapterCase("ia3", {}),
    "ia3_gated": AdapterCase("ia3", {"use_gating": True, "attn_matrices": ["q"], "output_lora": True}),
    "dora": AdapterCase("dora", AS_DORA, UNFUSED),
    "vera": AdapterCase("vera", {"square": True, "r": 4}, OF_ONE_WIDTH),
    "dvora": AdapterCase("dvora", {"square": True, **AS_DORA}, OF_ONE_WIDTH),
    "mtl_lora": AdapterCase("mtl_lora", {"n_up_projection": 2}, UNFUSED),
    "rslora": AdapterCase("rslora", {"r": 4}),
    "loreft": AdapterCase("loreft", {"r": 3, "suffix_positions": 2}, ENCODERS),
    "loreft_prefix": AdapterCase("loreft", {"r": 3}),
    "noreft": AdapterCase("noreft", {"tied_weights": True, "suffix_positions": 1}, (*ENCODERS, *CAUSAL)),
    "prompt": AdapterCase("prompt_tuning", {"adapterhub_mask": True}, ("bert", "roberta", "vit")),
    "prefix": AdapterCase("prefix_tuning", {"prefix_length": 3, "bottleneck_size": 4}, PREFIXED),
    "flat": AdapterCase("prefix_tuning_flat", {"prefix_length": 3, "leave_out": [0]}, ("bert", "roberta", "vit")),
    # On T5 it forgets the position bias where its first layer has no prefix.
    "flat_all": AdapterCase("prefix_tuning_flat", {"prefix_length": 3}, PREFIXED),
    "prefix_gated": AdapterCase("prefix_tuning", {"prefix_length": 3, "use_gating": True}, ("bert",)),
}

COMPOSITIONS: Mapping[str, tuple[Expression, tuple[str, ...]]] = {
    "stack": (Stack("a", "d"), ALL),
    "fuse": (Fuse("a", "b"), ALL),
    "fuse_double": (Fuse("d", "e"), ALL),
    "stack_fuse": (Stack("c", Fuse("a", "b")), ALL),
    "parallel": (Parallel("a", "b"), ALL),
    "batch_split": (BatchSplit("a", "b", sizes=[1, 2]), ("bert", "gpt2")),
}
"""Over adapters a, b, c with one bottleneck a layer, and d, e with two."""

FUSIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "static": ("static", {}),
    "before_norm": ("dynamic", {"query_before_ln": True}),
    "residual_before": ("dynamic", {"residual_before": True}),
    "static_residual_before": ("static", {"residual_before": True}),
    "value_after": ("dynamic", {"value_before_softmax": False}),
    "no_key": ("dynamic", {"key": False}),
    "no_query": ("dynamic", {"query": False}),
    "nothing": ("static", {"query": False, "key": False}),
    "all": ("dynamic", {"query_before_ln": True, "residual_before": True, "value_before_softmax": False}),
}
"""The options of attention, over adapters a and b, on FUSED."""
FUSED = ("bert", "gpt2", "t5")

HEADS: Mapping[str, HeadCase] = {
    "classification": HeadCase("classification", {"labels": 3, "layers": 2}, ENCODERS),
    "pooler": HeadCase("classification", {"use_pooler": True, "activation": None}, ("bert",)),
    "causal": HeadCase("classification", {"pooling": "adapterhub", "layers": 2}, CAUSAL),
    "regression": HeadCase("regression", {"bias": False}, ENCODERS),
    "multi_label": HeadCase("multi_label", {"labels": ["x", "y", "z"], "activation": "relu"}, ENCODERS),
    "tagging": HeadCase("tagging", {"labels": 5, "layers": 2}, (*ENCODERS, *CAUSAL)),
    "question_answering": HeadCase("question_answering", {"layers": 2}, (*ENCODERS, *CAUSAL)),
    "causal_lm": HeadCase("causal_lm", {"layers": 2, "bias": True}, CAUSAL),
    "masked_lm": HeadCase("masked_lm", {}, ENCODERS),
    "images": HeadCase("image_classification", {"labels": 4}, ("vit",)),
}
