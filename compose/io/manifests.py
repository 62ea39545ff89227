"""What manifests of the native format say, without the weights beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from compose.errors import ComposeError, FileError, Problem
from compose.heads.spec import CustomConfig, HeadConfig, make_head_config
from compose.io.records import as_file_error
from compose.methods.config import Config
from compose.methods.fusion.spec import FusionOptions
from compose.methods.fusions import fusion_config_from_dict
from compose.methods.registry import config_from_dict

VERSION = 1
"""Version of the format. A change that older readers would misread raises it."""

_COMMON = ("name", "kind", "version", "fingerprint", "meta", "sha256")
KEYS = {
    "adapter": (*_COMMON, "method", "config", "expression", "head", "sparse"),
    "fusion": (*_COMMON, "method", "config", "children"),
    "head": (*_COMMON, "config"),
}
"""The keys that manifests have."""


def check_manifest(manifest: Mapping[str, Any], kind: str, where: str) -> None:
    """Refuse a manifest of something else, or of a newer format."""
    if manifest.get("kind") != kind:
        raise FileError(f"'kind' is {manifest.get('kind')!r}, not '{kind}'", where=where)
    version = manifest.get("version")
    if type(version) is not int or version < 1:
        raise FileError(f"'version' is {version!r}, not a number", where=where)
    if version > VERSION:
        raise FileError(
            f"written in version {version} of the format, this program reads up to {VERSION}",
            where=where,
            hint="a newer version of compose-adapters",
        )


def check_keys(manifest: Mapping[str, Any], kind: str, where: str) -> None:
    """Refuse keys that manifests of a kind do not have."""
    problems = [
        Problem(f"there is no key '{key[:80]}' in a manifest of this version", where=where, got=key, legal=KEYS[kind])
        for key in manifest
        if key not in KEYS[kind]
    ]
    if problems:
        raise FileError(problems)


def config_in(manifest: Mapping[str, Any], kind: str, where: str) -> Config | FusionOptions | HeadConfig:
    """The config in the manifest of an adapter, a fusion or a head; see `method_config`."""
    return _READERS[kind](manifest, where)


def method_config(manifest: Mapping[str, Any], where: str) -> Config:
    """The config in the manifest of an adapter.

    Raises:
        FileError: there is none, or none that this version knows.
    """
    method = manifest.get("method")
    if not isinstance(method, str):
        raise FileError(f"'method' is {method!r}, not a name", where=where)
    try:
        return config_from_dict(method, object_in(manifest, "config", where))
    except ComposeError as error:
        raise _in_file(error, where) from error


def fusion_config(manifest: Mapping[str, Any], where: str) -> FusionOptions:
    """The config in the manifest of a fusion; see `method_config`."""
    method = str(manifest.get("method", "adapter_fusion"))  # files from before there were other kinds name none
    try:
        return fusion_config_from_dict(method, object_in(manifest, "config", where))
    except ComposeError as error:
        raise _in_file(error, where) from error


def head_config(manifest: Mapping[str, Any], where: str) -> HeadConfig:
    """The config in the manifest of a head; see `method_config`."""
    options = object_in(manifest, "config", where)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        raise FileError(f"'kind' of the head is {kind!r}, not a name", where=where)
    if kind == CustomConfig.kind:
        return CustomConfig(str(options.get("module", "")))
    try:
        return make_head_config(kind, **options)
    except ComposeError as error:
        raise _in_file(error, where) from error


def object_in(manifest: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """An object in a manifest. FileError: it is something else."""
    value = manifest.get(key)
    if not isinstance(value, dict):
        raise FileError(f"'{key}' is not an object", where=where)
    return dict(value)


def _in_file(error: ComposeError, where: str) -> FileError:
    return error if isinstance(error, FileError) else as_file_error(error, where)


_READERS: Mapping[str, Callable[[Mapping[str, Any], str], Config | FusionOptions | HeadConfig]] = {
    "adapter": method_config,
    "fusion": fusion_config,
    "head": head_config,
}
