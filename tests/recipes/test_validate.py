"""Recipes that are wrong: each mistake is told with its place, its line and what is legal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.dsl import Fuse
from compose.errors import RecipeError
from compose.recipes.checks import fusion_block
from tests.recipes.small import SMALL, changed, error_of, read


def test_the_small_recipe_is_valid() -> None:
    recipe = read(SMALL)
    assert recipe.backbone.name == "minilm"
    assert recipe.train[0].rate == 5e-4
    assert recipe.adapters["topic"].options == {"reduction_factor": 8}


def test_learning_rates_depend_on_the_regime() -> None:
    stages = '  - {expression: topic}\n  - {expression: \'Fuse("topic", "entities", name="topic")\', regime: fusion}\n'
    recipe = read(changed("  - {expression: topic, epochs: 2, learning_rate: 5e-4}\n", stages))
    assert [stage.rate for stage in recipe.train] == [1e-4, 5e-5]


@pytest.mark.parametrize(
    ("name", "text", "block"),
    [
        ("both", 'Fuse("a", "b")', Fuse("a", "b", name="both")),
        ("both", 'Fuse("a", "b", name="both")', Fuse("a", "b", name="both")),
        ("a,b", 'Fuse("a", "b", name="a,b")', Fuse("a", "b")),
    ],
)
def test_a_fusion_is_called_what_it_is_listed_as(name: str, text: str, block: Fuse) -> None:
    assert fusion_block(name, text) == block


# what is replaced, by what, where the error is, and what it says
WRONG = [
    ("recipe: 1\n", "", "r.yaml:1:1", "'recipe' is missing"),
    ("recipe: 1", "recipe: 2", "r.yaml:1:9", "recipe must be 1, not 2"),
    ("name: small", "name: ../small", "r.yaml:2:7", "not a legal name"),
    ("name: small", "name: ..", "r.yaml:2:7", "not a legal name"),
    ("name: small", "name: 5", "r.yaml:2:7", "name must be text, not 5"),
    ("backbone: minilm", "backbone:", "r.yaml:3:10", "backbone must be a mapping, not nothing"),
    ("backbone: minilm", "backbone: {nam: minilm}", "r.yaml:3:12", "'name'"),
    ("backbone: minilm", "backbone: [minilm]", "r.yaml:3:11", "must be a mapping, not a list"),
    ("heads:\n", "haeds:\n", "r.yaml:10:1", "legal: 'heads'"),
    ("epochs: 2", "epocs: 2", "r.yaml:16:25", "legal: 'epochs'"),
    ("epochs: 2", "epochs: 2.5", "r.yaml:16:33", "must be a whole number, not 2.5"),
    ("epochs: 2", "epochs: 0", "r.yaml:16:33", "greater than or equal to 1"),
    ("epochs: 2", "epochs: true", "r.yaml:16:33", "must be a whole number, not true"),
    ("learning_rate: 5e-4", "lr: 5e-4", "r.yaml:16:36", "'learning_rate' is what it is called here"),
    ("learning_rate: 5e-4", 'learning_rate: "5e-4"', "r.yaml:16:51", "must be a number, not '5e-4'"),
    ("learning_rate: 5e-4", "learning_rate: -1", "r.yaml:16:51", "greater than 0"),
    ("learning_rate: 5e-4", "reduction_factor: 8", "r.yaml:16:36", "unknown key"),
    ("learning_rate: 5e-4", "texts: [a]", "r.yaml:16:36", "'texts' belongs in predict"),
    ("learning_rate: 5e-4", "regime: adapter", "r.yaml:16:44", "legal: 'adapters'"),
    ("learning_rate: 5e-4", "regime: fusion", "r.yaml:16:44", "no Fuse"),
    ("learning_rate: 5e-4", "last: 2", "r.yaml:16:36", "last has no meaning with regime: adapters"),
    ("texts: [Where is it]", "compare: {messages: [1]}", "r.yaml:22:3", "predict.compare has nothing to answer"),
    ("learning_rate: 5e-4", "data: {tone: topic}", "r.yaml:16:43", "no task 'tone'"),
    ("learning_rate: 5e-4", "data: {topic: topics}", "r.yaml:16:50", "legal: 'topic'"),
    ("learning_rate: 5e-4", "data: {topic: entities}", "r.yaml:16:50", "learns from label"),
    ("learning_rate: 5e-4", "loss_weights: {tone: 2}", "r.yaml:16:51", "no task 'tone'"),
    ("{expression: topic, epochs: 2", "{expression: topik, epochs: 2", "r.yaml:16:18", "no adapter 'topik'"),
    ("{expression: topic, epochs: 2", "{expression: None, epochs: 2", "r.yaml:16:18", "without a name"),
    ("{expression: topic, epochs: 2", "{expression: 'Stack(\"topic\"', epochs: 2", "r.yaml:16:24", "not an expression"),
    ("{expression: topic, epochs: 2", "{expression: 'Stak(\"topic\")', epochs: 2", "r.yaml:16:19", "'Stack'"),
    ('Parallel("topic", "entities")', 'Parallel("topic", x="entities")', "r.yaml:18:41", "task 'x' has no head"),
    ('Parallel("topic", "entities")', 'Parallel("topic", "entitis")', "r.yaml:18:41", "legal: 'entities'"),
    ('Parallel("topic", "entities")', 'Fuse("topic", "entities")', "r.yaml:18", "no fusion 'topic,entities'"),
    ('Parallel("topic", "entities")', '__import__("os")', "r.yaml:18:23", "no block is called '__import__'"),
    ("method: seq_bn", "metod: seq_bn", "r.yaml:8:11", "'method' is what it is called here"),
    ("method: seq_bn, ", "", "r.yaml:8:3", "'method' is missing"),
    ("bundled, name: messages, entities: entities", "digits, label: digit", "r.yaml:6:3", "images, but data.topic has"),
    ("method: seq_bn", "method: seq_nb", "r.yaml:8:19", "legal: 'seq_bn'"),
    ("reduction_factor: 8", "reduction_facto: 8", "r.yaml:8:27", "legal: 'reduction_factor'"),
    ("reduction_factor: 8", "reduction_factor: -1", "r.yaml:8:45", "reduction_factor must be"),
    ("r: 4", "r: four", "r.yaml:9:31", "r must be a whole number"),
    ("pooling: mean", "pooling: average", "r.yaml:11:42", "pooling='average' is not legal"),
    ("pooling: mean", "labels: [a, a]", "r.yaml:11:41", "each name may occur once"),
    ("pooling: mean", "labels: [a]", "r.yaml:11", "one label leaves nothing to choose"),
    ("pooling: mean", "labels: []", "r.yaml:11:41", "at least one name"),
    ("pooling: mean", "labels: [1, 2]", "r.yaml:11:41", "every name is a text"),
    ("pooling: mean", "labels: [sale, sales]", "r.yaml:11:41", "which the head 'topic' lacks"),
    ("pooling: mean", "labels: 2", "r.yaml:11:41", "legal: 'LABEL_0', 'LABEL_1'"),
    ("pooling: mean", "labels: {sale: 1, sales: 0}", "r.yaml:11:41", "which the head 'topic' lacks"),
    ("kind: tagging", "kind: tagging, labels: [O, B-place, I-place]", "r.yaml:12:37", "the head 'entities' lacks"),
    ("kind: tagging", "kind: taging", "r.yaml:12:20", "legal: 'tagging'"),
    ("kind: tagging", "kind: causal_lm", "r.yaml:18", "causal_lm head 'entities' learns from text alone"),
    ("kind: classification", "kind: multi_label", "r.yaml:16:18", "learns from labels, but data.topic has label"),
    ("kind: classification", "kind: regression", "r.yaml:16:18", "learns from score, but data.topic has label"),
    ("kind: tagging", "kind: classification", "r.yaml:18", "learns from label, but data.entities has entities"),
    ('Fuse("topic", "entities")', 'Stack("topic", "entities")', "r.yaml:14:23", "is a Fuse"),
    ('Fuse("topic", "entities")', 'Fuse("topic", "b", name="c")', "r.yaml:14:23", "listed as 'topic'"),
    ('Fuse("topic", "entities")', 'Fuse("topic", "b")', "r.yaml:14:38", "no adapter 'b'"),
    ("messages, label: topic", "mesages, label: topic", "r.yaml:5:32", "legal: 'messages'"),
    ("label: topic", "label: topics", "r.yaml:5:49", "no column 'topics'"),
    ("label: topic", "lable: topic", "r.yaml:5:42", "legal: 'label'"),
    ("label: topic", "labels: topic", "r.yaml:5:50", "'topic' must be a list of texts"),
    ("label: topic", "score: topic", "r.yaml:5:49", "'topic' must be a number"),
    ("label: topic", "text: text", "r.yaml:18", "learns from label, but data.topic has text alone"),
    ("label: topic", "label: topic, label_map: {sales: s}", "r.yaml:5:67", "'label_map' has no '"),
    ("label: topic", "label: topic, label_map: 5", "r.yaml:5:67", "label_map must be a mapping, not 5"),
    ("label: topic", "text: text, label_map: [a, b]", "r.yaml:5:54", "no meaning where there are no labels"),
    ("label: topic", "label: topic, scheme: iob1", "r.yaml:5:56", "no meaning without tags"),
    ("label: topic", "label: topic, validation: 2", "r.yaml:5:68", "is 2, but should be less than 1"),
    (", label: topic", "", "r.yaml:5:3", "needs one of label, labels, score, entities, tags and answers; it has none"),
    ("label: topic", "entities: entities, tokens: text", "r.yaml:5:52", "entities has no meaning beside tokens"),
    ("label: topic", "label: topic, tokens: text", "r.yaml:5:10", "'text' must be a list of words"),
    ("label: topic", "label: topic, entities: entities", "r.yaml:5:3", "it has label and entities"),
    ("label: topic", "tags: topic", "r.yaml:5:3", "tags and tokens belong together"),
    ("kind: bundled, name: messages, label", "name: messages, label", "r.yaml:5:3", "'kind' is missing"),
    ("kind: bundled, name: messages, label", "kind: hugging, name: m, label", "r.yaml:5:17", "'bundled'"),
    ("kind: bundled, name: messages, label", "kind: hub, name: m, label", "r.yaml:18", "no test part"),
    ("kind: bundled, name: messages, label", "kind: hub, name: ../m, label", "r.yaml:5:28", "a data set of the hub"),
    ("bundled, name: messages, l", "hub, trust_remote_code: true, name: m, l", "r.yaml:5:22", "unknown key"),
    ("bundled, name: messages, label", "csv, train: a.csv, validation: [], label", "r.yaml:5:48", "a share between"),
    ("bundled, name: messages, label", "csv, train: a.csv, validation: 1.5, label", "r.yaml:5:48", "a share between"),
    ("bundled, name: messages, label", "csv, train: a.csv, delimiter: '\"', label", "r.yaml:5:47", "be one character"),
    ("bundled, name: messages, label", "csv, train: a.csv, delimiter: ', ', label", "r.yaml:5:47", "be one character"),
    ("bundled, name: messages, label: topic", "conll, train: a, tags: 1.5", "r.yaml:5:40", "be its position"),
    ("kind: bundled, name: messages, label", "kind: jsonl, train: no.jsonl, label", "r.yaml:5:31", "cannot be read"),
    ("first: [0, 1]", "first: []", "r.yaml:19:42", "first must not be empty"),
    ("first: [0, 1]", "first: [0, -1]", "r.yaml:19:46", "evaluate.drop_curve.first.1"),
    ("first: [0, 1]", "first: 1", "r.yaml:19:42", "must be a list, not 1"),
    ("texts: [Where is it]", "texts: Where is it", "r.yaml:22:10", "must be a list, not 'Where"),
    ("texts: [Where is it]", "texts: [5]", "r.yaml:22:11", "must be text, not 5"),
    ("reduction_factor: 8", "pruning: snip", "r.yaml:8:36", "snip without sparsity"),
    ("r: 4", "sparsity: 0.5, pruning: snip", "r.yaml:9:52", "no stage has the adapter 'entities'"),
    ("r: 4", "pruning_examples: 8", "r.yaml:9:28", "pruning_examples has no meaning with pruning: magnitude"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "where", "what"), WRONG, ids=[f"{w[3]} {w[1]}"[:60] for w in WRONG])
def test_mistakes_are_told_with_their_place(old: str, new: str, where: str, what: str) -> None:
    found = error_of(changed(old, new))
    assert what in found
    assert any(line.startswith((f"{where}:", f"{where} ")) for line in found.splitlines()), found


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("sampling: evenly", "sampling must be one of the legal values, not 'evenly'"),
        ("sampling: {temperature: 0.5}", "sampling.temperature is 0.5"),
        ("class_weights: even", "class_weights must be balanced, not 'even'"),
        ("class_weights: {topic: even}", "class_weights.topic must be balanced, not 'even'"),
        ("class_weights: {topic: {billing: 0}}", "class_weights.topic.billing is 0"),
    ],
)
def test_what_may_be_a_word_or_a_mapping_is_one_mistake(given: str, what: str) -> None:
    found = error_of(changed("learning_rate: 5e-4", given))
    assert what in found and found.count("r.yaml:") == 1, found


def test_all_mistakes_are_told_at_once() -> None:
    text = changed("epochs: 2", "epochs: x").replace("name: small", "nam: small").replace("first: [0, 1]", "first: 0")
    found = error_of(text)
    assert {"r.yaml:1:1", "r.yaml:2:1", "r.yaml:16:33", "r.yaml:19:42"} <= {
        line.split(": ")[0] for line in found.splitlines()
    }


def test_parts_that_are_wrong_by_themselves_are_told_beside_what_the_schema_refuses() -> None:
    text = changed("epochs: 2", "epocs: 2").replace("kind: tagging", "kind: taging").replace("r: 4", "r: four")
    found = error_of(text.replace("label: topic}", "label: topics}").replace("name: small", "nam: small"))
    assert all(
        part in found for part in ("'epochs'", "'taging'", "r must be", "no column 'topics'", "'name' is missing")
    )
    assert "has no head" not in found and "there is no adapter" not in found, "what hangs on others is not guessed at"


def test_the_line_of_an_expression_is_marked_at_the_name() -> None:
    found = error_of(changed('Parallel("topic", "entities")', 'Parallel("topic", "entitis")'))
    lines = found.splitlines()
    shown = next(index for index, line in enumerate(lines) if "entitis" in line and line.startswith("  | "))
    assert lines[shown + 1].index("^") == lines[shown].index('"entitis"')


@pytest.mark.parametrize("text", ["[]", "5", "text", "- a", "true"])
def test_a_recipe_is_a_mapping(text: str) -> None:
    assert "r.yaml:1:1: a recipe is a mapping" in error_of(text)


def test_overrides_are_read_like_the_recipe() -> None:
    recipe = read(
        SMALL,
        "train.0.learning_rate=5e-5",
        "adapters.topic.reduction_factor=4",
        "evaluate.drop_curve.first=[0, 2]",
        "seed=3",
        "report.plots=false",
        "data.topic.sample.train=20",
    )
    assert recipe.train[0].learning_rate == 5e-5
    assert recipe.adapters["topic"].options == {"reduction_factor": 4}
    assert recipe.evaluate.drop_curve is not None and recipe.evaluate.drop_curve.first == (0, 2)
    assert recipe.seed == 3 and not recipe.report.plots
    assert recipe.data["topic"].sample.train == 20


def test_names_with_dots_are_found() -> None:
    text = SMALL.replace("topic", "to.pic").replace("label: to.pic", "label: topic")
    assert read(text, "adapters.to.pic.reduction_factor=4").adapters["to.pic"].options == {"reduction_factor": 4}


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("train.0.epocs=3", "unknown key 'epocs' in train.0"),
        ("train.0.epochs=x", "train.0.epochs must be a whole number, not 'x'"),
        ("nonsense", "not an override"),
        ("=5", "not an override"),
        ("train.7.epochs=3", "train is a list: '7' is none of 0 to 0"),
        ("train.x.epochs=3", "'x' is none of 0 to 0"),
        ("name.x=3", "name is a single value"),
        ("seed=[1", "the value cannot be read"),
        ("seed=&a 1", "the value cannot be read"),
        ("seed=.nan", "the value cannot be read"),
        ("wrong=1", "unknown key 'wrong'"),
    ],
)
def test_wrong_overrides_are_named(override: str, what: str) -> None:
    found = error_of(SMALL, override)
    assert what in found and f"--set {override}" in found


@given(st.data())
def test_mutations_are_valid_or_refused_with_a_place(data: st.DataObject) -> None:
    text = SMALL
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        piece = data.draw(st.text(st.sampled_from("ab01:-[]{},\"'#&*!|\n .()"), max_size=8))
        text = text[:start] + piece + text[end:]
    try:
        read(text)
    except RecipeError as error:
        assert all(problem.where.startswith("r.yaml") for problem in error.problems)
