"""Laws of files: what is saved, loaded and saved again is the same, byte for byte, and computes the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import compose
from compose.dsl import Expression, Fuse, fuses, name_problem, own_name
from compose.errors import ConfigError, FileError
from compose.heads.head import Head
from compose.methods.bottleneck.spec import NON_LINEARITIES
from compose.runtime.model import Model
from compose.runtime.regimes import heads_of
from compose.specs import NAME
from tests import tiny
from tests.laws.worlds import LAYERS, batch, close, fresh, planned, settings_of, states, world

ARCHITECTURES = ("bert", "gpt2", "t5", "vit")
SOME = settings(max_examples=max(1, settings().max_examples // 8))  # these write, read and sync files
names = st.from_regex(NAME, fullmatch=True).filter(lambda name: name_problem(name, "adapter") is None)
flags = st.booleans()


@cache
def pair(architecture: str) -> tuple[Model, Model]:
    """Two models of the same backbone, with nothing in them between tests."""
    return tiny.model(architecture, LAYERS), tiny.model(architecture, LAYERS)


def emptied(model: Model) -> Model:
    for registry, delete in (
        (model.adapters, model.delete_adapter),
        (model.fusions, model.delete_fusion),
        (model.heads, model.delete_head),
    ):
        for name in registry.names:
            delete(name)
    return model


def files(folder: str | Path) -> dict[str, bytes]:
    """All files of a folder by their paths inside."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def renamed(found: dict[str, bytes]) -> dict[str, Any]:
    """The same with names taken out of the manifests."""
    without = ("name", "head")
    return {
        path: {key: value for key, value in json.loads(data).items() if key not in without}
        if path.endswith(".json")
        else data
        for path, data in found.items()
    }


def travels(
    models: tuple[Model, Model],
    save: Callable[[Model, str, Path], None],
    load: Callable[[Model, Path, str | None], str],
    name: str,
    other: str,
) -> None:
    """What the first model saves, the second loads, under two names, and saves again: the same bytes."""
    first, second = models
    with TemporaryDirectory() as folder:
        one, two, three = (Path(folder) / place for place in ("one", "two", "three"))
        save(first, name, one)
        assert load(second, one, None) == name
        save(second, name, two)
        assert files(two) == files(one)
        assert load(second, one, other) == other
        save(second, other, three)
        assert renamed(files(three)) == renamed(files(one))
        save(second, name, three)  # over another version
        assert files(three) == files(one)


@st.composite
def adapters(draw: Any) -> tuple[str, dict[str, Any]]:
    """A method with options; some contradict each other."""
    places = st.lists(st.integers(0, LAYERS - 1), unique=True, max_size=1)
    if draw(st.integers(0, 3)) == 0:
        counts = {name: draw(st.integers(0, 3)) for name in ("prefix_positions", "suffix_positions")}
        switches = ("orthogonality", "tied_weights", "subtract_projection")
        activations = st.sampled_from([None, *NON_LINEARITIES])
        return "reft", {
            **counts,
            **{name: draw(flags) for name in switches},
            "r": draw(st.integers(1, 4)),
            "layers": draw(st.sampled_from(["all", [0], [1, 0]])),
            "non_linearity": draw(activations),
            "dropout": draw(st.floats(0, 0.5)),
        }
    common = {"leave_out": draw(places), "use_gating": draw(flags)}
    if draw(flags):
        matrices = draw(st.lists(st.sampled_from("qkvo"), unique=True))
        sites = {name: draw(flags) for name in ("selfattn_lora", "crossattn_lora", "intermediate_lora", "output_lora")}
        numbers = {"r": draw(st.integers(1, 5)), "alpha": draw(st.integers(1, 32)), "dropout": draw(st.floats(0, 0.5))}
        return "lora", {**common, "attn_matrices": matrices, **sites, **numbers}
    switches = (
        "mh_adapter",
        "output_adapter",
        "cross_adapter",
        "original_ln_before",
        "original_ln_after",
        "ln_before",
        "ln_after",
        "is_parallel",
        "residual",
        "adapter_residual_before_ln",
    )
    return "bottleneck", {
        **common,
        **{name: draw(flags) for name in switches},
        "bottleneck_size": draw(st.integers(1, 6)),
        "non_linearity": draw(st.sampled_from(NON_LINEARITIES)),
        "scaling": draw(st.sampled_from([1.0, 0.25, 4, "learned", "channel"])),
        "residual_before_ln": draw(st.sampled_from([True, False, "post_add"])),
        "init_weights": draw(st.sampled_from(["bert", "mam_adapter", "houlsby"])),
        "stochastic_depth": draw(st.sampled_from([0.0, 0.1])),
    }


@SOME
@given(st.sampled_from(ARCHITECTURES), adapters(), names, names, st.integers(0, 99), flags)
def test_adapters(
    architecture: str, drawn: tuple[str, dict[str, Any]], name: str, other: str, seed: int, with_head: bool
) -> None:
    assume(name != other)
    (first, second), (method, options) = map(emptied, pair(architecture)), drawn
    try:
        tiny.randomize(first.add_adapter(name, method, **options), seed)
    except ConfigError:
        assume(False)
    head = first.add_head(name, labels=3) if with_head else None
    inputs = batch(architecture, padded=True)
    expected = states(first.plan(name), inputs)
    travels(
        (first, second),
        lambda model, name, folder: model.save_adapter(name, folder, with_head),
        lambda model, folder, name: model.load_adapter(folder, name, with_head),
        name,
        other,
    )
    assert second.adapters[name].config == second.adapters[other].config == first.adapters[name].config
    for each in (name, other):
        assert torch.equal(states(second.plan(each), inputs), expected)
        if head is not None:
            assert same_head(second.heads[each], head)
    assert second.heads.names == ((name, other) if with_head else ())


@SOME
@given(st.sampled_from(ARCHITECTURES), adapters(), names, st.integers(0, 99), st.sampled_from(["adapterhub", "peft"]))
def test_formats_of_others(
    architecture: str, drawn: tuple[str, dict[str, Any]], name: str, seed: int, form: str
) -> None:
    """What another library's format takes computes the same when it comes back; what it cannot say is an error."""
    (first, second), (method, options) = map(emptied, pair(architecture)), drawn
    try:
        tiny.randomize(first.add_adapter(name, method, **options), seed)
    except ConfigError:
        assume(False)
    inputs = batch(architecture, padded=True)
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        try:
            first.save_adapter(name, one, format=form)
        except FileError:
            assert not files(one)
            return
        said = {"subtract_projection": True} if method == "reft" else {}  # AdapterHub's files do not say it
        assert second.load_adapter(one, name, **said) == name
        close(states(second.plan(name), inputs), states(first.plan(name), inputs))
        second.save_adapter(name, two, format=form)
        assert files(two).keys() == files(one).keys()


def same_head(found: Head, expected: Head) -> bool:
    mine, theirs = found.tensors(), expected.tensors()
    return (
        found.config == expected.config
        and mine.keys() == theirs.keys()
        and all(torch.equal(mine[key], theirs[key]) for key in mine)
    )


@SOME
@given(
    st.sampled_from(ARCHITECTURES),
    st.lists(st.sampled_from(["a", "b", "lora"]), min_size=1, max_size=3, unique=True),
    st.none() | names,
    st.fixed_dictionaries(
        dict.fromkeys(("key", "query", "value", "query_before_ln", "residual_before", "temperature"), flags)
    ),
    names,
    st.integers(0, 99),
)
def test_fusions(
    architecture: str, children: list[str], name: str | None, options: dict[str, bool], other: str, seed: int
) -> None:
    first, second = map(emptied, pair(architecture))
    for model in (first, second):
        for place, (child, method) in enumerate((("a", "seq_bn"), ("b", "double_seq_bn"), ("lora", "lora"))):
            tiny.randomize(model.add_adapter(child, method), place)
    fuse = Fuse(*children, name=name)
    own = own_name(fuse) or ""
    assume(own != other)
    if not options["value"]:
        options = {**options, "regularization": False, "value_initialized": False}
    try:
        tiny.randomize(first.add_fusion(fuse, **options), seed, 0.2)
    except ConfigError:
        assume(False)
    inputs = batch(architecture, padded=True)
    expected = states(first.plan(fuse), inputs)
    travels((first, second), Model.save_fusion, Model.load_fusion, own, other)
    assert torch.equal(states(second.plan(fuse), inputs), expected)
    assert torch.equal(states(second.plan(Fuse(*children, name=other)), inputs), expected)


labels = st.integers(2, 5) | st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=5, unique=True)
heads = st.one_of(
    st.tuples(
        st.sampled_from(["classification", "multi_label"]),
        st.fixed_dictionaries(
            {"labels": labels, "layers": st.integers(1, 3), "bias": flags},
            optional={
                "activation": st.sampled_from(["tanh", "relu", None]),
                "dropout": st.floats(0, 0.9),
                "pooling": st.sampled_from(["first", "last", "mean"]),
            },
        ),
    ),
    st.tuples(st.just("regression"), st.fixed_dictionaries({"labels": st.integers(1, 3), "layers": st.integers(1, 2)})),
    st.tuples(st.just("tagging"), st.fixed_dictionaries({"labels": labels, "layers": st.integers(1, 2)})),
    st.tuples(
        st.just("question_answering"),
        st.fixed_dictionaries(
            {"layers": st.integers(1, 2), "max_answer_length": st.integers(1, 9), "unanswerable": flags}
        ),
    ),
    st.tuples(
        st.just("causal_lm"),
        st.fixed_dictionaries({"layers": st.integers(1, 2), "layer_norm": flags, "bias": flags, "shift_labels": flags}),
    ),
)


@SOME
@given(heads, names, names, st.integers(0, 99))
def test_heads(drawn: tuple[str, dict[str, Any]], name: str, other: str, seed: int) -> None:
    assume(name != other)
    first, second = map(emptied, pair("bert"))
    head = first.add_head(name, drawn[0], **drawn[1])
    tiny.randomize(head, seed)
    travels((first, second), Model.save_head, Model.load_head, name, other)
    assert same_head(second.heads[name], head) and same_head(second.heads[other], head)


@SOME
@given(settings_of(), flags)
def test_plans(drawn: tuple[str, Expression], with_heads: bool) -> None:
    """Expression, adapters, fusions and heads in one folder."""
    architecture, expression = drawn
    model, empty = world(architecture), fresh(architecture)
    plan = planned(model, expression)
    assume(plan is not None)
    assert plan is not None
    wanted = heads_of(expression) if with_heads else ()
    for name in wanted:
        if name not in model.heads:
            tiny.randomize(model.add_head(name, labels=3, pooling="first"), len(name))
    kept = [name for name in heads_of(expression) if name in model.heads]
    routed = "Route" in repr(expression)
    inputs = batch(architecture, padded=True)
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        plan.save(one)
        loaded = compose.load_plan(one, empty)
        assert loaded.expression == expression
        loaded.save(two)
        assert files(two) == files(one)
    assert set(empty.fusions.names) == {own_name(fuse) for fuse in fuses(expression)}
    assert sorted(empty.heads.names) == sorted(kept)
    if not routed:
        assert torch.equal(states(loaded, inputs), states(plan, inputs))
