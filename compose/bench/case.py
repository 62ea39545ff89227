"""What a case is: who runs what, and what it must reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SIZES: dict[str, dict[str, int]] = {
    "base": {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
    },
    "tiny": {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    },
}
"""The backbones with random weights, as sizes of BERT: BERT-base, and one for trying things out."""

TINY_ROWS, TINY_TOKENS = 2, 16
"""The most rows and tokens of a batch of the tiny size."""

WHOLE = 12
"""Layers that the cases' numbers of dropped layers are meant for; other sizes drop the same share."""


@dataclass(frozen=True)
class Contestant:
    """One of those that a case measures, in a process of its own.

    Args:
        name: what it is called.
        setup: how it is set up; a row of the worker's table.
        options: what else its setup is told.
        peer: whether the peer runs it.
        tiny: options that differ for the tiny size, where those of the others would take long.
    """

    name: str
    setup: str
    options: Mapping[str, Any] = field(default_factory=dict)
    peer: bool = False
    tiny: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """What is to be reached.

    Args:
        of: the contestant.
        at_most: the most that its figure may be: as a share of that of `against`, else itself.
        against: another contestant; empty where the figure itself counts.
        metric: `seconds`, `memory`, `bound` (seconds against those that the FLOP count gives at the backbone's
            own rate), or the name of a fact.
        speed: say it the other way round, as so many times as fast.
        beyond: another contestant, with fewer adapters: what counts is how much more than it `of` has.
        adapters: by how many adapters; the figure is that of each.
    """

    of: str
    at_most: float
    against: str = ""
    metric: str = "seconds"
    speed: bool = False
    beyond: str = ""
    adapters: int = 1


@dataclass(frozen=True)
class Case:
    """A row of the table of cases.

    Args:
        name: its name.
        shows: what it shows, in a sentence.
        contestants: who runs, in turn.
        targets: what is to be reached.
        rows: of a batch.
        tokens: of a row.
        training: whether its calls are steps of training.
        calls: calls of each contestant in a round.
        device: the only one that it can run on, if there is one.
    """

    name: str
    shows: str
    contestants: tuple[Contestant, ...]
    targets: tuple[Target, ...] = ()
    rows: int = 8
    tokens: int = 128
    training: bool = False
    calls: int = 3
    device: str = ""

    def told(
        self, contestant: Contestant, size: str, threads: int, device: str, texts: str, folder: str = ""
    ) -> dict[str, Any]:
        """What a contestant's worker is told."""
        tiny = size == "tiny"
        options = {**contestant.options, **(contestant.tiny if tiny else {})}
        layers = SIZES[size]["num_hidden_layers"]
        if "drop" in options:
            options["drop"] = options["drop"] * layers // WHOLE
        return {
            "setup": contestant.setup,
            "config": SIZES[size],
            "size": size,
            "rows": min(self.rows, TINY_ROWS) if tiny else self.rows,
            "tokens": min(self.tokens, TINY_TOKENS) if tiny else self.tokens,
            "training": self.training,
            "threads": threads,
            "device": device,
            "attention": "sdpa",
            "texts": texts,
            "folder": folder if "backbone" in options else "",
            **options,
        }
