"""The plan: a graph scheduled. Which rows exist where, and per layer and site what runs on them.

A plan is data, torch-free and immutable. Past the place where they part, branches are stacked along the
batch, branch-major: rows are `classes` x batch, a class being the branches that are still one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from compose.dsl import Expression
from compose.graph.graph import Graph, Operation
from compose.graph.pieces import Selector
from compose.specs import BackboneSpec, Closing

SiteKey = tuple[int, str]


@dataclass(frozen=True)
class Step:
    """One operation of a site, or several siblings in one: reads and writes registers.

    Args:
        operations: the operation, or those of a group.
        inputs: for each operation the registers it reads.
        outputs: for each operation the register it writes.
    """

    operations: tuple[Operation, ...]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class SiteProgram:
    """What runs at one site.

    Registers 0 to `classes` - 1 hold the value of each class that comes in.

    Args:
        classes: number of classes that come in.
        steps: in order.
        results: the register of each class that goes out.
        sources: for each class that goes out, the class that it came from.
        closings: for each class that goes out, who closes the site.
    """

    layer: int
    site: str
    classes: int
    steps: tuple[Step, ...]
    results: tuple[int, ...]
    sources: tuple[int, ...]
    closings: tuple[Closing, ...]

    @property
    def forks(self) -> bool:
        """Whether more classes go out than come in, or in another order."""
        return self.sources != tuple(range(self.classes))


@dataclass(frozen=True)
class LayerRows:
    """The rows of a layer.

    Args:
        gather: for each class at the layer's input the class of the layer before that it comes from;
            None if they are the same.
        classes: number of classes at the layer's input.
        repeats: for each number of classes that an argument may have been made for, at the stack's input or
            in an earlier layer, which of those each class at this layer's input comes from.
        unfolds: branches part inside this pre-norm layer, so that its output has a dimension more.
        starts: for each class that comes out of the layer, before what acts on its output, the class at the input
            of its stack.
    """

    gather: tuple[int, ...] | None
    classes: int
    repeats: dict[int, tuple[int, ...]]
    unfolds: bool
    starts: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Output:
    """One output of a plan.

    Args:
        task: its name, None if it can be reached by position only.
        head: the head's name.
        branch: the branch whose states it reads.
        rows: which of the branch's rows are its own.
    """

    task: str | None
    head: str | None
    branch: int
    rows: tuple[Selector, ...]


@dataclass(frozen=True)
class Plan:
    """A scheduled graph.

    Args:
        expression: what was compiled.
        backbone: over what.
        graph: the graph after all passes.
        layers: the rows of each layer.
        programs: what runs at each site at which anything does.
        entry: for each class at the decoder's input the class of the encoder's output that it reads.
        memory: for each class at the decoder's input the class at the input of the encoder's first layer.
        starts: for each branch its class at the first layer's input, None for a branch that was pruned.
        added_tokens: how many tokens prompts add to the shortest and to the longest rows.
        branches: for each branch its class among those that heads read, None for a branch that was pruned.
        classes: number of classes at the end of the layers.
        outputs: the outputs asked for, in order.
        training: whether gradients may be asked for.
        given: where something acts on all layers' states: for each layer, and for each class at the end of the
            layers, the class at the layer's input that it comes from; else empty.
    """

    expression: Expression
    backbone: BackboneSpec
    graph: Graph = field(repr=False, compare=False)
    layers: tuple[LayerRows, ...]
    programs: dict[SiteKey, SiteProgram]
    entry: tuple[int, ...]
    branches: tuple[int | None, ...]
    classes: int
    outputs: tuple[Output, ...]
    training: bool = False
    given: tuple[tuple[int, ...], ...] = ()
    memory: tuple[int, ...] = (0,)
    starts: tuple[int | None, ...] = ()
    added_tokens: tuple[int, int] = (0, 0)

    @property
    def embedding(self) -> SiteProgram | None:
        """What runs on the embeddings' output before the layers, if anything does."""
        return self.programs.get(self.backbone.embed_key)

    @property
    def aggregation(self) -> SiteProgram | None:
        """What runs on the states of all layers after them, if anything does."""
        return self.programs.get(self.backbone.states_key)

    @property
    def ends(self) -> int:
        """Number of classes that heads read: more than `classes` where branches part after the layers."""
        return self.classes if self.aggregation is None else len(self.aggregation.results)

    @property
    def tasks(self) -> tuple[str | None, ...]:
        """The outputs' names."""
        return tuple(output.task for output in self.outputs)


def added_tokens(program: SiteProgram | None) -> tuple[int, int]:
    """How many tokens rows have more after a program than before, the least and the most; None: nothing acts."""
    if program is None:
        return (0, 0)
    added = dict.fromkeys(range(program.classes), (0, 0))
    for step in program.steps:
        for operation, inputs, output in zip(step.operations, step.inputs, step.outputs, strict=True):
            # An Average of prompts is of equal ones, which its own input has not met.
            read = inputs[1:] if operation.kind == "average" else inputs
            least, most = zip(*(added[register] for register in read), strict=True)
            added[output] = operation.added_tokens + min(least), operation.added_tokens + max(most)
    least, most = zip(*(added[register] for register in program.results), strict=True)
    return min(least), max(most)
