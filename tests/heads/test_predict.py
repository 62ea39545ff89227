"""Text in, answers out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from compose.errors import InputError
from compose.runtime.predict import predict
from compose.runtime.texts import encode, longest
from tests.heads.texts import LIMIT, Model, Plan, tokenizer

TAGS = ["O", "B-x", "I-x", "B-y", "I-y"]
TEXTS: list[Any] = [
    "I love it.",
    ("new york", "or not?"),
    ["New", "York", "loving"],
    "",
    "a much longer text, all",
]


@pytest.fixture
def plan() -> Plan:
    model = Model(
        topic=("classification", {"labels": ["a", "b", "c"]}),
        many=("multi_label", {"labels": ["d", "e"]}),
        score=("regression", {}),
        tags=("tagging", {"labels": TAGS}),
        words=("causal_lm", {}),
    )
    return Plan(model)


def assert_same(one: Any, other: Any) -> None:
    """Predictions are equal up to rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one == pytest.approx(other, abs=1e-5)


def test_what_predictions_say(plan: Plan) -> None:
    answer = predict(plan, ["I love it."])[0]
    assert list(answer) == ["topic", "many", "score", "tags", "words"]
    topic = answer["topic"]
    assert topic["probability"] == topic["probabilities"][topic["label"]] == max(topic["probabilities"].values())
    assert sum(topic["probabilities"].values()) == pytest.approx(1)
    many = answer["many"]
    assert many["labels"] == [label for label, value in many["probabilities"].items() if value >= 0.5]
    assert isinstance(answer["score"]["value"], float)
    assert len(answer["words"]["next"]) == 5 and isinstance(answer["words"]["next"][0]["token"], str)
    for entity in answer["tags"]["entities"]:
        assert "I love it."[entity["start"] : entity["end"]] == entity["text"] and 0 < entity["score"] <= 1


def test_order_and_batches_do_not_matter(plan: Plan) -> None:
    together = predict(plan, TEXTS)
    assert len(together) == len(TEXTS)
    alone = [predict(plan, [text])[0] for text in TEXTS]
    assert_same(together, alone)
    assert_same(predict(plan, TEXTS[::-1], batch_size=2), alone[::-1])
    plan.batches.clear()
    predict(plan, TEXTS, batch_size=2)
    widths = [batch["input_ids"].shape[1] for batch in plan.batches]
    assert len(widths) == 3 and widths == sorted(widths)
    plan.batches.clear()
    assert_same(predict(plan, TEXTS, batch_size=2, together=True), alone)
    assert len(plan.batches) == 1


def test_logits_are_the_backbones(plan: Plan) -> None:
    encoded = plan.model.tokenizer("new york", "or not?", return_tensors="pt")
    logits = plan(**encoded)["topic"].logits[0]
    assert predict(plan, [("new york", "or not?")])[0]["topic"]["probabilities"]["b"] == pytest.approx(
        logits.softmax(-1)[1].item(), abs=1e-6
    )


def test_tags_of_given_words(plan: Plan) -> None:
    words = ["New", "York", "loving"]
    answer = predict(plan, [words], tasks=["tags"])[0]
    assert list(answer) == ["tags"]
    encoded = plan.model.tokenizer(words, is_split_into_words=True, return_tensors="pt")
    logits = plan(**encoded)["tags"].logits[0]
    first = [encoded.word_ids().index(word) for word in range(3)]
    assert answer["tags"]["tags"] == [TAGS[int(logits[place].argmax())] for place in first]


def test_pairs_tag_both_texts(plan: Plan) -> None:
    pair = ("new york", "loving it")
    with torch.no_grad():
        plan.model.heads["tags"].out.weight.zero_()
        plan.model.heads["tags"].out.bias.copy_(torch.tensor([0.0, 0, 9, 0, 0]))
    entities = predict(plan, [pair])[0]["tags"]["entities"]
    assert [(entity["sequence"], entity["text"]) for entity in entities] == [
        (0, "new york"),
        (1, "loving it"),
    ]


def test_mode_and_gradients_are_restored(plan: Plan) -> None:
    want = predict(plan, TEXTS)
    plan.model.train()
    plan.model.backbone.encoder.eval()
    modes = [module.training for module in plan.model.modules()]
    assert_same(predict(plan, TEXTS), want)
    assert [module.training for module in plan.model.modules()] == modes and torch.is_grad_enabled()


def test_nothing_and_empty(plan: Plan) -> None:
    assert predict(plan, []) == []
    assert predict(plan, ["", []])[1]["tags"] == {"entities": [], "tags": []}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("text", r"try: \[text\]"),
        (None, "type NoneType"),
        ([1], "input 0: int where"),
        ([("a", "b", "c")], "a tuple of 3"),
        (["fine", ["a", 2]], "input 1: int"),
        ([("a", None)], "NoneType where"),
    ],
)
def test_wrong_inputs(plan: Plan, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict(plan, inputs)


def test_wrong_options_all_at_once(plan: Plan) -> None:
    with pytest.raises(InputError) as caught:
        predict(plan, ["a"], batch_size=0, stride=-1, truncate=True, route=["x", "y"])
    assert len(caught.value.problems) == 4
    plan.model.tokenizer = None
    with pytest.raises(InputError, match="no tokenizer"):
        predict(plan, ["a"])


LONG = "ab cd ef gh ij kl mn op qr st uv wx yz new york love abc"


def test_too_long_names_input_length_and_limit(plan: Plan) -> None:
    length = len(plan.model.tokenizer(LONG, verbose=False).input_ids)
    with pytest.raises(InputError, match=rf"input 1: {length} tokens, but the backbone takes {LIMIT}") as caught:
        predict(plan, ["a", LONG, LONG])
    assert len(caught.value.problems) == 2


def test_truncate(plan: Plan) -> None:
    tokens = plan.model.tokenizer
    predict(plan, [LONG, (LONG, "a b"), ("a b", LONG), (LONG, LONG)], truncate=True)
    (batch,) = plan.batches
    for row, parts in enumerate([(LONG,), (LONG, "a b"), ("a b", LONG), (LONG, LONG)]):
        want = tokens(*parts, truncation=True, max_length=LIMIT)
        assert batch["input_ids"][row].tolist() == want["input_ids"]
        assert batch["token_type_ids"][row].tolist() == want["token_type_ids"]


def test_windows_cover_everything_and_are_merged(plan: Plan) -> None:
    tokens = plan.model.tokenizer
    answer = predict(plan, ["short", LONG], stride=6)[1]
    rows = tokens(LONG, truncation=True, max_length=LIMIT, stride=6, return_overflowing_tokens=True)["input_ids"]
    ran = [
        [token for token in row if token != tokens.pad_token_id]
        for batch in plan.batches
        for row in batch["input_ids"].tolist()
    ]
    assert all(row in ran for row in rows) and len(ran) == len(rows) + 1
    each = [plan(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row)).long()) for row in rows]
    mean = torch.stack([out["topic"].logits[0].softmax(-1) for out in each]).mean(0)
    assert list(answer["topic"]["probabilities"].values()) == pytest.approx(mean.tolist(), abs=1e-5)
    value = torch.stack([out["score"].logits[0, 0] for out in each]).mean()
    assert answer["score"]["value"] == pytest.approx(value.item(), abs=1e-5)


def test_a_word_is_tagged_where_it_is_farthest_from_the_edges(plan: Plan) -> None:
    words = LONG.split()
    (item,) = encode(plan.model.tokenizer, [words], LIMIT, stride=10)
    tags = predict(plan, [words], stride=10)[0]["tags"]["tags"]
    for word, tag in enumerate(tags):
        seen = [(row, row.words.index(word)) for row in item.rows if word in row.words]
        row, place = max(seen, key=lambda at: min(at[1], len(at[0].words) - 1 - at[1]))
        ids = torch.tensor([row.features["input_ids"]])
        logits = plan(input_ids=ids, attention_mask=torch.ones_like(ids))["tags"].logits[0, place]
        assert tag == TAGS[int(logits.argmax())]
    assert any(len([row for row in item.rows if word in row.words]) > 1 for word in range(len(words)))


def test_a_stride_with_no_room(plan: Plan) -> None:
    with pytest.raises(InputError, match="a smaller stride"):
        predict(plan, [LONG], stride=LIMIT)
    with pytest.raises(InputError, match="tells rows by their place"):
        predict(plan, [LONG], stride=4, together=True)


def test_route(plan: Plan) -> None:
    answers = predict(plan, ["a b c d e", "a", "b c"], route=["topic", "tags", "topic"])
    assert [list(answer) for answer in answers] == [["topic"], ["tags"], ["topic"]]
    assert_same(answers[0]["topic"], predict(plan, ["a b c d e"])[0]["topic"])


def test_limits_of_backbones() -> None:
    endless = tokenizer(model_max_length=None)
    small = {
        "vocab_size": 9,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    roberta = RobertaModel(RobertaConfig(**small, max_position_embeddings=34, pad_token_id=1))
    assert longest(endless, roberta) == 32
    assert longest(endless, GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1, n_positions=16))) == 16
    assert longest(tokenizer(model_max_length=10), roberta) == 10
    assert longest(endless, torch.nn.Linear(1, 1)) is None


def test_no_padding_token_and_nothing_added(plan: Plan) -> None:
    """As GPT-2's: an empty text gives no token at all."""
    rust = Tokenizer(models.WordLevel({"<end>": 0, "a": 1, "b": 2}, unk_token="<end>"))
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plan.model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="<end>")
    together = predict(plan, ["a b a", "", "b"])
    assert_same(together[2], predict(plan, ["b"])[0])
    assert together[1]["tags"]["entities"] == []
