"""What a run began with: its recipe, its data, its backbone and what it loads, so that only the same run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compose.errors import ComposeError, FileError, Problem
from compose.io.fingerprint import Fingerprint
from compose.recipes.console import Console
from compose.recipes.experiment import Experiment
from compose.recipes.folder import RunFolder, is_interrupted, reopen, settle
from compose.recipes.job import Job
from compose.recipes.loading import loaded_weights
from compose.recipes.manifest import read_manifest
from compose.recipes.resolved import plain
from compose.recipes.schema import Recipe
from compose.runtime.files import fingerprint
from compose.train.data import Dataset

BEGUN = "begun.json"

Begun = Mapping[str, Any]
"""The recipe with every default written out, and fingerprints: sha256 of each data source, that of the backbone,
config and sha256 of what it loads."""


def begun_recipe(recipe: Recipe) -> Begun:
    """The same of a recipe alone."""
    return {"recipe": json.loads(json.dumps(plain(recipe)))}


def begun_with(experiment: Experiment, resolved: Recipe) -> Begun:
    """What a run begins with, as JSON gives it back."""
    found = {
        "recipe": plain(resolved),
        "data": {name: data_digest(source) for name, source in sorted(experiment.data.items())},
        "backbone": fingerprint(experiment.model).to_json(),
        "loaded": loaded_weights(experiment.model, experiment.recipe),
    }
    return dict(json.loads(json.dumps(found)))


def begin(folder: RunFolder, now: Begun) -> None:
    """Writes down what a run begins with, or compares it with what its interrupted part began with.

    Raises:
        FileError: everything that differs.
    """
    then = read_begun(folder.path)
    if then is None:
        folder.write_json(BEGUN, now)
    else:
        check_same(then, now, folder.path)


def is_done(job: Job, now: Begun, console: Console) -> bool:
    """Whether a run that is to go on is complete, and the same; says so. A sweep with failed members is opened again.

    Raises:
        FileError: it is complete, but another one.
    """
    settle(job.target)
    manifest = read_manifest(job.target)
    if not job.resume or is_interrupted(job.target) or manifest is None:
        return False
    then = read_begun(job.target)
    if then is not None:
        check_same(then, now, job.target)
    if failed := manifest.get("failed"):
        console.say(f"{job.target}: {len(failed)} of {len(manifest['members'])} members failed, and run again")
        reopen(job.target)
        return False
    console.say(f"{job.target} is complete: there is nothing left to do")
    return True


def data_digest(data: Dataset) -> str:
    """The sha256 of a source's examples."""
    return hashlib.sha256(repr((data.target, data.train, data.validation, data.test)).encode()).hexdigest()


def read_begun(folder: Path) -> Begun | None:
    """What a run of a folder began with; None: it had not even begun."""
    try:
        found = json.loads((folder / BEGUN).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FileError("cannot be read", where=str(folder / BEGUN), why=str(error)) from None
    return found if isinstance(found, dict) else None


def check_same(then: Begun, now: Begun, where: Path) -> None:
    """Refuses to go on with another run.

    Args:
        then: what the run in `where` began with.
        now: what is to be run.
        where: its folder.

    Raises:
        FileError: everything that differs.
    """
    found = list(_differences(then, now))
    if found:
        hint = "without --resume the run begins anew"
        raise FileError([Problem(f"cannot go on: {what}", where=str(where), hint=hint) for what in found])


def _differences(then: Begun, now: Begun) -> Iterator[str]:
    was, this = dict(_flat(then.get("recipe", {}))), dict(_flat(now["recipe"]))
    for key in dict.fromkeys([*was, *this]):
        if was.get(key) != this.get(key):
            yield f"{key} was {_told(was.get(key))}, and is {_told(this.get(key))}"
    for name, digest in now.get("data", {}).items():
        if then.get("data", {}).get(name) != digest:
            yield f"the data of the source '{name}' are not what they were"
    for name, weights in now.get("loaded", {}).items():
        if then.get("loaded", {}).get(name) != weights:
            yield f"what {name} loads is not what it was"
    if "backbone" in now:
        yield from _other_backbone(then.get("backbone"), now["backbone"])


def _other_backbone(then: object, now: object) -> Iterator[str]:
    try:
        for problem in Fingerprint.from_json(then).mismatch(Fingerprint.from_json(now)):
            yield f"the backbone is another one: {problem.what}"
    except ComposeError as error:
        yield f"the backbone cannot be compared: {error.problems[0].what}"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists, by their dotted keys."""
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _told(value: Any) -> str:
    return "not there" if value is None else json.dumps(value, ensure_ascii=False)
