"""The options of prompt tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compose.errors import ConfigError, Problem
from compose.methods.config import COUNT, FLAG, SEED, Config, Option, choice, is_number, option
from compose.specs import ActingSpec, AdapterSpec, BackboneSpec

SCALE = Option(lambda value: is_number(value) and 0 <= value <= 1000, "a number from 0 to 1000", normal=float)
TEXT = Option(lambda value: value is None or (isinstance(value, str) and bool(value.strip())), "a text, or None")


@dataclass(frozen=True)
class PromptTuningConfig(Config):
    """Options of prompt tuning (Lester et al., 2021); the names are AdapterHub's.

    Args:
        prompt_length: number of vectors.
        prompt_init: how they start: `random_uniform`, or `from_string`: as the backbone's embeddings of a text.
        prompt_init_text: that text; its tokens are repeated, or cut, to the length.
        random_uniform_scale: they are drawn from minus this to this.
        combine: `prefix`, before the row's first token, or `prefix_after_bos`, after it.
        as_words: they are vectors of words, to which the embeddings add positions and what else is theirs, and the
            text's positions come after the prompt's; so PEFT does. Else they stand where the embeddings' output does.
        adapterhub_mask: attention is masked as AdapterHub does: the prompt's own tokens attend to the text's
            padding, so that a row's result depends on how far its batch is padded; on DistilBERT a padded batch
            attends to prompts more (scores are 1 higher). It is set for what is read from AdapterHub's files.
        init_weights_seed: seed of the draw; the global generator otherwise.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "prompt_tuning"

    prompt_length: int = option(10, COUNT)
    prompt_init: str = option("random_uniform", choice("random_uniform", "from_string"))
    prompt_init_text: str | None = option(None, TEXT)
    random_uniform_scale: float = option(0.5, SCALE)
    combine: str = option("prefix", choice("prefix", "prefix_after_bos"))
    as_words: bool = option(False, FLAG)
    adapterhub_mask: bool = option(False, FLAG)
    init_weights_seed: int | None = option(None, SEED)

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[Problem]:
        """A start from a text without one, or words in a place that theirs cannot be."""
        problems = []
        if values["prompt_init"] == "from_string" and values["prompt_init_text"] is None:
            what, hint = "prompt_init='from_string' needs a text", "prompt_init_text='Classify the sentiment:'"
            problems.append(Problem(what, where=cls.method, hint=hint))
        if values["as_words"] and values["combine"] != "prefix":
            what = f"as_words=True has no meaning with combine={values['combine']!r}"
            problems.append(Problem(what, where=cls.method, why="its positions come first", hint="combine='prefix'"))
        if values["as_words"] and values["adapterhub_mask"]:
            what = "as_words=True has no meaning with adapterhub_mask=True"
            problems.append(Problem(what, where=cls.method, why="AdapterHub's prompts are no words"))
        return problems

    @property
    def place(self) -> int:
        """Before which of a row's tokens the prompt comes."""
        return {"prefix": 0, "prefix_after_bos": 1}[self.combine]

    def describe(self, name: str, backbone: BackboneSpec) -> AdapterSpec:
        """One part, at the embeddings; see `Config.describe`."""
        if self.adapterhub_mask and (backbone.causal or backbone.encoder_decoder):
            raise ConfigError(
                f"adapterhub_mask=True has no meaning on a backbone of architecture '{backbone.architecture}'",
                where=self.method,
                why="AdapterHub has prompts of encoders alone",
                hint="adapterhub_mask=False",
            )
        if self.as_words and backbone.modality != "text":
            raise ConfigError(
                f"as_words=True has no meaning on a backbone of architecture '{backbone.architecture}'",
                where=self.method,
                why="it reads no words",
                hint="as_words=False",
            )
        layer, site = backbone.embed_key
        part = ActingSpec(
            layer=layer,
            site=site,
            rank=self.prompt_length,
            parameters=self.prompt_length * backbone.hidden_size,
            multiplies=0,
            increment_multiplies=0,
            shape=(self.method, self.prompt_length, self.place, self.adapterhub_mask, self.as_words),
            added_tokens=self.prompt_length,
            moves_text=self.as_words,
        )
        return AdapterSpec(name, self.method, (part,), fusible=False)
