"""The table of cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compose.bench.case import Case, Contestant, Target
from compose.errors import ConfigError, Problem

PLAIN = Contestant("plain", "plain")


def _ours(setup: str, **options: Any) -> Contestant:
    return Contestant("ours", setup, options)


def _peer(setup: str, **options: Any) -> Contestant:
    return Contestant("peer", setup, options, peer=True)


def _both(setup: str, **options: Any) -> tuple[Contestant, ...]:
    """Ours, the plain backbone and the peer."""
    return (_ours(setup, **options), PLAIN, _peer(setup, **options))


def _counts(setup: str, counts: Sequence[int]) -> tuple[Contestant, ...]:
    """Ours and the peer with several numbers of adapters, and the plain backbone."""
    ours = tuple(Contestant(f"ours, {n}", setup, {"adapters": n}) for n in counts)
    peer = tuple(Contestant(f"peer, {n}", setup, {"adapters": n}, peer=True) for n in counts)
    return (PLAIN, *(one for pair in zip(ours, peer, strict=True) for one in pair))


def _parallels() -> tuple[Contestant, ...]:
    shapes = [(1, 0), (2, 0), (4, 0), (8, 0), (8, 3), (8, 6), (8, 9)]
    return (
        PLAIN,
        *(
            Contestant(f"ours, {tasks}, dropped {drop}", "parallel", {"adapters": tasks, "drop": drop})
            for tasks, drop in shapes
        ),
    )


def _precisions(setup: str, **options: Any) -> tuple[Contestant, ...]:
    """Ours and the plain backbone, each in bf16 and in float32."""
    return (
        Contestant("ours, bf16", setup, {**options, "precision": "bf16"}),
        _ours(setup, **options),
        Contestant("plain, bf16", "plain", {"precision": "bf16"}),
        PLAIN,
    )


MINILM = {"backbone": "minilm"}
TRAINED = {**MINILM, "epochs": 3, "messages": 500}
FEW = {"epochs": 1, "messages": 32}
SHAPES = ((1.0, 1.0), (0.75, 0.5), (0.5, 0.75))
"""Of batches, as shares of the rows and tokens."""

MANY_ROWS = Contestant("plain, 8 times the rows", "plain", {"times": 8})
COUNTS = (2, 4, 8, 16)

CASES: tuple[Case, ...] = (
    Case(
        "fuse-inference",
        "Fuse of 8 adapters, inference",
        _both("fuse", adapters=8),
        (Target("ours", 1.18, "plain"), Target("ours", 1.0, "peer")),
    ),
    Case(
        "fuse-scaling",
        "Fuse of 2 to 16 adapters, inference: what each further adapter costs",
        _counts("fuse", COUNTS),
        (
            Target("ours, 16", 1.18 + 8 * 0.02, "plain"),
            Target("ours, 16", 0.02, "plain", beyond="ours, 8", adapters=8),
            Target("ours, 16", 1.0, "peer, 16"),
        ),
    ),
    Case(
        "fuse-training",
        "Fuse of 8 adapters, a step that trains the fusion; the plain backbone is fine-tuned whole",
        (*_both("fuse", adapters=8), Contestant("ours, checkpointing", "fuse", {"adapters": 8, "checkpointing": True})),
        (
            Target("ours", 0.45, "peer"),
            Target("ours", 0.65, "peer", "memory"),
            Target("ours, checkpointing", 0.4, "peer", "memory"),
        ),
        rows=16,
        training=True,
        calls=1,
    ),
    Case(
        "single-training",
        "one adapter, a step of training; the plain backbone is fine-tuned whole",
        _both("single"),
        (Target("ours", 1.0, "peer"), Target("ours", 1.0, "peer", "memory")),
        rows=16,
        training=True,
        calls=1,
    ),
    Case(
        "parallel",
        "Parallel of 8 adapters with a head each, inference",
        (*_both("parallel", adapters=8), MANY_ROWS),
        (Target("ours", 1.08, metric="bound"), Target("ours", 1.0, "peer")),
        calls=1,
    ),
    Case(
        "parallel-drop",
        "Parallel of 8 adapters that are dropped from the first half of the layers, inference",
        (*_both("parallel", adapters=8, drop=6), MANY_ROWS),
        (Target("ours", 1.08, metric="bound"), Target("ours", 1.0, "peer")),
        calls=1,
    ),
    Case(
        "parallel-scaling",
        "Parallel of 1 to 8 adapters, and of 8 dropped from more and more layers, inference",
        _parallels(),
        calls=1,
    ),
    Case(
        "shared-heads",
        "one adapter with ten heads against one head, inference",
        (
            _ours("single", heads=10),
            Contestant("ours, one head", "single", {"heads": 1}),
            PLAIN,
        ),
        (Target("ours", 1.05, "ours, one head"),),
    ),
    Case(
        "pruned-neurons",
        "one adapter of which 75% of the neurons are pruned against the whole one, inference",
        (
            Contestant("ours", "pruned", {"sparsity": 0.75}),
            Contestant("ours, whole", "pruned", {"sparsity": 0.0}),
            PLAIN,
        ),
        (
            Target("ours", 0.98, "ours, whole"),
            Target("ours", 0.2525, "ours, whole", metric="FLOPs of the adapter"),
        ),
    ),
    Case(
        "mixed-64",
        "64 adapters in one mixed batch: a Route whose rows each belong to another one, inference",
        (
            Contestant("ours", "route", {"adapters": 64}, tiny={"adapters": 4}),
            Contestant("ours, one adapter", "single"),
            PLAIN,
        ),
        rows=64,
        calls=1,
    ),
    Case(
        "drop-training",
        "one adapter dropped from the first half of the layers, epochs of training after the first; "
        "the plain backbone is fine-tuned whole",
        (
            _ours("drop", drop=6, cached=True),
            Contestant("ours, no cache", "drop", {"drop": 6, "cached": False}),
            PLAIN,
            _peer("single", drop=6),
        ),
        (Target("ours", 0.7, "peer"),),
        rows=16,
        training=True,
        calls=1,
    ),
    Case(
        "aggregation-training",
        "layer aggregation under a tagging head, epochs of training after the first; "
        "the plain backbone is fine-tuned whole",
        (
            _ours("aggregation", cached=True),
            Contestant("ours, no cache", "aggregation", {"cached": False}),
            PLAIN,
        ),
        (Target("ours", 1 / 25, "ours, no cache", speed=True),),
        rows=16,
        training=True,
        calls=1,
    ),
    Case(
        "bf16-fuse",
        "Fuse of 8 adapters, inference, the backbone in bf16",
        _precisions("fuse", adapters=8),
        (Target("ours, bf16", 0.6, "ours"),),
    ),
    Case(
        "bf16-parallel",
        "Parallel of 8 adapters with a head each, inference, the backbone in bf16",
        _precisions("parallel", adapters=8),
        (Target("ours, bf16", 0.6, "ours"),),
        calls=1,
    ),
    Case(
        "bf16-shared-heads",
        "one adapter with ten heads, inference, the backbone in bf16",
        _precisions("single", heads=10),
        (Target("ours, bf16", 0.6, "ours"),),
    ),
    Case(
        "bf16-training",
        "one adapter, a step of training, the backbone in bf16",
        (Contestant("ours, bf16", "single", {"precision": "bf16"}), _ours("single")),
        (Target("ours, bf16", 0.6, "ours"),),
        rows=16,
        training=True,
        calls=1,
    ),
    Case(
        "bf16-fuse-training",
        "Fuse of 8 adapters, a step that trains the fusion, the backbone in bf16",
        (Contestant("ours, bf16", "fuse", {"adapters": 8, "precision": "bf16"}), _ours("fuse", adapters=8)),
        (Target("ours, bf16", 0.6, "ours"),),
        rows=16,
        training=True,
        calls=1,
    ),
    Case(
        "bf16-texts",
        "MiniLM with three tasks that were trained on the bundled messages, in bf16: time and answers over real texts",
        (
            Contestant("ours, bf16", "trained", {"precision": "bf16", **TRAINED}, tiny=FEW),
            Contestant("ours", "trained", {"precision": "float32", **TRAINED}, tiny=FEW),
        ),
        (Target("ours, bf16", 0.6, "ours"), Target("ours, bf16", 0.005, metric="disagreement")),
        calls=1,
    ),
    Case(
        "texts",
        "MiniLM over real texts, three tasks: sorted by length within a budget of tokens, or batches as they come",
        (
            _ours("texts", as_they_come=False, **MINILM),
            Contestant("ours, as they come", "texts", {"as_they_come": True, **MINILM}),
            _peer("texts", adapters=3, **MINILM),
        ),
        (Target("ours", 1 / 1.8, "ours, as they come", speed=True), Target("ours", 1 / 1.8, "peer", speed=True)),
        rows=32,
        calls=1,
    ),
    Case(
        "optimize",
        "Fuse of 8 adapters, inference over batches of three shapes: plan.optimize() against the plan itself",
        (
            Contestant("ours", "fuse", {"adapters": 8, "shapes": SHAPES, "optimized": True}, tiny={"adapters": 2}),
            Contestant("ours, eager", "fuse", {"adapters": 8, "shapes": SHAPES}, tiny={"adapters": 2}),
        ),
        (Target("ours", 1 / 1.1, "ours, eager", speed=True),),
    ),
    Case(
        "cuda-graphs",
        "Fuse of 8 adapters over a single row, inference: CUDA graphs against compiled and eager code",
        (
            Contestant(
                "ours", "fuse", {"adapters": 8, "optimized": True, "mode": "reduce-overhead"}, tiny={"adapters": 2}
            ),
            Contestant("ours, compiled", "fuse", {"adapters": 8, "optimized": True}, tiny={"adapters": 2}),
            Contestant("ours, eager", "fuse", {"adapters": 8}, tiny={"adapters": 2}),
            PLAIN,
        ),
        (Target("ours", 1.0, "ours, compiled"),),
        rows=1,
        device="cuda",
    ),
    Case(
        "compile",
        "what happens before a forward pass: compiling, choosing a plan, loading an adapter, 1,000 registered ones",
        (
            Contestant("Parallel of 8", "compiling", {"block": "Parallel", "adapters": 8}),
            Contestant("Fuse of 8", "compiling", {"block": "Fuse", "adapters": 8}),
            Contestant("Parallel of 100", "compiling", {"block": "Parallel", "adapters": 100}),
            Contestant("Fuse of 100", "compiling", {"block": "Fuse", "adapters": 100}),
            Contestant("cached plan", "choosing", {"adapters": 8}),
            Contestant("loading an adapter", "loading"),
            Contestant("one adapter of 1,000", "registered", {"adapters": 1000}, tiny={"adapters": 10}),
            Contestant("one adapter of 1", "registered", {"adapters": 1}),
        ),
        (
            Target("Parallel of 8", 0.020),
            Target("Fuse of 8", 0.020),
            Target("Parallel of 100", 0.150),
            Target("Fuse of 100", 0.150),
            Target("cached plan", 50e-6),
            Target("one adapter of 1,000", 1.10, metric="memory of adapters"),
            Target("one adapter of 1,000", 1.02, "one adapter of 1"),
        ),
    ),
)
"""All cases, in the order in which they run."""


def find(names: Sequence[str]) -> tuple[Case, ...]:
    """The cases of some names, in the order given; all of them without names.

    Raises:
        ConfigError: names that no case has.
    """
    known = {case.name: case for case in CASES}
    problems = [
        Problem(f"there is no case '{name}'", got=name, legal=tuple(known)) for name in names if name not in known
    ]
    if problems:
        raise ConfigError(problems)
    return tuple(known[name] for name in dict.fromkeys(names)) or CASES
