"""The trunk's states of texts, computed once and kept for all epochs."""

from __future__ import annotations

import hashlib
import threading
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from compose.errors import ConfigError, FileError, InputError, Problem
from compose.methods.watched import Watched
from compose.runtime.runnable import RunnablePlan
from compose.runtime.trunk import TrunkStates
from compose.train.room import Room
from compose.train.segments import OwnFile, Segments

if TYPE_CHECKING:
    from compose.runtime.model import Model

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}

GIBIBYTE = 2**30

Key = bytes
Shape = tuple[int, int, int]
"""Places, tokens (-1: as many as there are) and width."""

About = tuple[int, bool, torch.dtype]
"""The depth, whether states of every layer are kept, and the dtype."""


class _Digest(NamedTuple):
    """The name of the space that some weights' states are in, as long as the weights are what they were."""

    watched: tuple[Watched, ...]
    space: str

    def fits(self, weights: Sequence[Tensor]) -> bool:
        return len(self.watched) == len(weights) and all(
            seen.owner() is weight and seen.unchanged() for seen, weight in zip(self.watched, weights, strict=True)
        )


class TrunkCache:
    """What layers below the first active adapter make of texts.

    A text's states depend on the backbone's weights below that layer, on the text's tokens, and on nothing
    else, so that they serve every epoch, every adapter and, in a folder, every run. They are computed without
    dropout. Rows are kept without their padding.

    Args:
        folder: where states are kept for later runs and for other processes, which may use it at the same
            time; None keeps them for this cache only.
        memory: bytes that are kept in memory; what is more goes to a memory-mapped file without a name.
        dtype: `float32`, `bf16` or a torch dtype to keep them in; the backbone's own by default. bf16 needs half
            the room, and rounds each state by at most 1/256 of itself.

    Raises:
        ConfigError: a dtype that is none of floating point, a memory that is no whole number of at least 0, or a
            folder that is no path.
        FileError: the folder cannot be made.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        memory: int = 2 * GIBIBYTE,
        dtype: torch.dtype | str | None = None,
    ) -> None:
        problems = []
        named = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
        if dtype is not None and not (isinstance(named, torch.dtype) and named.is_floating_point):
            problems.append(Problem(f"there is no cache dtype {dtype!r}", got=str(dtype), legal=tuple(DTYPES)))
        if isinstance(memory, bool) or not isinstance(memory, int) or memory < 0:
            problems.append(Problem(f"memory={memory!r}, but a whole number of bytes, at least 0, is needed"))
        if folder is not None and (not isinstance(folder, str | Path) or not str(folder)):
            problems.append(Problem(f"folder={folder!r}, but the path of a folder is needed", hint="'trunk-states'"))
        if problems:
            raise ConfigError(problems)
        self.folder = None if folder is None else _made(Path(folder))
        self.memory = memory
        self.dtype = named
        self.computed = 0
        """Rows that had to be computed."""
        self.found = 0
        """Rows that were there."""
        self._held: dict[str, dict[Key, Tensor]] = {}
        self._bytes = 0
        self._files: dict[str, Segments | OwnFile] = {}
        self._digests: weakref.WeakKeyDictionary[Model, dict[About, _Digest]] = weakref.WeakKeyDictionary()
        self._writes = True
        self._lock = threading.Lock()

    def states(self, plan: RunnablePlan, inputs: Mapping[str, Any], room: Room | None = None) -> TrunkStates:
        """The trunk's states of a batch: `plan(**inputs, trunk_states=cache.states(plan, inputs))`.

        Args:
            plan: whose trunk.
            inputs: [rows, tokens] each, padded on the right; None counts as not given.
            room: where they may lie; they then last until it is used again.

        Raises:
            InputError: if the plan has no trunk or is an optimized one, or these are no texts.
        """
        inputs = _checked(plan, inputs)
        rows = len(inputs["input_ids"])
        depth, every = plan.trunk, plan.plan.aggregation is not None
        dtype = self.dtype or next(plan.model.backbone.parameters()).dtype
        lengths = _lengths(inputs)
        with self._lock:
            space = self._space(plan.model, depth, every, dtype)
            keys = [_key(space, row, inputs, length) for row, length in enumerate(lengths)]
            shape = (depth + 1 if every else 1, -1, plan.model.spec.hidden_size)
            found = self._look(space, keys, shape, dtype)
            missing = [place for place, states in enumerate(found) if states is None]
            self.found += rows - len(missing)
            if missing:
                for place, states in zip(missing, _computed(plan, inputs, missing, lengths, dtype), strict=True):
                    found[place] = states
                    self._keep(space, keys[place], states)
                self.computed += len(missing)
        batch = _batch([states for states in found if states is not None], inputs, plan.model, room or Room())
        return TrunkStates(depth, tuple(batch.to(inputs["input_ids"].device).unbind()))

    def _look(self, space: str, keys: Sequence[Key], shape: Shape, dtype: torch.dtype) -> list[Tensor | None]:
        found = [self._find(space, key, shape, dtype) for key in keys]
        files = self._files.get(space)
        if files is None or self.folder is None or all(row is not None for row in found):
            return found
        files.refresh()
        return [
            self._find(space, key, shape, dtype) if row is None else row for key, row in zip(keys, found, strict=True)
        ]

    def _find(self, space: str, key: Key, shape: Shape, dtype: torch.dtype) -> Tensor | None:
        held = self._held.get(space, {}).get(key)
        if held is not None:
            return held
        if self.folder is not None and space not in self._files and (self.folder / space).is_dir():
            self._files[space] = Segments(self.folder / space)
        files = self._files.get(space)
        payload = None if files is None else files.find(key)
        return None if payload is None else torch.frombuffer(payload, dtype=dtype).view(shape)

    def _keep(self, space: str, key: Key, states: Tensor) -> None:
        held = self._held.setdefault(space, {})
        fits = self._bytes + states.nbytes <= self.memory
        if fits and key not in held:
            held[key] = states
            self._bytes += states.nbytes
        if (fits and self.folder is None) or not self._writes:
            return
        try:
            if space not in self._files:
                self._files[space] = OwnFile() if self.folder is None else Segments(self.folder / space)
            self._files[space].append(key, _bytes_of(states))
        except OSError as error:
            self._writes = False
            warnings.warn(
                f"the trunk cache cannot be written ({error}): what is missing is computed anew", stacklevel=2
            )

    def _space(self, model: Model, depth: int, every: bool, dtype: torch.dtype) -> str:
        """What states depend on beside their text: a name for the weights below, where they end, and the dtype."""
        anatomy = model.hooks.anatomy
        modules = (*anatomy.before, *(layer.layer for layer in anatomy.layers[:depth]))
        weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        digests, about = self._digests.setdefault(model, {}), (depth, every, dtype)
        known = digests.get(about)
        if known is not None and known.fits(weights):
            return known.space
        space = _digest(f"{_config_of(model)} {depth} {every} {dtype}", weights)
        tracked = not any(tensor.is_inference() for tensor in weights)  # others count no changes
        digests[about] = _Digest(tuple(map(Watched.of, weights)) if tracked else (), space)
        if known is not None:
            self._forget(known.space)
        return space

    def _forget(self, space: str) -> None:
        """Gives back the room of weights that are not what they were, unless another model has them still."""
        if any(found.space == space for digests in self._digests.values() for found in digests.values()):
            return
        self._bytes -= sum(states.nbytes for states in self._held.pop(space, {}).values())
        self._files.pop(space, None)


def _config_of(model: Model) -> str:
    """What a configuration says of how states are computed."""
    config = {**model.config.to_dict(), "attention": getattr(model.config, "_attn_implementation", None)}
    for name in ("_name_or_path", "name_or_path", "transformers_version"):
        config.pop(name, None)
    return str(sorted(config.items(), key=lambda item: item[0]))


def _digest(about: str, weights: Iterable[Tensor]) -> str:
    found = hashlib.sha256(about.encode())
    for tensor in weights:
        plain = tensor.detach().cpu().contiguous()
        found.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
        found.update(_bytes_of(plain))
    return found.hexdigest()[:32]


def _bytes_of(tensor: Tensor) -> memoryview:
    """What a tensor on the CPU holds, without a copy where it is contiguous."""
    values: Any = tensor.contiguous().flatten().view(torch.uint8).numpy()
    return memoryview(values)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"the trunk cache's folder cannot be made: {error.strerror}", where=str(folder)) from error
    return folder


def _checked(plan: RunnablePlan, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inputs that are given, if they are the tokens of texts.

    Raises:
        InputError: with everything that is wrong.
    """
    if not isinstance(plan, RunnablePlan):
        raise InputError(
            f"the plan is a {type(plan).__name__}, but a trunk cache takes a plan of model.plan(...)",
            why="states are kept for training, and optimized plans are for inference",
            hint="the plan that it was made from",
        )
    if not plan.trunk:
        raise InputError(plan.no_trunk())
    if not isinstance(inputs, Mapping):
        raise InputError(f"inputs is a {type(inputs).__name__}, but names are needed", hint="{'input_ids': ids}")
    given = {name: value for name, value in inputs.items() if value is not None}
    problems = [
        Problem(f"{name} is a {type(value).__name__}, but a trunk cache takes tensors")
        for name, value in given.items()
        if not isinstance(value, Tensor)
    ]
    ids = given.get("input_ids")
    if ids is None:
        why = "states are found again by a text's tokens"
        problems.append(Problem("a trunk cache takes texts, so it needs input_ids", got=next(iter(given), ""), why=why))
    elif isinstance(ids, Tensor) and (ids.dim() != 2 or not ids.numel()):
        problems.append(Problem(f"input_ids of shape {tuple(ids.shape)}, but at least one row of tokens is needed"))
    if problems or ids is None:
        raise InputError(problems)
    plan.model.accepts.check_names(given, ())
    plan.model.accepts.check_values(plan.model.backbone, given, len(ids))
    rows, tokens = ids.shape
    for name, tensor in given.items():
        per_token = tensor.dim() >= 2 and tensor.shape[0] in (1, rows) and tensor.shape[1] == tokens
        if not per_token and not (name == "attention_mask" and tensor.dim() == 4):
            what = f"{name} is {list(tensor.shape)}, but a trunk cache takes [{rows} or 1, {tokens}, ...]"
            problems.append(Problem(what, why="each row's states are kept for its tokens alone"))
    mask = given.get("attention_mask")
    if mask is not None and mask.dim() == 2 and mask.is_floating_point():
        what = f"attention_mask is of type {mask.dtype}, but whole numbers or truth values tell which tokens are there"
        problems.append(Problem(what, hint="attention_mask.long()"))
    if problems:
        raise InputError(problems)
    return given


def _lengths(inputs: Mapping[str, Tensor]) -> list[int]:
    """Each row's tokens before its padding; all of them where the mask is no such padding."""
    tokens = inputs["input_ids"].shape[1]
    mask = inputs.get("attention_mask")
    if mask is None or mask.dim() != 2:
        return [tokens] * len(inputs["input_ids"])
    counts = mask.sum(1)
    padded = torch.arange(tokens, device=mask.device) < counts[:, None]
    plain = (padded == mask.bool()).all(1)
    return [count if fits and count else tokens for count, fits in zip(counts.tolist(), plain.tolist(), strict=True)]


def _key(space: str, row: int, inputs: Mapping[str, Tensor], length: int) -> Key:
    found = hashlib.blake2b(space.encode(), digest_size=32)
    for name, tensor in sorted(inputs.items()):
        own = tensor[row] if tensor.shape[0] > row else tensor[0]
        own = _cut(own[None], length)[0]
        found.update(f"{name} {own.dtype} {tuple(own.shape)}".encode())
        found.update(_bytes_of(own.detach().cpu()))
    return found.digest()


def _cut(tensor: Tensor, tokens: int) -> Tensor:
    """The first tokens of [rows, tokens, ...]; a mask of [rows, heads, queries, keys] stays whole."""
    return tensor if tensor.dim() == 4 else tensor[:, :tokens]


def _computed(
    plan: RunnablePlan, inputs: Mapping[str, Tensor], missing: Sequence[int], lengths: Sequence[int], dtype: torch.dtype
) -> list[Tensor]:
    """[places, tokens, width] of each missing row, without its padding."""
    longest = max(lengths[place] for place in missing)
    chosen = {
        name: _cut(tensor[list(missing)] if len(tensor) == len(lengths) else tensor, longest)
        for name, tensor in inputs.items()
    }
    states = torch.stack(plan.trunk_states(**chosen).states).to("cpu", dtype)
    return [states[:, row, : lengths[place]].clone() for row, place in enumerate(missing)]


def _batch(rows: Sequence[Tensor], inputs: Mapping[str, Tensor], model: Model, room: Room) -> Tensor:
    """Rows as one batch, zeros where there is padding: nothing that is there attends to it."""
    dtype = next(model.backbone.parameters()).dtype
    places, _, width = rows[0].shape
    batch = room.tensor((places, *inputs["input_ids"].shape, width), dtype)
    for row, states in enumerate(rows):
        batch[:, row, : states.shape[1]] = states
        batch[:, row, states.shape[1] :] = 0
    return batch
