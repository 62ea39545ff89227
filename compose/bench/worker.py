"""Our worker: sets up one contestant, ours or the plain backbone, and runs rounds of it."""

from __future__ import annotations

from collections.abc import Mapping

from compose.bench.loop import SetUp, Work, serve
from compose.bench.setups import costs, epochs, inference, texts, training
from compose.bench.setups.models import Told


def _ours(told: Told, attention: str) -> Work:
    return (training if told["training"] else inference).ours(told, attention)


def _plain(told: Told, attention: str) -> Work:
    return (training if told["training"] else inference).plain(told, attention)


SETUPS: Mapping[str, SetUp] = {
    "plain": _plain,
    "single": _ours,
    "fuse": _ours,
    "parallel": _ours,
    "route": _ours,
    "pruned": inference.pruned,
    "drop": epochs.ours,
    "aggregation": epochs.ours,
    "texts": texts.ours,
    "trained": texts.trained,
    "compiling": costs.compiling,
    "choosing": costs.choosing,
    "loading": costs.loading,
    "registered": costs.registered,
}


if __name__ == "__main__":
    serve(SETUPS)
