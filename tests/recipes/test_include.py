"""Recipes in several files: what wins, where errors are told, where paths begin, and what is too much."""

from __future__ import annotations

from pathlib import Path

import pytest

from compose.errors import RecipeError
from compose.recipes import include
from compose.recipes.include import load_recipe
from compose.recipes.validate import read_recipe
from tests.recipes.small import SMALL


def write(folder: Path, **files: str) -> Path:
    """Writes files, the names without `.yaml`; gives the first."""
    paths = []
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        paths.append(path)
    return paths[0]


def error_of(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_own_keys_win_key_by_key(tmp_path: Path) -> None:
    own = "include: base.yaml\nname: other\nadapters:\n  topic: {reduction_factor: 4}\n  third: {method: lora}\n"
    path = write(tmp_path, own=own + "predict: {texts: [a, b]}\n", base=SMALL)
    _, recipe = read_recipe(path)
    assert recipe.name == "other" and recipe.seed == 42
    assert list(recipe.adapters) == ["topic", "entities", "third"]
    assert recipe.adapters["topic"].method == "seq_bn" and recipe.adapters["topic"].options == {"reduction_factor": 4}
    assert recipe.predict is not None and recipe.predict.texts == ("a", "b") and recipe.predict.expression == "topic"
    assert recipe.include is None


def test_later_files_win_and_files_may_include_others(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        own="include: [a.yaml, parts/b.yaml]\nw: own\n",
        a="include: c.yaml\nx: a\ny: a\n",
        parts__b="include: ../c.yaml\ny: b\n",
        c="x: c\nw: c\nz: c\n",
    )
    document = load_recipe(path)
    assert document.data == {"x": "c", "w": "own", "z": "c", "y": "b"}  # b's c comes after a
    assert [Path(name).name for name, _ in document.included] == ["c.yaml", "a.yaml", "c.yaml", "b.yaml"]
    assert dict(document.included)[str(tmp_path / "a.yaml")] == "include: c.yaml\nx: a\ny: a\n"
    assert document.text.startswith("include: [")


def test_lists_and_mappings_of_another_kind_are_replaced(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        own="include: base.yaml\ndata: {t: {kind: csv, train: b}}\nadapters: {a: {method: lora}}\ntrain: [{x: 1}]\n",
        base="data: {t: {kind: jsonl, train: a, test: c}}\nadapters: {a: {method: b, k: 1}}\ntrain: [{y: 1}, {}]\n",
    )
    assert load_recipe(path).data == {
        "data": {"t": {"kind": "csv", "train": "b"}},
        "adapters": {"a": {"method": "lora"}},
        "train": [{"x": 1}],
    }


def test_errors_name_the_file_they_are_in(tmp_path: Path) -> None:
    wrong = SMALL.replace("epochs: 2", "epocs: 2").replace("reduction_factor: 8", "reduction_factor: -1")
    found = error_of(write(tmp_path, own="include: base.yaml\nsed: 1\n", base=wrong))
    assert "base.yaml:16:25: unknown key 'epocs' in train.0" in found
    assert "own.yaml:2:1: unknown key 'sed'" in found
    assert "  | sed: 1\n  | ^^^" in found and "{expression: topic, epocs: 2" in found
    found = error_of(write(tmp_path, own="include: base.yaml\n", base=SMALL.replace("seq_bn", "seq_nb")))
    assert "base.yaml:8:19: adapters.topic: there is no method" in found
    found = error_of(write(tmp_path, own="include: base.yaml\n", base="a: 1\na: 2\nb: *x\n"))
    assert "base.yaml:3:4: aliases" in found


def test_overrides_come_last(tmp_path: Path) -> None:
    path = write(tmp_path, own="include: base.yaml\nseed: 1\n", base=SMALL)
    assert read_recipe(path, ["seed=2", "train.0.epochs=7"])[1].train[0].epochs == 7
    assert read_recipe(path, ["seed=2"])[1].seed == 2
    assert "--set include=x: include is for a recipe's file" in error_of(path, "include=x")


INCLUDED = {
    "nothing": ("include:\n", {}, "own.yaml:1:9: include takes the path of a file"),
    "an empty list": ("include: []\n", {}, "own.yaml:1:10: include takes"),
    "a mapping": ("include: {a: b}\n", {}, "own.yaml:1:10: include takes"),
    "a number in a list": ("include: [base.yaml, 5]\n", {"base": SMALL}, "own.yaml:1:22: include takes"),
    "no file": ("include: none.yaml\n", {}, "own.yaml:1:10: there is no file 'none.yaml'"),
    "a name that is too long": (f"include: {'x' * 5000}\n", {}, "own.yaml:1:10: there is no file"),
    "a folder": ("include: .\n", {}, "own.yaml:1:10: there is no file"),
    "itself": ("include: own.yaml\n", {}, "own.yaml:1:10: files include each other in a circle"),
    "a circle": ("include: a.yaml\n", {"a": "include: own.yaml\n"}, "a.yaml:1:10: files include each other"),
    "no mapping": ("include: a.yaml\n", {"a": "- b\n"}, "a.yaml:1:1: an included file holds a mapping"),
    "an empty file": ("include: a.yaml\n", {"a": ""}, "a.yaml:1:1: the file is empty"),
}


@pytest.mark.parametrize("name", INCLUDED)
def test_what_cannot_be_included(name: str, tmp_path: Path) -> None:
    own, others, what = INCLUDED[name]
    assert what in error_of(write(tmp_path, own=own, **others))


def test_the_circle_is_told(tmp_path: Path) -> None:
    found = error_of(write(tmp_path, own="include: a.yaml\n", a="include: b.yaml\n", b="include: a.yaml\n"))
    assert "b.yaml:1:10" in found and "a.yaml -> b.yaml -> a.yaml" in found


def test_all_files_with_faults_are_told_of(tmp_path: Path) -> None:
    found = error_of(write(tmp_path, own="include: [a.yaml, b.yaml, c.yaml]\n", a="x: *y\n", b="x: &y 1\n"))
    assert "a.yaml:1:4" in found and "b.yaml:1:4" in found and "own.yaml:1:27: there is no file" in found


def test_the_limits_hold_for_all_files_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = {f"f{number}": f"include: f{number + 1}.yaml\n" for number in range(20)}
    assert "f7.yaml:1:10: more than 8 files include one another" in error_of(write(tmp_path, **chain, f20="a: 1\n"))
    # Each file includes the next twice: 2^7 readings of the last without a limit.
    twice = {f"f{number}": f"include: [f{number + 1}.yaml, f{number + 1}.yaml]\n" for number in range(7)}
    path = write(tmp_path, **twice, f7=f"a: [{', '.join('1' * 1000)}]\n")
    assert "more than 50,000 values together" in error_of(path)
    monkeypatch.setattr(include, "MAX_BYTES", 100)
    path = write(tmp_path, own="include: [a.yaml]\n", a=f"# {'x' * 90}\n")
    assert "own.yaml:1:11: all included files are larger" in error_of(
        write(tmp_path, own=path.read_text(), a=f"a: {'x' * 90}\n")
    )


def test_paths_begin_at_the_file_that_they_are_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = '{"text": "x", "label": "y"}\n'
    for place in ("data/inner.jsonl", "own.jsonl", "elsewhere/set.jsonl"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(row, "utf-8")
    base = "recipe: 1\nname: x\nbackbone: minilm\ndata: {t: {kind: jsonl, train: inner.jsonl, label: label}}\n"
    path = write(tmp_path, own="include: data/base.yaml\ndata: {t: {test: own.jsonl}}\n", data__base=base)
    monkeypatch.chdir(tmp_path / "elsewhere")
    source = read_recipe(path, ["data.t.validation=set.jsonl"])[1].data["t"]
    assert source.model_dump(include={"train", "validation", "test"}) == {
        "train": str(tmp_path / "data" / "inner.jsonl"),
        "validation": str(tmp_path / "elsewhere" / "set.jsonl"),
        "test": str(tmp_path / "own.jsonl"),
    }
    assert "--set data.t.test=own.jsonl: data.t: cannot be read" in error_of(path, "data.t.test=own.jsonl")
