"""What stages say of training, from the recipe to the results."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest

from compose.errors import RecipeError
from compose.recipes.console import Console
from compose.recipes.experiment import build
from compose.recipes.runner import run
from compose.recipes.training import settings_of
from compose.recipes.validate import read_recipe
from compose.train.fit import EarlyStopping
from tests.recipes.made import write_experiment
from tests.recipes.small import changed, error_of, read

STAGE = """\
  - name: both
    expression: Parallel(Drop("letter", first=(0, 2)), "town")
    epochs: 3
    learning_rate: 1e-2
    batch_size: 4
    gradient_accumulation: 2
    gradient_checkpointing: true
    scheduler: cosine
    sampling: {temperature: 2}
    class_weights: balanced
    early_stopping: {patience: 2, metric: letter.accuracy}
    max_steps: 9
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_experiment(tmp_path_factory.mktemp("options"))
    text = path.read_text("utf-8")
    start, end = text.index("  - {name: both"), text.index("evaluate:")
    text = text[:start] + STAGE + text[end:].replace("  drop_curve", "  baselines: []\n  drop_curve")
    text = text.replace("label: letter}", "label: letter, validation: 0.2}")
    text = text.replace("entities: towns}", "entities: towns, validation: 0.2}") + "report: {plots: false}\n"
    path.write_text(text, "utf-8")
    return path


def test_a_stage_with_every_option_runs(recipe: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    done = run(recipe, out=tmp_path / "run", console=Console(stream))
    (stage,) = json.loads((done / "metrics.json").read_text())["stages"]
    assert len(stage["validation"]) == len(stage["losses"]) and stage["best_epoch"] in (1, 2, 3)
    assert set(stage["validation"][0]) == {"letter", "town"} and "accuracy" in stage["validation"][0]["letter"]
    assert f"the weights are those of epoch {stage['best_epoch']} of" in stream.getvalue()
    again = run(done / "resolved.yaml", out=tmp_path / "again", console=Console(quiet=True))
    first, second = (json.loads((folder / "run.json").read_text())["sha256"] for folder in (done, again))
    weights = [name for name in first if name.endswith(".safetensors")]
    assert weights and all(first[name] == second[name] for name in weights)


def test_options_become_settings(recipe: Path) -> None:
    document, said = read_recipe(recipe)
    experiment = build(said, document)
    settings = settings_of(experiment, said.train[0], 0)
    assert (settings.gradient_accumulation, settings.gradient_checkpointing, settings.max_steps) == (2, True, 9)
    assert (settings.scheduler, settings.temperature) == ("cosine", 2.0)
    assert settings.class_weights == {"letter": "balanced", "town": "balanced"}
    assert settings.early_stopping == EarlyStopping(2, "letter.accuracy")
    uniform = said.train[0].model_copy(update={"sampling": "uniform", "class_weights": {"letter": {"first": 2.0}}})
    other = settings_of(experiment, uniform, 0)
    assert other.temperature == math.inf and other.class_weights == {"letter": {"first": 2.0}}


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("train.0.class_weights={letter: {third: 2.0}}", "there is no label 'third'"),
        ("train.0.early_stopping.metric=letter.f2", "there is no metric 'letter.f2' to stop early by"),
        ("log=tensorbord", "there is no logger 'tensorbord'"),
    ],
)
def test_what_there_is_not_is_said_before_training(recipe: Path, tmp_path: Path, override: str, what: str) -> None:
    stream = io.StringIO()
    with pytest.raises(RecipeError) as caught:
        run(recipe, [override], tmp_path / "run", console=Console(stream))
    assert what in str(caught.value) and override.split("=")[0] in str(caught.value)
    assert "train both" not in stream.getvalue() and not list(tmp_path.iterdir())


def test_balanced_weights_where_there_are_no_labels(recipe: Path, tmp_path: Path) -> None:
    stage = '{expression: Parallel(lm="letter"), class_weights: balanced}'
    rows = f"data.lm={{kind: jsonl, train: {recipe.parent / 'rows.jsonl'}, text: text}}"
    own = ["heads.lm.kind=masked_lm", rows, f"train=[{stage}]"]
    with pytest.raises(RecipeError, match="no task of the stage has labels"):
        run(recipe, own, tmp_path / "run", console=Console(quiet=True))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "early_stopping: {patience: 2}",
            "early_stopping needs a validation part, which the data of task 'topic' lack",
        ),
        ("class_weights: {tone: balanced}", "the expression has no task 'tone'"),
        ("scheduler: steep", "train.0.scheduler must be one of the legal values"),
        ("gradient_accumulation: 0", "greater than or equal to 1"),
    ],
)
def test_wrong_options_have_their_place(said: str, message: str) -> None:
    told = error_of(changed("learning_rate: 5e-4", said))
    assert message in told and "r.yaml:" in told


def test_what_is_legal_is_read() -> None:
    stage = read(changed("learning_rate: 5e-4", "class_weights: {topic: {billing: 2}}, sampling: uniform")).train[0]
    assert stage.class_weights == {"topic": {"billing": 2.0}} and stage.sampling == "uniform"
    assert read(changed("evaluate:", "log: [tensorboard, wandb]\nevaluate:")).log == ("tensorboard", "wandb")
