"""What a site's program does to each class, in words."""

from __future__ import annotations

from compose.dsl import Routed, Slice
from compose.graph.graph import Operation
from compose.graph.pieces import Selector
from compose.plan import SiteProgram

NOTHING = "nothing"


class Acts:
    """The operations behind each register of a program, written out."""

    def __init__(self, program: SiteProgram) -> None:
        self.program = program
        self._made: dict[int, tuple[Operation, tuple[int, ...]]] = {
            output: (operation, inputs)
            for step in program.steps
            for operation, inputs, output in zip(step.operations, step.inputs, step.outputs, strict=True)
        }

    def texts(self) -> tuple[str, ...]:
        """What acts on each class that goes out; equal ones once, groups marked."""
        texts = list(dict.fromkeys(self.of(index) for index in range(len(self.program.results))))
        grouped = sum(len(step.operations) for step in self.program.steps if len(step.operations) > 1)
        if grouped:
            texts[-1] += f" ({grouped} in grouped products)"
        return tuple(texts)

    def of(self, index: int) -> str:
        """What acts on the class that goes out in place `index`; who closes the site belongs to it."""
        text = self._text(self.program.results[index], None) or NOTHING
        own = self.program.closings[index] == "adapter"
        return f"{text}, which closes the site" if own else text

    def _text(self, register: int, base: int | None) -> str:
        """What leads from the register `base` to another, empty if nothing does."""
        if register == base or register not in self._made:
            return ""
        operation, inputs = self._made[register]
        if operation.kind == "sum":
            return f"sum({', '.join(self._text(source, base) for source in inputs)})"
        own = self._own(operation, inputs)
        return " > ".join(text for text in (self._text(inputs[0], base), own) if text)

    def _own(self, operation: Operation, inputs: tuple[int, ...]) -> str:
        value, others = inputs[0], inputs[1:]
        texts = [self._text(source, value) or "None" for source in others]
        if operation.kind in ("adapter", "increment"):
            return operation.name
        if operation.kind in ("fuse", "mixture"):
            given = iter(texts)
            candidates = ", ".join(next(given) if slot else "None" for slot in operation.slots)
            form = f"{operation.form} " if operation.form else ""
            return f"{form}fuse {operation.name} ({candidates})"
        if operation.kind == "average":
            return f"average ({', '.join(texts)})"
        if operation.kind == "join":
            pairs = zip(operation.selectors, texts, strict=True)
            return f"({', '.join(f'{_selector(selector)}: {text}' for selector, text in pairs)})"
        return ""


def _selector(selector: Selector) -> str:
    if isinstance(selector, Routed):
        return selector.task
    size = selector.sizes[selector.index]
    what = "rows" if isinstance(selector, Slice) else "tokens"
    return f"{'other' if size is None else size} {what}"
