"""What prefixes cost at an attention, all of a site's together."""

from __future__ import annotations

from compose.graph.cost import Cost
from compose.graph.sites import Vocabulary
from compose.plan import SiteProgram
from compose.specs import SubLayerSpec


def core_cost(program: SiteProgram, sublayer: SubLayerSpec, rows: int, tokens: int, vocabulary: Vocabulary) -> Cost:
    """Scores and mixtures over the virtual tokens, and the making of their keys and values.

    Rows are padded to the longest prefix, averaged prefixes are one, and of an adapter that acts on several classes
    of rows keys and values are made once: so the operations of a site cannot be priced one by one.

    Args:
        program: what runs at the attention's core.
        sublayer: the attention.
        rows: of the batch.
        tokens: of a row that look at the virtual ones.
        vocabulary: backbone and adapters.
    """
    lengths = dict.fromkeys(range(program.classes), 0)
    made: dict[str, int] = {}
    for step in program.steps:
        for operation, inputs, output in zip(step.operations, step.inputs, step.outputs, strict=True):
            lengths[output] = max(lengths[register] for register in inputs)
            if operation.kind == "adapter":
                part = vocabulary.adapters[operation.name].by_site[program.layer, program.site]
                lengths[output] += part.rank
                made[operation.name] = part.once_multiplies
    longest = max(lengths[register] for register in program.results)
    attended = 2 * sublayer.attention_width * tokens * longest * rows * len(program.results)
    return Cost(attended + sum(made.values()))
