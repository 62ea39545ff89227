"""A training's state in one file, from which it goes on as if it had never been interrupted.

The file is safetensors, nothing in it is code, and it is written whole: after `kill -9` the one before it, or
the new one, is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from compose.dsl import to_text
from compose.errors import ConfigError, FileError, Problem
from compose.io.whole import write_whole
from compose.train.processes import is_first
from compose.train.progress import Progress
from compose.train.random_state import random_state, restore_random_state
from compose.train.rows import RowGroup
from compose.train.settings import Settings

if TYPE_CHECKING:
    from compose.runtime.model import Model
    from compose.runtime.runnable import RunnablePlan

FORMAT = 1
ABOUT = "compose"
MODEL, OPTIMIZER, RANDOM, BEST = "model/", "optimizer/", "random/", "best/"


@dataclass(frozen=True)
class Identity:
    """What must be the same for a checkpoint to belong to a training: texts by what they are of."""

    facts: Mapping[str, str]

    @classmethod
    def of(cls, model: Model, plan: RunnablePlan, groups: Sequence[RowGroup], settings: Settings) -> Identity:
        """That of a training."""
        trained = {name: list(p.shape) for name, p in model.named_parameters() if p.requires_grad}
        facts = {
            "expression": to_text(plan.expression),
            "what is trained": _digest(trained),
            "the rows": _digest([[group.tasks, group.rows, group.masking] for group in groups]),
        }
        chosen = {f"settings.{name}": repr(value) for name, value in asdict(settings).items() if name not in FREE}
        return cls(facts | chosen)

    def differences(self, other: Mapping[str, str]) -> list[Problem]:
        """What differs from the identity that a checkpoint holds."""
        return [
            Problem(_difference(name, self.facts.get(name), other.get(name)))
            for name in dict.fromkeys([*self.facts, *other])
            if self.facts.get(name) != other.get(name)
        ]


FREE = ("checkpoint_steps", "log")
"""Settings that another part of the same training may have otherwise."""


class Checkpoint:
    """The file that holds a training's state.

    Args:
        path: the file; its folder exists.
        identity: of the training.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path, self.identity = path, identity

    def save(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer,
        schedule: Any,
        progress: Progress,
        best: Mapping[str, Tensor],
    ) -> None:
        """Writes the state, whole; only the first of several processes does."""
        if not is_first():
            return
        tensors = {MODEL + name: value for name, value in model.state_dict().items()}
        tensors |= {BEST + name: value for name, value in best.items() if not progress.finished}
        about: dict[str, Any] = {"format": FORMAT, "identity": self.identity.facts, "progress": progress.to_dict()}
        if not progress.finished:
            drawn, values = random_state(model)
            tensors |= {RANDOM + name: value for name, value in drawn.items()}
            state = optimizer.state_dict()
            for index, entries in state["state"].items():
                tensors |= {f"{OPTIMIZER}{index}/{name}": value for name, value in entries.items()}
            rates = [group["lr"] for group in state["param_groups"]]
            about |= {"random": values, "rates": rates, "schedule": schedule.state_dict()}
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        write_whole(self.path, save(plain, metadata={ABOUT: json.dumps(about)}))

    def load(
        self, model: Model, optimizer: torch.optim.Optimizer, schedule: Any, best: dict[str, Tensor]
    ) -> Progress | None:
        """Brings the state back, but random numbers: `restore_random` does it last, before the first step.

        Args:
            model: as it was when training began.
            optimizer: a fresh one.
            schedule: likewise.
            best: is given the weights of the best epoch.

        Returns:
            How far the training was; None: there is no file.

        Raises:
            ConfigError: the file belongs to another training.
            FileError: it is damaged.
        """
        if not self.path.exists():
            return None
        about, tensors = self._read()
        problems = self.identity.differences(about["identity"])
        if problems:
            raise ConfigError([Problem(f"{self.path} is of another training: {each.what}") for each in problems])
        model.load_state_dict(_part(tensors, MODEL))
        best.update(_part(tensors, BEST))
        progress = Progress(**about["progress"])
        if not progress.finished:
            state = optimizer.state_dict()
            state["state"] = _nested(_part(tensors, OPTIMIZER))
            for group, rate in zip(state["param_groups"], about["rates"], strict=True):
                group["lr"] = rate
            optimizer.load_state_dict(state)
            schedule.load_state_dict(about["schedule"])
            self._random = _part(tensors, RANDOM), about["random"]
        return progress

    def restore_random(self, model: Model) -> None:
        """Brings random numbers back to where they were, once `load` has read them."""
        restore_random_state(model, *self._random)

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        where = str(self.path)
        try:
            with safe_open(where, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get(ABOUT, "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        except (SafetensorError, OSError, ValueError) as error:
            raise FileError("a damaged checkpoint", where=where, why=str(error)) from None
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise FileError("no checkpoint of this version of compose", where=where)
        return about, tensors


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _nested(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The optimizer's entries by the number of their parameter."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/", 1)
        found.setdefault(int(index), {})[name] = value
    return found


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, default=_plain, sort_keys=True).encode()).hexdigest()


def _plain(value: object) -> str:
    """What JSON has no form of; of tensors the digest, since what `str` tells of them is cut."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(plain).hexdigest()}"
    return str(value)


def _difference(name: str, now: str | None, then: str | None) -> str:
    long = any(text is not None and len(text) > 200 for text in (now, then)) or name.startswith(("the ", "what "))
    return f"{name} differs" if long else f"{name} was {then or 'not there'}, and is {now or 'not there'}"
