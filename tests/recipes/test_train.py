"""Data, metrics and baselines, and the loop that trains."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from compose.errors import ConfigError, FileError, InputError
from compose.heads.spec import make_head_config
from compose.recipes.experiment import labels_of
from compose.runtime.attach import attach
from compose.runtime.model import Model
from compose.train.columns import Columns
from compose.train.data import Dataset, Example, sample
from compose.train.evaluate import evaluate, spans_of_tags
from compose.train.extras import require
from compose.train.fit import Settings, fit
from compose.train.head_only import head_only
from compose.train.read import read_examples
from compose.train.rows import row_groups
from compose.train.tfidf import tfidf
from tests.heads.texts import bert, tokenizer
from tests.recipes.small import read

# A letter decides the label; the word "new york" is a city.
TEXTS = ["a b new york", "c d", "a a b", "d d new york c", "b a", "c c d", "a new york", "d c c c"]
LABELLED = [Example(text, "first" if text[0] in "ab" else "second") for text in TEXTS]
MARKED = [
    Example(text, ((text.index("new"), text.index("new") + 8, "city"),) if "new" in text else ()) for text in TEXTS
]


def model() -> Model:
    made = attach(bert(), tokenizer())
    torch.manual_seed(0)
    made.add_adapter("a", "seq_bn", reduction_factor=2)
    made.add_head("a", "classification", labels=["first", "second"], pooling="mean")
    made.add_head("b", "tagging", labels=["O", "B-city", "I-city"])
    return made


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def test_rows_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"text": "x", "pair": "y", "label": "yes", "spans": [{"start": 0, "end": 1, "type": "t"}]},
        "",
        {"text": "z", "pair": "w", "label": 3, "spans": [], "words": ["z"], "tags": ["O"]},
    )
    assert read_examples(path, Columns(label="label", pair="pair")) == (
        Example(("x", "y"), "yes"),
        Example(("z", "w"), "3"),
    )
    assert read_examples(path, Columns(entities="spans"))[0] == Example("x", ((0, 1, "t"),))
    with pytest.raises(FileError, match=r"a\.jsonl:1: there is no column 'words'"):
        read_examples(path, Columns(tokens="words", tags="tags"))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("{", "a.jsonl:1:2: not JSON"),
        ([1], "a.jsonl:1: a list, but a line holds a JSON object"),
        ({"text": 5, "label": "a"}, "'text' must be a text"),
        ({"text": "x", "label": None}, "'label' must be"),
        ({"text": "x", "label": True}, "'label' must be"),
        ('{"text": "x", "label": NaN}', "'label' must be"),
        ('{"text": "x", "label": 1e400}', "'label' must be"),
        (f'{{"text": "x", "label": {"1" * 5000}}}', "a.jsonl:1: not JSON that can be read"),
        ("[" * 100_000, "a.jsonl:1: not JSON that can be read"),
    ],
)
def test_damaged_rows_are_located(tmp_path: Path, row: object, what: str) -> None:
    with pytest.raises(FileError) as caught:
        read_examples(write(tmp_path / "a.jsonl", row), Columns(label="label"))
    assert what in str(caught.value)


@pytest.mark.parametrize(
    "span", [{"start": 0, "end": 9, "type": "t"}, {"start": 1, "end": 1, "type": "t"}, {"start": 0}, 5, [0, 1, "t"]]
)
def test_damaged_entities_are_located(tmp_path: Path, span: object) -> None:
    with pytest.raises(FileError, match="an entity has a start"):
        read_examples(write(tmp_path / "a.jsonl", {"text": "abc", "spans": [span]}), Columns(entities="spans"))


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        read_examples(tmp_path / "none.jsonl", Columns(label="label"))
    with pytest.raises(FileError, match="no rows"):
        read_examples(write(tmp_path / "a.jsonl", ""), Columns(label="label"))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="not UTF-8"):
        read_examples(tmp_path / "b.jsonl", Columns(label="label"))


def test_samples_keep_order_and_shares() -> None:
    rows = [Example(str(index), "no" if index % 4 == 0 else "yes") for index in range(80)]
    drawn = sample(rows, 20, seed=3)
    assert Counter(row.target for row in drawn) == {"yes": 15, "no": 5}
    assert [int(str(row.input)) for row in drawn] == sorted(int(str(row.input)) for row in drawn)
    assert drawn == sample(rows, 20, seed=3) != sample(rows, 20, seed=4)
    assert sample(rows, None, 1) == sample(rows, 99, 1) == tuple(rows)
    assert set(sample(rows, 10, 3)) <= set(drawn)  # few examples are a part of more


def test_labels_come_from_the_data() -> None:
    assert Dataset("x", "label", tuple(LABELLED)).labels() == ["first", "second"]
    assert Dataset("x", "entities", tuple(MARKED)).labels() == ["O", "B-city", "I-city"]
    words = (Example(["a", "b"], ("I-x", "O")),)
    assert Dataset("x", "tags", words).labels() == ["O", "I-x"]


@pytest.mark.parametrize("labels", ["{no: 1, yes: 0}", "{0: yes, 1: no}", "[yes, no]"])
def test_labels_that_a_head_says_are_in_the_order_of_their_ids(labels: str) -> None:
    said = f"recipe: 1\nname: a\nbackbone: b\nheads: {{x: {{kind: classification, labels: {labels}}}}}\n"
    assert labels_of(read(said), {}, "x") == ["yes", "no"]
    assert labels_of(read(said.replace(labels, "2")), {}, "x") == ["LABEL_0", "LABEL_1"]


def test_spans_of_tags_are_a_scorers() -> None:
    assert spans_of_tags(["B-x", "B-x", "I-x", "O", "I-y"]) == ((0, 1, "x"), (1, 3, "x"), (4, 5, "y"))


def test_tasks_over_the_same_inputs_share_rows() -> None:
    groups = row_groups(model(), {"a": LABELLED, "b": MARKED, "c": LABELLED[:4]})
    assert [group.tasks for group in groups] == [("a", "b"), ("c",)]
    row = groups[0].rows[0]  # [CLS] a b new york [SEP]
    assert row["labels"] == {"a": "first", "b": [-100, "O", "O", "B-city", "I-city", -100]}


def test_words_with_tags_are_rows_too() -> None:
    (group,) = row_groups(model(), {"b": [Example(["new", "love"], ("B-city", "O"))]})
    assert group.rows[0]["labels"] == {"b": [-100, "B-city", "O", -100]}


def trained(seed: int = 1, epochs: int = 40) -> tuple[Model, list[float]]:
    made = model()
    made.train_only("Parallel('a', b='a')")
    groups = row_groups(made, {"a": LABELLED, "b": MARKED})
    history = fit(made, made.plan("Parallel('a', b='a')"), groups, Settings(epochs, 4, 3e-2, seed=seed))
    return made, list(history.losses)


def test_training_learns_and_leaves_what_is_frozen() -> None:
    before = {name: value.clone() for name, value in bert().named_parameters()}
    made, losses = trained()
    assert losses[-1] < 0.2 < losses[0]
    assert not made.training
    assert all(torch.equal(before[name], value) for name, value in made.backbone.named_parameters())
    scores = evaluate(made.plan("Parallel('a', b='a')"), {"a": LABELLED, "b": MARKED})
    assert scores["a"]["accuracy"] == 1.0 and scores["b"]["f1"] == 1.0


def test_the_same_seed_gives_the_same_weights() -> None:
    states = [trained(seed, 3)[0].state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_tasks_over_different_inputs_alternate() -> None:
    made = model()
    plan = made.plan("Parallel('a', b='a')")
    made.train_only(plan.expression)
    steps: list[int] = []
    history = fit(
        made,
        plan,
        row_groups(made, {"a": LABELLED, "b": MARKED[:4]}),
        Settings(2, 4),
        on_step=lambda done, total, loss: steps.append(total),
    )
    assert history.steps == 6 and steps == [6] * 6


def test_nothing_to_train_and_losses_that_are_not_finite() -> None:
    made = model()
    made.requires_grad_(False)
    groups = row_groups(made, {"a": LABELLED})
    with pytest.raises(ConfigError, match="nothing is to be trained"):
        fit(made, made.plan("a"), groups, Settings())
    made.train_only("a")
    with torch.no_grad():
        for parameter in made.heads["a"].parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(InputError, match="the loss is nan at step 1"):
        fit(made, made.plan("a"), groups, Settings())


def test_the_head_alone_learns_what_states_tell() -> None:
    made = model()
    states = made.state_dict()
    config = make_head_config("classification", labels=["first", "second"], pooling="mean")
    answered = head_only(made, config, LABELLED, LABELLED, seed=1)
    assert answered.scores()["accuracy"] >= 0.75
    assert head_only(made, config, LABELLED, LABELLED, seed=1) == answered
    assert all(torch.equal(value, states[name]) for name, value in made.state_dict().items())
    tags = make_head_config("tagging", labels=["O", "B-city", "I-city"])
    assert head_only(made, tags, MARKED * 30, MARKED, seed=1).scores()["f1"] > 0.5


def test_counts_of_words_learn_each_kind_of_task() -> None:
    assert tfidf("single", LABELLED, LABELLED).scores()["accuracy"] == 1.0
    assert tfidf("tagging", MARKED, MARKED).scores()["f1"] == 1.0
    words = [Example(str(row.input).split(), ("O",) * len(str(row.input).split())) for row in MARKED[:2]]
    words.append(Example(["new", "york"], ("B-city", "I-city")))
    assert tfidf("tagging", words, words).scores()["f1"] == 1.0
    pairs = [Example((a, b), "same" if a == b else "other") for a in "abcd" for b in "abcd"]
    doubled = [Example((f"{a} {a}", f"{b} {b}"), row.target) for row in pairs for a, b in [row.input]]
    assert tfidf("single", doubled * 3, doubled).scores()["accuracy"] > 0.7
    numbers = [Example(text, float(text.count("a"))) for text in ("a a", "b b", "a b a a", "b a b")]
    assert tfidf("regression", numbers, numbers).scores()["pearson"] > 0
    several = [Example("red cat", ("red", "cat")), Example("blue cat", ("cat",)), Example("red dog", ("red",))]
    assert tfidf("multi_label", several * 3, several).scores()["f1_micro"] > 0.7


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="no_such_package is not installed"):
        require("no_such_package.inside")
