"""Says what a plan runs where, on which rows, and what it costs, as a database explains a query."""

from __future__ import annotations

from compose.explain.explanation import Explanation, Fork, HeadRows, LayerRange, Price
from compose.explain.measure import explain

__all__ = ["Explanation", "Fork", "HeadRows", "LayerRange", "Price", "explain"]
