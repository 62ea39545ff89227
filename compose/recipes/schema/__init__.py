"""What a recipe may say: typed sections, unknown keys refused.

Only closed lists of kinds; nothing in a recipe names code. What the sections say about each other
(adapters in expressions, heads of tasks, columns of data) is checked in `recipes/checks.py`.
"""

from compose.recipes.schema.data import (
    DATA_KINDS,
    Bundled,
    Conll,
    Csv,
    DataSource,
    Digits,
    Files,
    Hub,
    Jsonl,
    Local,
    Parquet,
    Sample,
    Source,
    Table,
)
from compose.recipes.schema.evaluate import Baseline, DropCurve, Evaluate, FusionCurve, MetricName
from compose.recipes.schema.model import Adapter, Backbone, Fusion, Head, Made, Part
from compose.recipes.schema.predict import Compare, Predict
from compose.recipes.schema.recipe import Precision, Recipe, Report
from compose.recipes.schema.train import LEARNING_RATES, Regime, Stage, Temperature

__all__ = [
    "Adapter",
    "Backbone",
    "Baseline",
    "Bundled",
    "Compare",
    "Conll",
    "Csv",
    "DATA_KINDS",
    "DataSource",
    "Digits",
    "DropCurve",
    "Evaluate",
    "Files",
    "Fusion",
    "FusionCurve",
    "Head",
    "Hub",
    "Jsonl",
    "LEARNING_RATES",
    "Local",
    "Made",
    "MetricName",
    "Parquet",
    "Part",
    "Precision",
    "Predict",
    "Recipe",
    "Regime",
    "Report",
    "Sample",
    "Source",
    "Stage",
    "Temperature",
    "Table",
]
