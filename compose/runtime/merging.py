"""Adapters of a model merged into one more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compose.errors import ConfigError
from compose.io.merging import merge_records
from compose.methods.adapter import Adapter
from compose.methods.merging.merge import Merge
from compose.runtime import files

if TYPE_CHECKING:
    from compose.runtime.model import Model


def merge_adapters(
    model: Model, names: Sequence[str], into: str, kind: str = "linear", with_heads: bool = False, **options: Any
) -> Adapter:
    """Adds an adapter that is made of several of one method and one configuration.

    Merging acts on weights, and `Average` on what adapters compute: the two are equal only for `concat`, and for
    `svd` of a sufficient rank, both of LoRAs (`Average(..., weights=..., normalize=False)`).

    Args:
        model: the model.
        names: the adapters to merge; they stay as they are.
        into: the name of the new one.
        kind: `linear`, `task_arithmetic`, `ties`, `dare_linear`, `dare_ties`, and for LoRAs `concat`, `svd`,
            `ties_svd`, `dare_linear_svd`, `dare_ties_svd`.
        with_heads: merge the heads of the adapters' names too; these must have the same labels.
        **options: `weights`, `density`, `scale`, `rank` and `seed`; see `compose.methods.merging.merge.Merge`.

    Raises:
        RegistryError: there is no adapter or head of a name, or the new name is taken or not legal.
        ConfigError: an option is unknown or out of range, or the adapters differ in what merging needs equal.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"names must be a list of adapters' names, not {names!r}", hint='["a", "b"]')
    merge = Merge.make(kind=kind, **options)
    model.adapters.require(*names)
    model.adapters.require_free(into)
    if with_heads:
        model.heads.require(*names)
        model.heads.require_free(into)
    records = [files.adapter_record(model, name, with_heads) for name in names]
    record = merge_records(records, into, merge, with_heads)
    files.keep_adapter(model, record)
    adapter: Adapter = model.adapters[into]
    return adapter
