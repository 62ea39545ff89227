"""What a recipe loads in place of making it anew: whether it is there, and what its manifest says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from compose.errors import ComposeError, FileError, Problem
from compose.heads.spec import HeadConfig
from compose.io.detect import Kind, detect, expect
from compose.io.manifests import check_keys, check_manifest, config_in, head_config
from compose.recipes.document import Document, KeyPath, dotted
from compose.recipes.schema import Head, Part, Recipe

SECTIONS: Mapping[str, Kind] = {"adapters": "adapter", "heads": "head", "fusions": "fusion"}
"""The sections of what can be loaded, and what a folder holds then."""


class Loaded(NamedTuple):
    """A part of a recipe that is loaded: where it stands, what it says, and the folder."""

    section: str
    name: str
    says: Part
    folder: str

    @property
    def path(self) -> KeyPath:
        """Where the folder is named."""
        return (self.section, self.name, "load")


def loaded(recipe: Recipe) -> Iterator[Loaded]:
    """What a recipe loads."""
    for section in SECTIONS:
        for name, part in getattr(recipe, section).items():
            if part.load is not None:
                yield Loaded(section, name, part, part.load)


def absolute_folders(recipe: Recipe, document: Document) -> dict[str, dict[str, Part]]:
    """The sections of a recipe's parts with absolute paths of what is loaded: each begins where it is written."""
    found: dict[str, dict[str, Part]] = {section: dict(getattr(recipe, section)) for section in SECTIONS}
    for section, name, part, folder in loaded(recipe):
        path = (document.place((section, name, "load")).folder / folder).absolute()
        found[section][name] = part.model_copy(update={"load": str(path)})
    return found


def load_problems(recipe: Recipe, document: Document) -> Iterator[Problem]:
    """What is wrong with the folders that a recipe loads, as far as it shows without a backbone."""
    for each in loaded(recipe):
        place = document.place(each.path)
        try:
            _check(Path(each.folder), SECTIONS[each.section])
        except ComposeError as error:
            others = _others(Path(each.folder), each.section)
            for problem in error.problems:
                why = f"{problem.where}: {problem.why}".removesuffix(": ")
                hint = "" if others else problem.hint
                what = f"{dotted(each.path[:2])}: {problem.what}"
                yield place.problem(what, why=why, hint=hint, got=problem.got or each.folder, legal=others)


def stated(recipe: Recipe) -> Recipe:
    """A recipe whose loaded heads say what their manifests say of them, for checks; of other formats they say less."""
    heads = dict(recipe.heads)
    for section, name, _, folder in loaded(recipe):
        if section == "heads" and (config := _config_of_head(Path(folder))) is not None:
            heads[name] = head_of(config)
    return recipe.model_copy(update={"heads": heads})


def head_of(config: HeadConfig) -> Head:
    """A head's config as a recipe says it."""
    return Head.model_validate({key: value for key, value in config.to_dict().items() if value is not None})


def _check(folder: Path, kind: Kind) -> None:
    """FileError: a folder that holds nothing of a kind, or whose manifest cannot be read."""
    view, form = expect(folder, kind)
    if form != "native":
        return
    where = str(folder / f"{kind}.json")
    manifest = view.manifest(f"{kind}.json")
    check_manifest(manifest, kind, where)
    check_keys(manifest, kind, where)
    config_in(manifest, kind, where)
    if not view.has(f"{kind}.safetensors"):
        raise FileError("there are no weights beside the manifest", where=str(folder / f"{kind}.safetensors"))


def _config_of_head(folder: Path) -> HeadConfig | None:
    """The config of a head of ours; None where there is none, which is said at the folder."""
    try:
        view, form = expect(folder, "head")
        return head_config(view.manifest("head.json"), str(folder)) if form == "native" else None
    except ComposeError:
        return None


def _others(folder: Path, section: str) -> tuple[str, ...]:
    """The folders near a wrong one that hold what is wanted: those in it or in a run, else those beside it."""
    for around in (folder / section, folder, folder.parent / section, folder.parent):
        if found := tuple(str(inner) for inner in _folders(around) if _holds(inner, SECTIONS[section])):
            return found
    return ()


def _folders(around: Path) -> list[Path]:
    try:
        return sorted(inner for inner in around.iterdir() if inner.is_dir())
    except OSError:
        return []


def _holds(folder: Path, kind: Kind) -> bool:
    try:
        return kind in detect(folder).kinds
    except ComposeError:
        return False
