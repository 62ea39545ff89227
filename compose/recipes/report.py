"""`report.md`: what a run did and found, with plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compose.recipes import plots
from compose.recipes.console import table
from compose.recipes.folder import RunFolder
from compose.recipes.schema import Recipe
from compose.recipes.tables import compare_table, cut_line, drop_table, score_table, told


def write_report(folder: RunFolder, recipe: Recipe, results: Mapping[str, Any]) -> None:
    """Writes `report.md` and its plots into a run's folder.

    Args:
        folder: of the run.
        recipe: what was run.
        results: what `metrics.json` holds.
    """
    parts = [f"# {recipe.name}", recipe.description.strip(), _command(recipe), _stages(results)]
    parts += [_scores(results), _drop_curve(folder.path, recipe, results)]
    parts += [_attention(folder.path, recipe, results), _compare(results), _answers(results), _cut(results)]
    folder.write_text("report.md", "\n\n".join(part for part in parts if part) + "\n")


def _command(recipe: Recipe) -> str:
    return (
        f"Backbone `{recipe.backbone.name}`, seed {recipe.seed}. `resolved.yaml` is the recipe with every default "
        "written out; this does it again:\n\n```console\n$ compose run resolved.yaml\n```"
    )


def _stages(results: Mapping[str, Any]) -> str:
    rows = [
        [
            stage["name"],
            stage["regime"],
            f"{stage['trained_parameters']:,}",
            f"{100 * stage['trained_parameters'] / stage['parameters']:.2f} %",
            f"{max(stage['examples'].values(), default=0)}",
            f"{stage['epochs']}",
            f"{stage['learning_rate']:g}",
            f"{stage['losses'][-1]:.3f}",
            f"{stage['seconds']:.1f}",
        ]
        for stage in results["stages"]
    ]
    if not rows:
        return ""
    header = ["stage", "regime", "trained parameters", "share", "examples", "epochs"]
    header += ["learning rate", "last loss", "seconds"]
    named = [f"- {stage['name']}: `{stage['expression']}`" for stage in results["stages"]]
    return "## Training\n\n" + table(header, rows) + "\n\n" + "\n".join(named)


def _cut(results: Mapping[str, Any]) -> str:
    if not results["cut"]:
        return ""
    return "## Texts that were cut\n\n" + "\n".join(f"- {cut_line(row)}" for row in results["cut"])


def _scores(results: Mapping[str, Any]) -> str:
    if not results["scores"]:
        return ""
    text = "## Scores\n\nOn the test part, in percent. Baselines learned from the same rows.\n\n"
    return text + score_table(results["scores"], results["main"], results["means"])


def _drop_curve(folder: Path, recipe: Recipe, results: Mapping[str, Any]) -> str:
    curve = results["drop_curve"]
    if not curve:
        return ""
    main = results["main"] or {task: next(iter(scores)) for task, scores in curve[0]["scores"].items()}
    text = (
        "## Adapters dropped from the first layers\n\n"
        "Nothing was trained for it. Branches share the layers that have no adapters, so that dropping makes "
        f"them part later. Times are medians of forward passes of {curve[0]['rows']} rows of {curve[0]['tokens']} "
        "tokens on this machine.\n\n" + drop_table(curve, main)
    )
    if recipe.report.plots:
        plots.drop_curve(folder / "drop_curve.png", curve, main)
        text += "\n\n![Score and time by layers dropped](drop_curve.png)"
    return text


def _attention(folder: Path, recipe: Recipe, results: Mapping[str, Any]) -> str:
    found = results["fusion_attention"]
    if not found:
        return ""
    names = list(dict.fromkeys(name for fusion in found.values() for name in fusion["mean"]))
    rows = [
        [fusion, *(f"{value['mean'][name]:.2f}" if name in value["mean"] else "" for name in names)]
        for fusion, value in found.items()
    ]
    text = "## Where fusions look\n\nMean weight of each adapter over all test tokens and layers.\n\n"
    text += table(["fusion", *names], rows)
    if recipe.report.plots:
        plots.fusion_attention(folder / "fusion_attention.png", found)
        text += "\n\n![Weights by layer and adapter](fusion_attention.png)"
    return text


def _compare(results: Mapping[str, Any]) -> str:
    if not results["compare"]:
        return ""
    text = "## One pass against a pass for each task\n\nTimes are medians of forward passes on this machine; "
    text += "the difference is the largest between logits.\n\n"
    return text + compare_table(results["compare"])


def _answers(results: Mapping[str, Any]) -> str:
    if not results["predictions"]:
        return ""
    lines = []
    for prediction in results["predictions"]:
        lines.append(f"> {prediction['text']}\n")
        lines += [f"- {task}: {told(answer)}" for task, answer in prediction["answers"].items()]
        lines.append("")
    return "## New messages\n\n" + "\n".join(lines).rstrip()
