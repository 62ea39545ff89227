"""AdapterHub itself does a recipe's training: from the same weights, without dropout, it is the same training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peer.same_training import compare
from tests.peer.small import write_small
from tests.peer.test_peer import PEER, pytestmark

__all__ = ["pytestmark"]


def test_the_same_weights_learn_the_same(tmp_path: Path) -> None:
    recipe = str(write_small(tmp_path))
    found = compare(recipe, [], PEER, tmp_path / "runs", start="compose")
    assert list(found["tasks"]) == ["letter", "town"]
    for each in found["tasks"].values():
        assert each["last_loss"]["peer"]["values"] == pytest.approx(each["last_loss"]["compose"]["values"], abs=1e-4)
        assert each["peer"]["values"] == pytest.approx(each["compose"]["values"])
        assert each["trained_parameters"]["peer"] == each["trained_parameters"]["compose"]
    steps = found["exact"]["tasks"]
    assert all(len(each["peer"]) == 8 and each["largest_difference"] < 1e-4 for each in steps.values())
    # All of it was kept: nobody is asked again.
    assert compare(recipe, [], "no such interpreter", tmp_path / "runs", start="compose") == found
    own = compare(recipe, [], PEER, tmp_path / "runs")
    assert own["tasks"]["letter"]["last_loss"]["peer"] != found["tasks"]["letter"]["last_loss"]["peer"]
