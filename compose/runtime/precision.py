"""The number type that a frozen backbone computes in. Adapters, fusions and heads beside it stay in float32."""

from __future__ import annotations

import copy
import platform
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from compose.errors import ConfigError
from compose.runtime.hooks import hooks_on, strip

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
"""What `precision=` may be, and the type of the backbone's weights that it means."""


class SlowPrecisionWarning(UserWarning):
    """The machine has no instructions for the precision asked for: right answers, but slower than float32's."""


def dtype_of(precision: str) -> torch.dtype:
    """The type of a backbone's weights in a precision.

    Raises:
        ConfigError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"there is no precision {precision!r}", got=str(precision), legal=tuple(PRECISIONS))
    return PRECISIONS[precision]


def precision_of(dtype: torch.dtype) -> str:
    """The name of a type: a precision's, else torch's own.

    >>> precision_of(torch.bfloat16), precision_of(torch.float64)
    ('bf16', 'float64')
    """
    return next((name for name, own in PRECISIONS.items() if own == dtype), str(dtype).removeprefix("torch."))


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model itself if its weights have the type, else a copy whose weights have; the given one stays as it is.

    Weights that are stored in less than two bytes (quantised ones) stay what they are, and so do buffers that no
    file holds: tables of frequencies and the like, which architectures keep in float32 on purpose.
    """
    kept = model.state_dict(keep_vars=True)
    weights = {id(tensor): tensor for tensor in [*model.parameters(), *kept.values()] if _converts(tensor, dtype)}
    if not weights:
        return model
    # Told beforehand what weights become, the copy never holds them in the old type.
    memo: dict[int, Any] = {key: _converted(tensor, dtype) for key, tensor in weights.items()}
    made = copy.deepcopy(model, memo)
    attached = hooks_on(model)  # other models, which froze it, and whose hooks were copied too
    strip(made)
    for name, parameter in made.named_parameters() if attached else ():
        parameter.requires_grad_(attached[0].trained[name])
    if getattr(made, "config", None) is not None:
        made.config.dtype = dtype
    return made


def warn_if_slow(dtype: torch.dtype, device: torch.device) -> None:
    """Warns where the CPU computes bf16 in software."""
    if dtype == torch.bfloat16 and device.type == "cpu" and not has_native_bf16():
        warnings.warn(
            "this CPU has no bf16 instructions (AVX512-BF16, AMX): bf16 halves the backbone's memory, "
            "but is slower than float32 here",
            SlowPrecisionWarning,
            stacklevel=3,
        )


def has_native_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware."""
    if platform.machine().lower() in ("x86_64", "amd64", "i386", "i686"):
        # torch tells its own CPU dispatch only by these; where a release lacks one the feature counts as missing.
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, check, bool)() for check in checks)
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _converts(tensor: Any, dtype: torch.dtype) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.is_floating_point()
        and tensor.dtype.itemsize >= 2
        and tensor.dtype != dtype
    )


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    values = tensor.detach().to(dtype)
    return nn.Parameter(values, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values
