"""What a call is given and cannot take: said before anything runs, whatever transformers would have made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from compose.dsl import Parallel
from compose.errors import InputError
from compose.runtime.model import Model
from compose.runtime.runnable import RunnablePlan
from tests import tiny


def model_of(architecture: str = "bert") -> Model:
    model = tiny.model(architecture)
    for name in ("a", "b"):
        model.add_adapter(name)
        model.add_head(name, labels=2)
    return model


@pytest.fixture(scope="module")
def plan() -> RunnablePlan:
    return model_of().plan(Parallel("a", "b"))


def first_legal(error: InputError) -> str:
    return str(error).split("legal: ")[1].split(",")[0]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("label", "'labels'"),
        ("task", "'tasks'"),
        ("loss_weight", "'loss_weights'"),
        ("attentionmask", "'attention_mask'"),
    ],
)
def test_a_mistyped_keyword_is_no_input(plan: RunnablePlan, name: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"there is no input '{name}'") as caught:
        plan(**tiny.inputs(), **{name: torch.ones(3, 7)})
    assert first_legal(caught.value) == nearest


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_every_backbone_refuses_them_and_takes_its_own(architecture: str) -> None:
    plan = model_of(architecture).plan("a")
    inputs = tiny.inputs(architecture)
    with pytest.raises(InputError) as caught:
        plan.fusion_attention(**inputs, foo=1, bar=2)
    assert [problem.got for problem in caught.value.problems] == ["foo", "bar"]
    found = plan.states(**inputs, output_hidden_states=True)
    assert len(found.get("hidden_states") or found.decoder_hidden_states) == 3


def test_what_only_a_call_takes_is_said_elsewhere(plan: RunnablePlan) -> None:
    with pytest.raises(InputError) as caught:
        plan.states(**tiny.inputs(), labels=torch.zeros(3))
    (problem,) = caught.value.problems
    assert problem.hint == "plan(..., labels=...)" and "labels" not in problem.legal and "route" in problem.legal
    with pytest.raises(InputError, match="there is no input 'label'"):
        plan(**tiny.inputs(), label=torch.zeros(3), labels={"a": torch.zeros(3, dtype=torch.long)})


IDS = torch.ones(3, 7, dtype=torch.long)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "beyond the vocabulary": (
        {"input_ids": IDS * tiny.VOCABULARY},
        "input_ids has 50, but the backbone knows 50 tokens",
    ),
    "negative": ({"input_ids": -IDS}, "input_ids has -1, but"),
    "types": ({"input_ids": IDS, "token_type_ids": IDS * 2}, "knows 2 types of tokens, 0 to 1"),
    "floats": ({"input_ids": IDS.float()}, "input_ids is of type torch.float32"),
    "one row without its batch": ({"input_ids": IDS[0]}, r"input_ids is \[7\], but a batch has rows"),
    "no rows at all": ({"input_ids": IDS[0, 0]}, r"input_ids is \[\], but a batch has rows"),
    "tuples wanted": ({"input_ids": IDS, "return_dict": False}, "return_dict=False"),
    "mask of other rows": ({"input_ids": IDS, "attention_mask": IDS[:2]}, r"attention_mask is \[2, 7\], but the batch"),
    "mask of other tokens": ({"input_ids": IDS, "attention_mask": IDS[:, :6]}, r"attention_mask is \[3, 6\]"),
    "mask of one row": ({"input_ids": IDS, "attention_mask": IDS[:1]}, r"attention_mask is \[1, 7\]"),
    "flat mask": ({"input_ids": IDS, "attention_mask": IDS[0]}, r"attention_mask is \[7\]"),
    "large mask": ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 7, 7)}, r"attention_mask is \[2, 1, 7, 7\]"),
}


@pytest.mark.parametrize("inputs, said", WRONG.values(), ids=WRONG)
def test_values_and_shapes(plan: RunnablePlan, inputs: dict[str, Any], said: str) -> None:
    for call in (plan, plan.states, plan.fusion_attention):
        with pytest.raises(InputError, match=said):
            call(**inputs)


def test_everything_is_said_at_once(plan: RunnablePlan) -> None:
    with pytest.raises(InputError) as caught:
        plan(input_ids=-IDS, attention_mask=IDS[:2], token_type_ids=IDS.float())
    assert len(caught.value.problems) == 3


def test_decoders_are_looked_at_too() -> None:
    plan = model_of("t5").plan("a")
    with pytest.raises(InputError, match="decoder_input_ids has 50"):
        plan(input_ids=IDS, decoder_input_ids=IDS * 50)
    with pytest.raises(InputError, match=r"decoder_attention_mask is \[3, 7\]"):
        plan(input_ids=IDS, decoder_input_ids=IDS[:, :5], decoder_attention_mask=IDS)
    gpt2 = model_of("gpt2").plan("a")
    with pytest.raises(InputError, match="token_type_ids has 50, but the backbone knows 50 tokens"):
        gpt2(input_ids=IDS, token_type_ids=IDS * 50)


@pytest.mark.parametrize(
    "mask", [torch.ones(3, 1, 7, 7, dtype=torch.bool), torch.ones(1, 1, 7, 7, dtype=torch.bool)], ids=["rows", "one"]
)
def test_masks_that_fit_are_taken(mask: torch.Tensor, plan: RunnablePlan) -> None:
    inputs = tiny.inputs()
    torch.testing.assert_close(plan(**inputs, attention_mask=mask)["b"].logits, plan(**inputs)["b"].logits)


def test_a_resized_vocabulary_counts() -> None:
    model = model_of()
    model.backbone.resize_token_embeddings(60, mean_resizing=False)
    plan = model.plan("a")
    assert plan.states(input_ids=IDS * 59).last_hidden_state.shape == (3, 7, 32)
    with pytest.raises(InputError, match="knows 60 tokens"):
        plan.states(input_ids=IDS * 60)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0, 2.0], "loss_weights is a list"),
        ({"a": float("nan")}, "nan"),
        ({"a": float("inf")}, "inf"),
        ({"a": "2"}, "'2'"),
        ({"a": None}, "None"),
        ({"a": True}, "True"),
    ],
    ids=str,
)
def test_loss_weights(plan: RunnablePlan, weights: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan(**tiny.inputs(), labels={"a": IDS[:, 0], "b": IDS[:, 0]}, loss_weights=weights)


@pytest.mark.parametrize(
    "call",
    [
        lambda plan, y: plan(**tiny.inputs(), labels={"a": y, 0: y}),
        lambda plan, y: plan(**tiny.inputs(), labels={"a": y, -2: y}),
        lambda plan, y: plan(**tiny.inputs(), labels={"a": y, "b": y}, loss_weights={"a": 1.0, 0: 2.0}),
    ],
    ids=["position", "from the end", "weights"],
)
def test_a_task_is_labelled_once(plan: RunnablePlan, call: Callable[[RunnablePlan, torch.Tensor], object]) -> None:
    with pytest.raises(InputError, match="task 'a' is given twice, as 'a' and as"):
        call(plan, IDS[:, 0])
