"""The loss of a part of a step's rows, such that the parts' losses add up to that of the whole step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from compose.dsl import fuses, own_name

if TYPE_CHECKING:
    from compose.runtime.model import Model
    from compose.runtime.runnable import RunnablePlan
    from compose.runtime.trunk import TrunkStates


@dataclass(frozen=True)
class Part:
    """Some rows of a step, ready to run.

    Args:
        inputs: of the backbone, `[rows, ...]` each.
        labels: by task.
        tasks: that are trained.
        weights: of the tasks' losses, 1 where there is none.
        route: for a plan with a Route, the task of each row.
        trunk: the trunk's states of the inputs, if they are known.
        last: whether what is added once a step, and not for rows, is added here.
    """

    inputs: Mapping[str, Any]
    labels: Mapping[str, Tensor]
    tasks: tuple[str, ...]
    weights: Mapping[str | int, float]
    route: Sequence[str] | None
    trunk: TrunkStates | None
    last: bool


class TrainedPlan(nn.Module):
    """A plan as a module that gives a loss: what a Trainer trains, and several processes share.

    Its parameters are those that are trained alone: a Trainer walks over all of them more than once a step.

    Args:
        plan: what to run.
    """

    accepts_loss_kwargs = False
    """A Trainer is not to count labels: parts say themselves what they weigh."""

    def __init__(self, plan: RunnablePlan) -> None:
        super().__init__()
        self.plan = plan
        self.trained = nn.ParameterList(trained_parameters(plan.model))

    def forward(self, part: Part, plan: RunnablePlan) -> Tensor:
        """The loss of a part.

        Args:
            part: the rows.
            plan: what to run in this step.
        """
        found = plan(
            **part.inputs,
            labels=part.labels,
            tasks=list(part.tasks),
            loss_weights=part.weights,
            route=part.route,
            trunk_states=part.trunk,
        ).loss
        assert found is not None  # every row has labels
        return found + self._regularization(found) if part.last else found

    def _regularization(self, loss: Tensor) -> Tensor:
        """What fusions that are trained add to a step's loss."""
        added = loss.new_zeros(())
        for name in dict.fromkeys(own_name(fuse) or "" for fuse in fuses(self.plan.expression)):
            fusion = self.plan.model.fusions[name]
            if any(parameter.requires_grad for parameter in fusion.parameters()):
                added = added + fusion.regularization_loss()
        return added


def trained_parameters(model: Model) -> list[nn.Parameter]:
    """What asks for gradients."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def shares(whole: Mapping[str, float], part: Mapping[str, float]) -> dict[str, float]:
    """Of each task, which share of a step's labels a part has; the mean loss over the step is the sum of shares.

    Args:
        whole: labels of the step, by task.
        part: labels of the part.

    >>> shares({"a": 8.0, "b": 0.0}, {"a": 2.0, "b": 0.0})
    {'a': 0.25, 'b': 1.0}
    """
    return {task: part[task] / count if count else 1.0 for task, count in whole.items()}


def weighted(shares: Mapping[str, float], chosen: Mapping[str, float], tasks: Sequence[str]) -> dict[str | int, float]:
    """The weights of tasks' losses in a part: their shares times the weights that were chosen; 1 is left out."""
    found = {task: shares.get(task, 1.0) * chosen.get(task, 1.0) for task in tasks}
    return {task: weight for task, weight in found.items() if weight != 1.0}
