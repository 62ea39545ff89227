"""Question answering: a head that marks where in a text the answer stands."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertForQuestionAnswering

from compose.errors import ConfigError, InputError
from compose.heads.answers import answer_positions, best_answer
from compose.heads.build import build_head
from compose.heads.head import Head, HeadInput, Host
from compose.heads.spans import Token, Window
from compose.heads.spec import make_head_config
from compose.runtime.attach import attach
from compose.runtime.model import Model
from compose.runtime.texts import encode
from compose.specs import BackboneSpec
from compose.train.collator import TaskCollator
from tests.heads.texts import LIMIT, bert, tokenizer

LONG = ("which?", "ab cd ef gh ij kl mn op qr st uv wx yz new york love abc")


def head(width: int = 16, **options: Any) -> Head:
    torch.manual_seed(2)
    made = build_head("qa", "question_answering", Host(BackboneSpec("bert", width, ())), **options)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


def model(**options: Any) -> Model:
    made = attach(bert(), tokenizer())
    made.add_adapter("qa", "seq_bn", reduction_factor=2)
    made.register(made.heads, "qa", head(**options))
    return made


def test_logits_and_loss_are_those_of_transformers() -> None:
    theirs = BertForQuestionAnswering(bert().config).eval()
    own = head()
    own.load_tensors({"out.weight": theirs.qa_outputs.weight.data, "out.bias": theirs.qa_outputs.bias.data})
    ids = torch.randint(4, 30, (4, 9), generator=torch.Generator().manual_seed(0))
    starts, ends = torch.tensor([1, 0, 3, 8]), torch.tensor([4, 0, 20, 8])  # 20 is past the row
    with torch.no_grad():
        expected = theirs(ids, start_positions=starts.clone(), end_positions=ends.clone())
        given = HeadInput(theirs.bert(ids).last_hidden_state, attention_mask=torch.ones_like(ids))
        found = own(given, torch.stack([starts, ends], 1))
    torch.testing.assert_close(found.logits.unbind(-1), (expected.start_logits, expected.end_logits))
    torch.testing.assert_close(found.loss, expected.loss)


def test_the_loss_does_not_see_padding() -> None:
    own, states = head(), torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    labels = torch.tensor([[2, 5], [1, 3]])
    whole = own(HeadInput(states, attention_mask=mask), labels).loss
    alone = [own(HeadInput(states[:1]), labels[:1]).loss, own(HeadInput(states[1:, :4]), labels[1:]).loss]
    torch.testing.assert_close(whole, sum(alone) / 2)
    padding = own(HeadInput(states, attention_mask=mask), torch.tensor([[2, 5], [4, 6]])).loss
    torch.testing.assert_close(padding, alone[0])  # positions in padding are not counted


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ([[1.0, 2.0]], "positions of tokens are needed"),
        ([[-1, 2]], r"label -1 at \[0, 0\] is no position"),
        ([1], r"\[1, 2\] is needed"),
    ],
)
def test_labels_that_are_no_positions(labels: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        head()(HeadInput(torch.zeros(1, 4, 16)), labels)


def test_options() -> None:
    assert make_head_config("question_answering").to_dict() == {
        "kind": "question_answering",
        "layers": 1,
        "activation": "tanh",
        "dropout": None,
        "max_answer_length": 30,
        "unanswerable": False,
    }
    with pytest.raises(ConfigError) as caught:
        make_head_config("question_answering", labels=2, max_answer_length=0)
    assert len(caught.value.problems) == 2


def tokens_of(question: int, text: str) -> tuple[Token, ...]:
    """A pair's tokens: a first one, some of the question, and one for each letter of the text, with a last one."""
    added = Token(None, None, (0, 0))
    asked = [Token(0, place, (place, place + 1)) for place in range(question)]
    own = [Token(1, place, (place, place + 1)) for place, letter in enumerate(text) if letter != " "]
    return (added, *asked, added, *own, added)


def by_hand(windows: list[Window], longest: int) -> dict[tuple[int, int], float]:
    """The score of every answer that there could be."""
    found: dict[tuple[int, int], float] = {}
    for window in windows:
        places = [place for place, token in enumerate(window.tokens) if token.sequence == 1]
        for first in places:
            for last in (place for place in places if 0 <= place - first < longest):
                span = window.tokens[first].span[0], window.tokens[last].span[1]
                score = float(window.logits[first, 0] + window.logits[last, 1])
                found[span] = max(score, found.get(span, score))
    return found


@pytest.mark.parametrize("longest", [1, 3, 50])
@pytest.mark.parametrize("unanswerable", [False, True])
def test_the_best_answer_of_all(longest: int, unanswerable: bool) -> None:
    generator = torch.Generator().manual_seed(longest)
    tokens, text = tokens_of(2, "ab cd efg"), "ab cd efg"
    parts = [tokens[:8], (*tokens[:4], *tokens[6:])]  # the windows share two tokens
    windows = [Window(torch.randn(len(part), 2, generator=generator), (), part) for part in parts]
    best = best_answer(windows, longest, unanswerable)
    scores = by_hand(windows, longest)
    nothing = min(float(window.logits[0].sum()) for window in windows)
    every = torch.tensor([*scores.values(), *([nothing] if unanswerable else [])], dtype=torch.float64)
    if unanswerable and nothing > max(scores.values()):
        assert best.span is None and best.score == pytest.approx(nothing)
    else:
        assert best.span is not None and text[slice(*best.span)]
        assert scores[best.span] == max(scores.values()) == pytest.approx(best.score)
    assert best.probability == pytest.approx(float(every.softmax(0).max()), abs=1e-6)
    assert best.none == pytest.approx(float(every.softmax(0)[-1]) if unanswerable else 0.0, abs=1e-6)


def test_no_answer_takes_all_windows() -> None:
    tokens = tokens_of(1, "abc")
    none, some = torch.zeros(len(tokens), 2), torch.zeros(len(tokens), 2)
    none[0] = 9.0
    some[0], some[4] = -9.0, torch.tensor([2.0, 3.0])
    assert best_answer([Window(none, (), tokens)], 5, True).span is None
    assert best_answer([Window(none, (), tokens)], 5, False).span is not None
    both = best_answer([Window(none, (), tokens), Window(some, (), tokens)], 5, True)
    assert both.span == (1, 2) and both.score == 5.0
    empty = best_answer([Window(none[:3], (), tokens_of(1, ""))], 5, False)
    assert empty.span is None and empty.probability == 1.0


def test_characters_to_tokens() -> None:
    tokens = [token._replace(span=(2, 4)) if token.span == (3, 4) else token for token in tokens_of(2, "ab cd")]
    assert answer_positions(tokens, 3, 5, "ab cd") == (6, 7)  # although tokens begin with the space before them
    assert answer_positions(tokens, 2, 5, "ab cd") == (6, 7)
    assert answer_positions(tokens[:7], 3, 5, "ab cd") is None
    assert answer_positions([*tokens[:6], *tokens[7:]], 3, 5, "ab cd") is None
    assert answer_positions(tokens[:4], 0, 1, "ab cd") is None


def test_predict_says_where_the_answer_stands() -> None:
    made = model(max_answer_length=4)
    said = made.plan("qa").predict([("where?", "in new york, I love it")])[0]["qa"]
    assert list(said) == ["answer", "start", "end", "score", "probability"]
    assert "in new york, I love it"[said["start"] : said["end"]] == said["answer"] != ""
    assert 0 < said["probability"] <= 1
    made = model(unanswerable=True)
    with torch.no_grad():
        made.heads["qa"].out.weight.zero_()
    said = made.plan("qa").predict([("where?", "in new york")])[0]["qa"]  # all scores are equal: the first answer
    assert said["start"] == 0 and said["no_answer"] == pytest.approx(said["probability"])
    said = made.plan("qa").predict([("where?", "")])[0]["qa"]
    assert said["answer"] == "" and said["start"] is said["end"] is None and said["no_answer"] == 1.0


def test_the_best_of_a_long_texts_windows() -> None:
    made = model(max_answer_length=3)
    plan = made.plan("qa")
    (item,) = encode(made.tokenizer, [LONG], LIMIT, stride=4, tokens=True)
    assert len(item.rows) > 2 and all(
        row.features["input_ids"][1:7] == item.rows[0].features["input_ids"][1:7] for row in item.rows
    )
    windows = []
    for row in item.rows:
        batch = {name: torch.tensor([values]) for name, values in row.features.items()}
        windows.append(Window(plan(**batch)["qa"].logits[0].detach(), row.words, row.tokens))
    scores = by_hand(windows, 3)
    start, end = max(scores, key=lambda span: scores[span])
    said = plan.predict([LONG, ("why?", "a b")], stride=4)[0]["qa"]
    assert (said["start"], said["end"], said["answer"]) == (start, end, LONG[1][start:end])
    assert said["score"] == pytest.approx(scores[start, end], abs=1e-5)
    with pytest.raises(InputError, match="the backbone takes"):
        plan.predict([LONG])


def test_one_text_alone_has_no_question() -> None:
    made = model()
    made.add_adapter("topic", "seq_bn", reduction_factor=2)
    made.add_head("topic", "classification", labels=2)
    with pytest.raises(InputError, match=r"(?s)input 0.*'qa' answers a question by a text.*input 2"):
        made.plan('Parallel("qa", "topic")').predict(["a", ("a", "b"), ["a", "b"]])
    routed = made.plan("Route(qa='qa', topic='topic')")
    answers = routed.predict(["a", ("a", "b")], route=["topic", "qa"])
    assert [list(answer) for answer in answers] == [["topic"], ["qa"]]
    made.tokenizer = None
    with pytest.raises(InputError, match="no tokenizer"):
        made.plan("qa").predict([("a", "b")])


def test_positions_in_batches() -> None:
    """Under `labels`, by task, or as transformers calls them; moved by padding, and not counted past the row."""
    words = tokenizer()
    rows = [{**words("a", "b c d")}, {**words("a", "b")}]
    collate = TaskCollator(words, {"qa": head()})
    assert collate([{**rows[0], "labels": [3, 4]}, {**rows[1], "labels": [3, 9]}])["labels"].tolist() == [
        [3, 4],
        [3, -100],
    ]
    by_task = [{**rows[0], "labels": {"qa": torch.tensor([3, 4])}}, {**rows[1], "labels": {"qa": None}}]
    assert collate(by_task)["labels"]["qa"].tolist() == [[3, 4], [-100, -100]]
    named = [{**rows[0], "start_positions": 3, "end_positions": torch.tensor(5)}]
    named += [{**rows[1], "start_positions": 3, "end_positions": 3}]
    assert TaskCollator(words)(named)["labels"].tolist() == [[3, 5], [3, 3]]
    left = TaskCollator(tokenizer(padding_side="left"), {"qa": head()})
    assert left([{**rows[0], "labels": [0, 0]}, {**rows[1], "labels": [0, 3]}])["labels"].tolist() == [[0, 0], [2, 5]]
    assert collate([{**rows[0], "labels": {"other": 1}}])["labels"]["qa"].tolist() == [[-100, -100]]
    for wrong in ([1], 3, [1, 2, 3], ["a", "b"]):
        with pytest.raises(InputError, match="the first and the last token"):
            collate([{**rows[0], "labels": wrong}])
