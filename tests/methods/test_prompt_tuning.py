"""Prompts: where they are put, what becomes of masks and positions, how they start."""

from __future__ import annotations

import pytest
import torch

from compose.errors import ConfigError
from compose.methods.adapter import Adapter
from compose.methods.part import Context
from compose.methods.prompt_tuning.module import PromptPart
from compose.methods.registry import make_config
from compose.methods.tokens import Tokens
from compose.runtime.attach import attach
from tests import tiny
from tests.heads import texts
from tests.methods.shapes import BERT_BASE, encoder, encoder_decoder


def prompt(**options: object) -> PromptPart:
    part = Adapter("a", make_config("prompt_tuning", prompt_length=2, **options), encoder()).part(-1, "embed")
    assert isinstance(part, PromptPart)
    return part


def test_before_the_first_token_and_after_it() -> None:
    y, mask = torch.randn(1, 3, 12), torch.tensor([[1, 1, 0]])
    context = Context(tokens=Tokens.of(mask, torch.tensor([[4, 5, 6]])))
    part = prompt()
    assert torch.equal(part(y, context)[0], torch.cat([part.weight, y[0]]))
    after = part.context_after(context).tokens
    assert after is not None and after.positions is not None
    assert (after.mask.tolist(), after.places.tolist(), after.ends.tolist()) == ([[1, 1, 1, 1, 0]], [[2, 3, 4]], [5])
    assert after.positions.tolist() == [[4, 5, 6, 7, 8]]
    part = prompt(combine="prefix_after_bos")
    assert torch.equal(part(y, context)[0], torch.cat([y[0, :1], part.weight, y[0, 1:]]))
    after = part.context_after(context).tokens
    assert after is not None and after.positions is not None
    assert (after.mask.tolist(), after.places.tolist()) == ([[1, 1, 1, 1, 0]], [[0, 3, 4]])
    assert after.positions.tolist() == [[4, 5, 6, 7, 8]]


def test_a_row_of_one_token() -> None:
    part = prompt(combine="prefix_after_bos")
    context = Context(tokens=Tokens.of(torch.ones(1, 1, dtype=torch.long), torch.tensor([[7]])))
    assert part(torch.randn(1, 1, 12), context).shape == (1, 3, 12)
    after = part.context_after(context).tokens
    assert after is not None and after.positions is not None
    assert (after.places.tolist(), after.positions.tolist()) == ([[0]], [[7, 8, 9]])


def test_what_attends_to_padding() -> None:
    """In AdapterHub the prompt's own tokens do, others do not; what pads shorter rows is seen by none."""
    tokens = Tokens.of(torch.tensor([[1, 0]]), seeing=True).longer(0, 1, seeing=True).padded(4)
    least = torch.finfo(torch.float32).min
    seen = (tokens.attended(torch.float32) > least).int()[0, 0].tolist()
    assert seen == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    raised = tokens.attended(torch.float32, 1.0)[0, 0]
    assert raised[:, 0].tolist() == [0, 1, 1, 1] and raised[0, :3].tolist() == [0, 0, 0]


def test_sizes_and_seeds() -> None:
    spec = make_config("prompt_tuning").describe("a", BERT_BASE)
    assert [(part.layer, part.site, part.parameters, part.added_tokens) for part in spec.parts] == [
        (-1, "embed", 7680, 10)
    ]
    assert not spec.fusible
    one, other = (prompt(init_weights_seed=5, random_uniform_scale=0.1).weight for _ in range(2))
    assert torch.equal(one, other) and 0.05 < float(one.detach().abs().max()) <= 0.1


def test_options_that_are_wrong() -> None:
    with pytest.raises(ConfigError, match=r"(?s)prompt_length must be.*prompt_init must be.*combine must be"):
        make_config("prompt_tuning", prompt_length=0, prompt_init="zeros", combine="suffix")
    with pytest.raises(ConfigError, match="needs a text"):
        make_config("prompt_tuning", prompt_init="from_string")
    for spec in (encoder_decoder(), tiny.model("gpt2").spec):
        with pytest.raises(ConfigError, match="adapterhub_mask=True has no meaning"):
            make_config("prompt_tuning", adapterhub_mask=True).describe("a", spec)


def test_a_prompt_that_begins_as_a_text() -> None:
    model = attach(texts.bert(), texts.tokenizer())
    text = "ab"
    options = {"prompt_init": "from_string", "prompt_init_text": text}
    ids = model.tokenizer(text)["input_ids"]
    for length in (len(ids) + 3, 2):
        adapter = model.add_adapter(f"p{length}", "prompt_tuning", prompt_length=length, **options)
        wanted = [ids[place % len(ids)] for place in range(length)]
        assert torch.equal(adapter.tensors()["-1.embed.weight"], model.backbone.get_input_embeddings().weight[wanted])
    with pytest.raises(ConfigError, match="no tokenizer"):
        tiny.model().add_adapter("a", "prompt_tuning", **options)
    model.backbone.resize_token_embeddings(2)
    with pytest.raises(ConfigError, match="in prompt_init_text, but the backbone knows 2 tokens"):
        model.add_adapter("a", "prompt_tuning", **options)


def test_predictions_are_of_the_text_s_own_words() -> None:
    model = attach(texts.bert(), texts.tokenizer())
    for name in ("one", "two"):
        model.add_adapter(name, "prompt_tuning", prompt_length=len(name) * 2)
        model.add_head(name, "tagging", labels=["O", "B"])
    inputs = [["a", "b", "a"], ["b"]]
    both = model.plan("Parallel('one', 'two')").predict(inputs)
    for name in ("one", "two"):
        alone = model.plan(f"'{name}'").predict(inputs)
        assert [each[name]["tags"] for each in both] == [each[name]["tags"] for each in alone]
        assert [len(each[name]["tags"]) for each in alone] == [3, 1]
