"""What every head is: states in, a task's output out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from compose.errors import FileError, InputError, Problem
from compose.heads.labels import as_tensor
from compose.heads.output import TaskOutput
from compose.heads.spans import Source, Window
from compose.heads.spec import IGNORED, HeadConfig
from compose.specs import BackboneSpec, HeadSpec

Weighs = Literal["rows", "positives"]


class HeadInput(NamedTuple):
    """What a head reads.

    Args:
        states: `[rows, tokens, width]`, the backbone's last states.
        pooled: `[rows, width]`, its pooled output, if it has one.
        attention_mask: `[rows, tokens]`, 0 where padded; None: nothing is.
        input_ids: `[rows, tokens]`, None for images.
        inverse: undoes the branch's invertible adapters, `[rows, tokens, width]`; None: it has none.
        first: `[rows, width]`, the state at the first position where a prompt may stand before the row's own
            tokens; None: that of `states`.
        embeddings: `[vocabulary, width]`, the backbone's input embeddings, for a head that `reads_embeddings`.
    """

    states: Tensor
    pooled: Tensor | None = None
    attention_mask: Tensor | None = None
    input_ids: Tensor | None = None
    inverse: Callable[[Tensor], Tensor] | None = None
    first: Tensor | None = None
    embeddings: Tensor | None = None


class Host(NamedTuple):
    """What a head takes from the backbone that it is for.

    Args:
        spec: the backbone's spec.
        dropout: the rate of its own classifier.
        norm_eps: epsilon of its LayerNorms.
        deviation: standard deviation of fresh weights.
        pad_token: id of its padding token, if it names one.
        eos_tokens: ids of its end-of-sequence tokens.
        scale: factor on the decoder's states before its own vocabulary (T5).
        embeddings: `[vocabulary, width]`, its input embeddings.
    """

    spec: BackboneSpec
    dropout: float = 0.1
    norm_eps: float = 1e-12
    deviation: float = 0.02
    pad_token: int | None = None
    eos_tokens: tuple[int, ...] = ()
    scale: float = 1.0
    embeddings: Tensor | None = None

    @classmethod
    def of(cls, spec: BackboneSpec, config: object = None, embeddings: Tensor | None = None) -> Host:
        """Read from a transformers config, or with the defaults without one."""

        def value(*names: str, default: Any) -> Any:
            found = (getattr(config, name, None) for name in names)
            return next((item for item in found if item is not None), default)

        eos = value("eos_token_id", default=())
        scaled = spec.architecture == "t5" and value("scale_decoder_outputs", "tie_word_embeddings", default=True)
        return cls(
            spec,
            dropout=value("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", default=0.1),
            norm_eps=value("layer_norm_eps", default=1e-12),
            deviation=value("initializer_range", default=0.02),
            pad_token=value("pad_token_id", default=None),
            eos_tokens=tuple(eos) if isinstance(eos, (list, tuple)) else (eos,),
            scale=spec.hidden_size**-0.5 if scaled else 1.0,
            embeddings=embeddings,
        )


class Head(nn.Module):
    """A task's head. Abstract: a kind says how logits come from states, and what they mean.

    Args:
        name: the head's name, and its task's.
        config: its config.

    Attributes:
        per_token: whether the logits are `[rows, tokens, ...]`.
        needs_words: whether `decode` reads the source's words, or where its tokens stand.
        needs_pair: whether its inputs are pairs of texts.
        positions: of how many positions of tokens a row's label consists, where it does.
        reads_inverse: whether its last map, to the vocabulary, reads states after `HeadInput.inverse`.
        inner_width: then, the width that this map reads.
        class_weights: `[labels]`, how much each label weighs in the loss while it is trained, in the way that `weighs`
            says; None: all alike.
    """

    per_token: ClassVar[bool] = False
    needs_words: ClassVar[bool] = False
    needs_pair: ClassVar[bool] = False
    positions: ClassVar[int] = 0
    reads_inverse: ClassVar[bool] = False
    inner_width: int = 0

    def __init__(self, name: str, config: HeadConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.class_weights: Tensor | None = None

    @property
    def weighs(self) -> Weighs | None:
        """What `class_weights` weigh in its loss: `rows` by their class, or where labels do not exclude each other the
        `positives`, a label's yes against its no; None: its loss has no classes."""
        return None

    @property
    def reads_embeddings(self) -> bool:
        """Whether it reads `HeadInput.embeddings`."""
        return False

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels' names, empty if it has none."""
        return tuple(getattr(self.config, "labels", ()))

    @property
    def where(self) -> str:
        """How errors call it."""
        return f"task '{self.name}'"

    @property
    def spec(self) -> HeadSpec:
        """What the compiler knows of it."""
        raise _abstract(self, "spec")

    def logits(self, inputs: HeadInput) -> Tensor:
        """Logits from states."""
        raise _abstract(self, "logits")

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInput) -> Tensor:
        """The loss; checks the labels first.

        Raises:
            InputError: the labels do not fit.
        """
        raise _abstract(self, "loss")

    def counted(self, labels: Tensor) -> float:
        """How many labels the loss is the mean over; so the losses of parts of a batch make up that of the whole.

        Args:
            labels: of a batch, as a collator makes them.
        """
        there = ~labels.isnan() & (labels != IGNORED) if labels.is_floating_point() else labels != IGNORED
        if self.class_weights is None or self.weighs != "rows":
            return float(there.sum())
        return float(self.class_weights[labels[there].cpu().long()].sum())

    def decode(self, windows: Sequence[Window], source: Source) -> dict[str, Any]:
        """The prediction for one input.

        Args:
            windows: the logits of its windows; one unless it was too long for the backbone.
            source: its text and words.
        """
        raise _abstract(self, "decode")

    def decode_all(self, windows: Sequence[Sequence[Window]], sources: Sequence[Source]) -> list[dict[str, Any]]:
        """The predictions for several inputs, the same as `decode` gives for each; a kind may be faster at it.

        Args:
            windows: of each input.
            sources: of each input.
        """
        return [self.decode(each, source) for each, source in zip(windows, sources, strict=True)]

    def forward(self, inputs: HeadInput, labels: object = None) -> TaskOutput:
        """The output for these rows.

        Args:
            inputs: what the head reads.
            labels: a tensor, an array or nested lists, names of labels among them; None: no loss.

        Raises:
            InputError: the labels or the inputs do not fit.
        """
        logits = self.logits(inputs)
        if labels is None:
            return TaskOutput(logits=logits)
        given = as_tensor(labels, self.encode_label, self.where).to(logits.device)
        return TaskOutput(logits=logits, loss=self.loss(logits, given, inputs))

    def encode_label(self, label: object) -> int:
        """A label's id.

        Args:
            label: its name, its id, or None or -100 for a label that is not counted.

        Raises:
            InputError: there is no such label.
        """
        if label is None or label == IGNORED:
            return IGNORED
        if isinstance(label, str) and label in self.labels:
            return self.labels.index(label)
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(self.labels):
            return label
        raise InputError(
            f"there is no label {label!r}",
            where=self.where,
            why=f"ids go from 0 to {len(self.labels) - 1}" if self.labels else "its labels have no names",
            got=str(label),
            legal=self.labels,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Its weights by their canonical names (`dense.0.weight`, `out.bias`)."""
        return dict(self.state_dict())

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts weights in place, all or none.

        Raises:
            FileError: some are missing, unexpected, of another shape, or not finite.
        """
        own = self.tensors()
        where = f"head '{self.name}'"
        problems = [Problem(f"tensor '{name}' is missing", where=where) for name in own if name not in tensors]
        for name, tensor in tensors.items():
            if name not in own:
                problems.append(Problem(f"tensor '{name}' is not the head's", where=where, got=name, legal=tuple(own)))
            elif tensor.shape != own[name].shape:
                shapes = f"{list(tensor.shape)}, but {list(own[name].shape)} is needed"
                problems.append(Problem(f"tensor '{name}' has the shape {shapes}", where=where))
            elif not tensor.isfinite().all():
                problems.append(Problem(f"tensor '{name}' has values that are not finite", where=where))
        if problems:
            raise FileError(problems)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])


def _abstract(head: Head, name: str) -> TypeError:
    return TypeError(f"{type(head).__name__} does not define {name}")


def activation(name: str | None) -> nn.Module:
    """A module for a name in `ACTIVATIONS`; the identity for None."""
    if name is None:
        return nn.Identity()
    return nn.LeakyReLU() if name == "leakyrelu" else ACT2FN[name]


def linear(width_in: int, width_out: int, bias: bool, deviation: float) -> nn.Linear:
    """A fresh linear map, drawn as transformers draws a classifier."""
    module = nn.Linear(width_in, width_out, bias=bias)
    nn.init.normal_(module.weight, std=deviation)
    if bias:
        nn.init.zeros_(module.bias)
    return module
