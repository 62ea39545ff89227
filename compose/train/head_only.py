"""The baseline of the head alone: the same head over the frozen backbone's states, computed once."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from compose.errors import ConfigError
from compose.heads.build import build_head
from compose.heads.head import Head, HeadInput
from compose.heads.spans import Window
from compose.heads.spec import HeadConfig, VocabularyConfig
from compose.runtime.batches import batches, default_tokens
from compose.runtime.host import host_of
from compose.runtime.readers import reader_of
from compose.runtime.texts import Item
from compose.train.collator import TaskCollator
from compose.train.data import Example
from compose.train.evaluate import Answered, answered
from compose.train.rows import encode_inputs, row_label

if TYPE_CHECKING:
    from compose.runtime.model import Model

States = dict[Hashable, Tensor]
"""The frozen backbone's states of an input, by its row's key."""

EPOCHS = 60
LEARNING_RATE = 2e-3
BATCH = 32


def head_only(
    model: Model,
    config: HeadConfig,
    train: Sequence[Example],
    test: Sequence[Example],
    seed: int,
    known: States | None = None,
) -> Answered:
    """Trains a fresh head on the frozen backbone; gives what it then answers.

    Args:
        model: the backbone.
        config: the head's config.
        train: what it learns from.
        test: what it is scored on.
        seed: of its weights and of the order of rows.
        known: states computed before, for tasks over the same inputs; new ones are added.

    Raises:
        ConfigError: a head over the vocabulary, which learns from what the backbone does not see.
    """
    if isinstance(config, VocabularyConfig):
        raise ConfigError(f"there is no baseline of the head alone for a {config.kind} head")
    known = {} if known is None else known
    model.eval()
    torch.manual_seed(seed)
    head = build_head("head_only", config, host_of(model)).to(model.device, model.adapter_dtype)
    items = encode_inputs(model, [example.input for example in train], tokens=True)
    _fit(model, head, items, train, random.Random(seed), known)
    items = encode_inputs(model, [example.input for example in test], tokens=True)
    head.eval()
    with torch.no_grad():
        answers = []
        for item, states in zip(items, frozen_states(model, items, known), strict=True):
            output = head(_head_input([item], [states], model))
            row = item.rows[0]
            answers.append(head.decode([Window(output.logits[0], row.words, row.tokens)], item.source))
    return answered(head, test, answers)


def frozen_states(model: Model, items: Sequence[Item], known: States) -> list[Tensor]:
    """The backbone's last states of each item, `[tokens, width]`, without padding.

    Args:
        model: the backbone.
        items: of one row each.
        known: states by input; those of new inputs are added.
    """
    plan, reader = model.plan(None), reader_of(model)
    rows = [item.rows[0] for item in items]
    keys = [reader.key(row) for row in rows]
    new = [index for index, key in enumerate(keys) if key not in known]
    tokens = default_tokens(model.device.type)
    with torch.no_grad():
        for places in batches([len(rows[index].words) for index in new], batch_tokens=tokens):
            chosen = [new[place] for place in places]
            inputs: dict[str, Any] = reader.batch([rows[index] for index in chosen])
            states = plan.states(**inputs)["last_hidden_state"]
            for index, row in zip(chosen, states, strict=True):
                known[keys[index]] = row[: len(rows[index].words)].to(model.adapter_dtype).clone()
    return [known[key] for key in keys]


def _fit(
    model: Model, head: Head, items: Sequence[Item], examples: Sequence[Example], order: random.Random, known: States
) -> None:
    states = frozen_states(model, items, known)
    collate = TaskCollator(model.tokenizer, {head.name: head})
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE)
    steps = EPOCHS * math.ceil(len(items) / BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    head.train()
    for _ in range(EPOCHS):
        places = list(range(len(items)))
        order.shuffle(places)
        for start in range(0, len(places), BATCH):
            chosen = places[start : start + BATCH]
            rows = [
                {
                    **items[place].rows[0].features,
                    "labels": {head.name: row_label(examples[place], items[place], head)},
                }
                for place in chosen
            ]
            labels = collate(rows)["labels"][head.name]
            inputs = _head_input([items[place] for place in chosen], [states[place] for place in chosen], model)
            loss = head(inputs, labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _head_input(items: Sequence[Item], states: Sequence[Tensor], model: Model) -> HeadInput:
    batch = reader_of(model).batch([item.rows[0] for item in items])
    padded = pad_sequence(list(states), batch_first=True)
    return HeadInput(padded, None, batch.get("attention_mask"), batch.get("input_ids"))
