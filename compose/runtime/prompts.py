"""Prompts that begin as a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from compose.errors import ConfigError
from compose.methods.adapter import Adapter
from compose.methods.prompt_tuning.module import PromptPart
from compose.methods.prompt_tuning.spec import PromptTuningConfig

if TYPE_CHECKING:
    from compose.runtime.model import Model


def start_from_text(model: Model, adapter: Adapter) -> Adapter:
    """A fresh adapter; if it is a prompt whose options say so, it begins as the embeddings of its text.

    The tokens are those that the tokenizer makes of the text, special ones included, as in AdapterHub.

    Raises:
        ConfigError: if the model has no tokenizer, or nothing is left of the text.
    """
    texts = (one for one in adapter.config.members if isinstance(one, PromptTuningConfig))
    config = next((one for one in texts if one.prompt_init == "from_string"), None)
    if config is None:
        return adapter
    if model.tokenizer is None or model.spec.modality != "text":
        raise ConfigError(
            f"adapter {adapter.name!r} begins as a text, but the model has no tokenizer",
            where=config.method,
            hint="compose.attach(backbone, tokenizer), or prompt_init='random_uniform'",
        )
    ids = list(model.tokenizer(config.prompt_init_text)["input_ids"])
    if not ids:
        raise ConfigError(f"prompt_init_text={config.prompt_init_text!r} has no tokens", where=config.method)
    words: Any = model.backbone
    table = words.get_input_embeddings()
    beyond = [id for id in ids if id >= table.num_embeddings]
    if beyond:
        raise ConfigError(
            f"the tokenizer has {beyond[0]} in prompt_init_text, but the backbone knows {table.num_embeddings} tokens",
            where=config.method,
            hint="the backbone's own tokenizer",
        )
    with torch.no_grad():
        embeddings = table(torch.tensor(ids, device=model.device))
    for part in adapter.parts.values():
        if isinstance(part, PromptPart):
            part.start_from(embeddings.to(part.weight))
    return adapter
