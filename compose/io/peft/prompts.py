"""PEFT's prompt tuning and ours; and its P-tuning, whose files hold what its encoder makes: a prompt.

Its prompts are words: embeddings add positions to them, and the text's come after. That is `as_words` here, and where
embeddings are those of words and nothing else (LLaMA, T5) any prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compose.errors import ComposeError, FileError, Problem
from compose.io.modules import BackboneModules
from compose.io.peft.virtual import LEAVES, common_content, rows_of, stacks_of
from compose.io.records import AdapterRecord, as_file_error
from compose.methods.prompt_tuning.spec import PromptTuningConfig


def read(
    config: Mapping[str, Any], weights: Mapping[str, Mapping[str, Tensor]], modules: BackboneModules, where: str
) -> tuple[PromptTuningConfig, dict[str, Tensor]]:
    """Our config and tensors by canonical name; see `Method`.

    Raises:
        FileError: weights that are missing or of another size, or a backbone that reads no words.
    """
    copies = stacks_of(config, where)  # of an encoder-decoder, PEFT uses the first alone
    rows = rows_of(config, weights, modules.spec.hidden_size, copies, where)
    try:
        made = PromptTuningConfig.make({"prompt_length": len(rows), "as_words": not modules.words_only})
        (part,) = made.describe("read", modules.spec).parts
    except ComposeError as error:
        raise as_file_error(error, where) from error
    return made, {f"{part.layer}.{part.site}.weight": rows}


def write(
    record: AdapterRecord, modules: BackboneModules, what: str
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """PEFT's config and weights; see `Method`.

    Raises:
        FileError: options that PEFT's prompts do not have.
    """
    config, spec = record.config, modules.spec
    assert isinstance(config, PromptTuningConfig)
    problems = []
    if config.combine != "prefix":
        why = "its prompts come before the first token"
        problems.append(Problem(f"{what}: PEFT has no combine={config.combine!r}", why=why))
    if config.adapterhub_mask:
        problems.append(Problem(f"{what}: PEFT has no adapterhub_mask=True", hint="format='adapterhub'"))
    if not config.as_words and not modules.words_only:
        why = "its prompts are words, to which the embeddings add positions"
        problems.append(Problem(f"{what}: PEFT has no as_words=False on '{spec.architecture}'", why=why))
    if problems:
        raise FileError(problems)
    (rows,) = record.tensors.values()
    unused = torch.zeros_like(rows) if spec.encoder_decoder else rows[:0]
    content = {**common_content(len(rows), spec.hidden_size, modules), "prompt_tuning_init": "RANDOM"}
    return content, {"": {LEAVES[0]: torch.cat([rows, unused])}}
