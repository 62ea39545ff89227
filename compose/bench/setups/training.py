"""Steps of training: forward, backward and AdamW over one batch again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from compose.bench.loop import Work
from compose.bench.setups.models import (
    LABELS,
    Told,
    batch_of,
    expression_of,
    labels_of,
    our_model,
    plain_backbone,
)

LEARNING_RATE = 1e-4


def plain(told: Told, attention: str) -> Work:
    """The whole backbone fine-tuned, under a linear head on the first token."""
    backbone = plain_backbone(told, attention)
    head = nn.Linear(told["config"]["hidden_size"], LABELS).to(told["device"])
    batch, labels = batch_of(told), labels_of(told)
    backbone.train()

    def loss() -> Any:
        logits = head(backbone(**batch).last_hidden_state[:, 0])
        return nn.functional.cross_entropy(logits, labels)

    return steps([*backbone.parameters(), *head.parameters()], loss)


def ours(told: Told, attention: str) -> Work:
    """An adapter and its head, or a fusion and its head, trained."""
    model = our_model(told, attention)
    expression = expression_of(model, told)
    fused = told["setup"] == "fuse"
    model.train_only(expression, "fusion" if fused else "adapters")
    if told.get("checkpointing"):
        model.gradient_checkpointing_enable()
    plan, batch, labels = model.plan(expression), batch_of(told), labels_of(told)
    model.train()

    def loss() -> Any:
        found = plan(**batch, labels=labels).loss
        return found + model.fusions["task"].regularization_loss() if fused else found

    return steps([parameter for parameter in model.parameters() if parameter.requires_grad], loss)


def steps(trained: list[nn.Parameter], loss: Callable[[], Any]) -> Work:
    """One step of AdamW on a loss."""
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)

    def call() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return Work(call, {"trained": sum(parameter.numel() for parameter in trained)})
