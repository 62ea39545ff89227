"""The vectors of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compose.methods import init
from compose.methods.part import Context, Part
from compose.methods.prompt_tuning.spec import PromptTuningConfig
from compose.methods.tokens import inserted
from compose.specs import ActingSpec, SiteSpec


class PromptPart(Part):
    """A prompt (Lester et al., 2021): [p_1 .. p_n, y_1 .. y_t], or [y_1, p_1 .. p_n, y_2 .. y_t].

    Its vectors stand where the embeddings' output does: nothing is added to them, and no LayerNorm is theirs. With
    `as_words` p and y are what the embeddings make of both, at the positions 1 .. n and n + 1 .. n + t.

    Args:
        config: the options.
        acting: its row of the adapter's spec.
        site: the site: the width.
    """

    has_increment = False

    def __init__(self, config: PromptTuningConfig, acting: ActingSpec, site: SiteSpec) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.prompt_length, site.width_out))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draws fresh vectors."""
        scale = self.config.random_uniform_scale
        nn.init.uniform_(self.weight, -scale, scale, generator=init.generator(self.config.init_weights_seed))

    @torch.no_grad()
    def start_from(self, embeddings: Tensor) -> None:
        """Begins with the embeddings of a text, [tokens, width], repeated or cut to the prompt's length."""
        length = len(self.weight)
        times = -(-length // len(embeddings))
        self.weight.copy_(embeddings.repeat(times, 1)[:length])

    def forward(self, y: Tensor, context: Context) -> Tensor:
        """y with the prompt among its tokens, [rows, tokens + length, width]."""
        vectors = self.weight.expand(len(y), -1, -1)
        if self.config.as_words:
            embedding, places = context.embedding, None if context.tokens is None else context.tokens.places
            assert embedding is not None, "the runtime gives it where the spec says that a text moves"
            y, vectors = embedding.moved_on(y, len(self.weight), places), embedding.words(self.weight)
        return inserted(y, vectors.to(y.dtype), self.config.place)

    def context_after(self, context: Context) -> Context:
        """The tokens are others by now, and what are words have positions before the text's."""
        length = len(self.weight)
        if context.tokens is not None:
            tokens = context.tokens.longer(self.config.place, length, self.config.adapterhub_mask)
            context = context._replace(tokens=tokens)
        if self.config.as_words and context.embedding is not None:
            context = context._replace(embedding=context.embedding.further(length))
        return context

    @classmethod
    def grouped(cls, parts: Sequence[PromptPart], ys: Tensor, context: Context) -> Tensor:
        """n parts one after the other; see `Part.grouped`."""
        return torch.stack([part(y, context) for part, y in zip(parts, ys, strict=True)])
