"""The presets: names for options of a method, AdapterHub's names included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SEQ_BN: Mapping[str, Any] = {
    "mh_adapter": False,
    "output_adapter": True,
    "reduction_factor": 16,
    "non_linearity": "relu",
    "original_ln_before": True,
}
DOUBLE_SEQ_BN: Mapping[str, Any] = {
    "mh_adapter": True,
    "output_adapter": True,
    "reduction_factor": 16,
    "non_linearity": "swish",
    "original_ln_before": False,
}
INVERTIBLE: Mapping[str, Any] = {"inv_adapter": "nice", "inv_adapter_reduction_factor": 2.0}
SEQ_BN_INV: Mapping[str, Any] = {**SEQ_BN, **INVERTIBLE}
DOUBLE_SEQ_BN_INV: Mapping[str, Any] = {**DOUBLE_SEQ_BN, **INVERTIBLE}
PAR_BN: Mapping[str, Any] = {
    "mh_adapter": False,
    "output_adapter": True,
    "reduction_factor": 2,
    "non_linearity": "relu",
    "original_ln_before": False,
    "is_parallel": True,
    "scaling": 4.0,
    "init_weights": "mam_adapter",
}
SCALED_PAR_BN: Mapping[str, Any] = {**PAR_BN, "scaling": "learned"}
ADAPTER_PLUS: Mapping[str, Any] = {
    "mh_adapter": False,
    "output_adapter": True,
    "reduction_factor": 96,
    "non_linearity": "gelu",
    "original_ln_before": True,
    "original_ln_after": False,
    "residual_before_ln": False,
    "stochastic_depth": 0.1,
    "init_weights": "houlsby",
    "scaling": "channel",
}
NO_REFT: Mapping[str, Any] = {"orthogonality": False}
DI_REFT: Mapping[str, Any] = {**NO_REFT, "subtract_projection": False}

COMPACTER: Mapping[str, Any] = {**DOUBLE_SEQ_BN, "reduction_factor": 32, "non_linearity": "gelu"}
COMPACTER_PLUS: Mapping[str, Any] = {**SEQ_BN, "reduction_factor": 32, "non_linearity": "gelu"}
BITFIT_PARTIAL: Mapping[str, Any] = {"selfattn": ("q",), "crossattn": ("q",), "ffn": ("in",)}
MAM: Mapping[str, Any] = {"configs": ({"method": "prefix_tuning", "bottleneck_size": 800}, {"method": "par_bn"})}
UNIPELT: Mapping[str, Any] = {
    "configs": (
        {"method": "prefix_tuning", "prefix_length": 10, "use_gating": True},
        {"method": "seq_bn", "use_gating": True},
        {"method": "lora", "alpha": 2, "use_gating": True},
    )
}


@dataclass(frozen=True)
class Preset:
    """A row of the table: a method and what differs from its defaults."""

    method: str
    options: Mapping[str, Any]
    about: str


PRESETS: Mapping[str, Preset] = {
    "seq_bn": Preset("bottleneck", SEQ_BN, "a bottleneck after the feed-forward block (Pfeiffer et al., 2020)"),
    "pfeiffer": Preset("bottleneck", SEQ_BN, "an older name of seq_bn"),
    "double_seq_bn": Preset("bottleneck", DOUBLE_SEQ_BN, "two bottlenecks a layer (Houlsby et al., 2019)"),
    "houlsby": Preset("bottleneck", DOUBLE_SEQ_BN, "an older name of double_seq_bn"),
    "seq_bn_inv": Preset("bottleneck", SEQ_BN_INV, "seq_bn with an invertible part (MAD-X, Pfeiffer et al., 2020)"),
    "pfeiffer+inv": Preset("bottleneck", SEQ_BN_INV, "an older name of seq_bn_inv"),
    "double_seq_bn_inv": Preset("bottleneck", DOUBLE_SEQ_BN_INV, "double_seq_bn with an invertible part"),
    "houlsby+inv": Preset("bottleneck", DOUBLE_SEQ_BN_INV, "an older name of double_seq_bn_inv"),
    "par_bn": Preset("bottleneck", PAR_BN, "a bottleneck beside the feed-forward block (He et al., 2021)"),
    "parallel": Preset("bottleneck", PAR_BN, "an older name of par_bn"),
    "scaled_par_bn": Preset("bottleneck", SCALED_PAR_BN, "par_bn with a learned scaling"),
    "scaled_parallel": Preset("bottleneck", SCALED_PAR_BN, "an older name of scaled_par_bn"),
    "adapter_plus": Preset("bottleneck", ADAPTER_PLUS, "Adapter+ (Steitz and Roth, 2024)"),
    "compacter": Preset(
        "compacter", COMPACTER, "double_seq_bn with sums of Kronecker products as maps (Karimi Mahabadi et al., 2021)"
    ),
    "compacter++": Preset("compacter", COMPACTER_PLUS, "the same as seq_bn, after the feed-forward block alone"),
    "lora": Preset("lora", {}, "low-rank increments of the query and value maps (Hu et al., 2021)"),
    "rslora": Preset("lora", {"use_rslora": True}, "lora scaled by alpha / sqrt(r) (Kalajdzievski, 2023)"),
    "ia3": Preset("ia3", {}, "scalings of keys, values and the feed-forward's inside (Liu et al., 2022)"),
    "dora": Preset("dora", {}, "lora of a weight's direction, and its magnitudes apart (Liu et al., 2024)"),
    "vera": Preset("vera", {}, "vectors between random factors that all maps share (Kopiczko et al., 2023)"),
    "dvora": Preset("dvora", {}, "vera of a weight's direction, and its magnitudes apart (Liu et al., 2024)"),
    "mtl_lora": Preset("mtl_lora", {}, "lora with a task's own matrix in the middle (Yang et al., 2024)"),
    "loreft": Preset("reft", {}, "states of the first tokens moved in an orthogonal subspace (Wu et al., 2024)"),
    "noreft": Preset("reft", NO_REFT, "loreft without the orthogonality"),
    "direft": Preset("reft", DI_REFT, "noreft that adds to the states instead of moving them to a target"),
    "prompt_tuning": Preset("prompt_tuning", {}, "learned vectors before the embeddings (Lester et al., 2021)"),
    "prefix_tuning": Preset("prefix_tuning", {}, "virtual tokens before the keys and values (Li and Liang, 2021)"),
    "prefix_tuning_flat": Preset("prefix_tuning", {"flat": True}, "prefix_tuning without the MLP that makes them"),
    "bitfit": Preset("bitfit", {}, "the backbone's biases (Ben Zaken et al., 2022)"),
    "bitfit_partial": Preset("bitfit", BITFIT_PARTIAL, "those of queries and the feed-forward block's first map"),
    "mam": Preset("union", MAM, "prefix_tuning and par_bn together (He et al., 2022)"),
    "unipelt": Preset("union", UNIPELT, "prefix_tuning, seq_bn and lora together, each with a gate (Mao et al., 2022)"),
    "layer_aggregation": Preset("layer_aggregation", {}, "attention over the states of all layers (Basirat, 2024)"),
}
