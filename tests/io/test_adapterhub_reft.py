"""AdapterHub's ReFT: the option that its files lack, and orthogonal projections as torch keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compose.errors import FileError
from compose.io import read_adapter
from compose.methods.adapter import Adapter
from compose.methods.reft.spec import ReftConfig
from tests.io.folders import BOTTLENECK, backbone, bottleneck_keys, draw, write_adapterhub

WIDTH = 8
OPTIONS: dict[str, Any] = {
    "architecture": "reft",
    "layers": "all",
    "prefix_positions": 2,
    "suffix_positions": 1,
    "r": 2,
    "orthogonality": True,
    "tied_weights": False,
    "dropout": 0.05,
    "non_linearity": None,
    "dtype": None,
    "output_reft": True,
    "init_weights_seed": None,
}
LAYERS = {
    "bert": ("bert.encoder.layer.{}", 2),
    "roberta": ("roberta.encoder.layer.{}", 2),
    "distilbert": ("distilbert.transformer.layer.{}", 2),
    "gpt2": ("transformer.h.{}", 2),
    "llama": ("model.layers.{}", 2),
    "t5": ("transformer.{}.block.{}", 4),
    "vit": ("vit.encoder.layer.{}", 2),
}


def trained(r: int, seed: int) -> nn.Module:
    """A map with torch's orthogonal parametrization after some steps of training."""
    torch.manual_seed(seed)
    made = nn.utils.parametrizations.orthogonal(nn.Linear(WIDTH, r, bias=False))
    optimizer = torch.optim.Adam(made.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (made.weight * torch.randn(r, WIDTH)).sum().backward()
        optimizer.step()
    return made


def unit(parent: str, number: int, seed: int, r: int = 2, orthogonal: bool = True) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of a unit as the files have them, and its projection."""
    start = f"{parent}.reft_layer.refts.a.units.{number}"
    found = draw({f"{start}.learned_source.weight": (r, WIDTH), f"{start}.learned_source.bias": (r,)}, seed)
    if not orthogonal:
        plain = draw({"projection": (r, WIDTH)}, seed + 1)["projection"]
        return {**found, f"{start}.projection.weight": plain}, plain
    made = trained(r, seed)
    stored = {f"{start}.projection.{name}": tensor.contiguous() for name, tensor in made.state_dict().items()}
    return {**found, **stored}, made.weight.detach()


def parents(architecture: str) -> list[str]:
    pattern, count = LAYERS[architecture]
    if architecture == "t5":
        return [pattern.format(stack, index) for stack in ("encoder", "decoder") for index in range(2)]
    return [pattern.format(index) for index in range(count)]


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("architecture", sorted(LAYERS))
def test_every_architecture(tmp_path: Path, architecture: str, orthogonal: bool) -> None:
    tensors: dict[str, Tensor] = {}
    expected: dict[str, Tensor] = {}
    for layer, parent in enumerate(parents(architecture)):
        for number, end in enumerate(("prefix", "suffix")):
            stored, projection = unit(parent, number, 10 * layer + number, orthogonal=orthogonal)
            tensors |= stored
            start = f"{parent}.reft_layer.refts.a.units.{number}.learned_source"
            expected |= {
                f"{layer}.layer.units.{end}.projection.weight": projection,
                f"{layer}.layer.units.{end}.source.weight": stored[f"{start}.weight"],
                f"{layer}.layer.units.{end}.source.bias": stored[f"{start}.bias"],
            }
    write_adapterhub(tmp_path, {**OPTIONS, "orthogonality": orthogonal}, tensors, model_type=architecture)
    record = read_adapter(tmp_path, backbone(architecture), subtract_projection=None if orthogonal else True)
    assert record.config == ReftConfig(suffix_positions=1, prefix_positions=2, r=2, orthogonality=orthogonal)
    assert record.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(record.tensors[name], tensor, rtol=0, atol=1e-6)
    made = Adapter("a", record.config, backbone(architecture))
    made.load_tensors(record.tensors)
    for name, matrix in expected.items():
        if "projection" in name:
            layer, _, _, end, *_ = name.split(".")
            own = made.part(int(layer), "layer").get_submodule(f"units.{end}.projection").matrix()
            torch.testing.assert_close(own, matrix, rtol=0, atol=1e-6)


@pytest.mark.parametrize("r", [1, 3, WIDTH])
def test_projections_of_all_ranks(tmp_path: Path, r: int) -> None:
    """For a square matrix torch stores something else than for others; ours are the same for all."""
    tensors, projection = unit("bert.encoder.layer.1", 0, 3, r)
    write_adapterhub(tmp_path, {**OPTIONS, "layers": [1], "r": r, "tied_weights": True}, tensors)
    record = read_adapter(tmp_path, backbone())
    assert set(record.tensors) == {
        f"1.layer.units.tied.{name}" for name in ("projection.weight", "source.weight", "source.bias")
    }
    torch.testing.assert_close(record.tensors["1.layer.units.tied.projection.weight"], projection, rtol=0, atol=1e-6)


def test_activations_with_weights(tmp_path: Path) -> None:
    tensors, _ = unit("bert.encoder.layer.0", 0, 3)
    slope = "bert.encoder.layer.0.reft_layer.refts.a.units.0.non_linearity.f.weight"
    config = {**OPTIONS, "layers": [0], "tied_weights": True, "non_linearity": "prelu"}
    write_adapterhub(tmp_path, config, {**tensors, slope: torch.tensor([0.5])})
    record = read_adapter(tmp_path, backbone())
    assert record.tensors["0.layer.units.tied.activation.weight"].tolist() == [0.5]
    Adapter("a", record.config, backbone()).load_tensors(record.tensors)


def test_noreft_or_direft(tmp_path: Path) -> None:
    """F2: the two are saved alike, so the caller has to say which it is."""
    tensors, _ = unit("bert.encoder.layer.0", 0, 3, orthogonal=False)
    write_adapterhub(tmp_path, {**OPTIONS, "layers": [0], "tied_weights": True, "orthogonality": False}, tensors)
    with pytest.raises(FileError, match="this may be NoReFT or DiReFT") as caught:
        read_adapter(tmp_path, backbone())
    assert "subtract_projection=True for NoReFT, subtract_projection=False for DiReFT" in str(caught.value)
    for said in (True, False):
        config = read_adapter(tmp_path, backbone(), subtract_projection=said).config
        assert isinstance(config, ReftConfig) and config.subtract_projection is said


def test_it_is_said_of_nothing_else(tmp_path: Path) -> None:
    write_adapterhub(tmp_path, BOTTLENECK, draw(bottleneck_keys("bert.encoder.layer.0.output")))
    with pytest.raises(FileError, match="subtract_projection means nothing here"):
        read_adapter(tmp_path, backbone(), subtract_projection=True)


def broken(change: Any) -> dict[str, Tensor]:
    tensors, _ = unit("bert.encoder.layer.0", 0, 3)
    names = {name.rpartition(".")[2]: name for name in tensors if "parametrizations" in name}
    change(tensors, names["original"], names["base"])
    return tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, original, base: t.pop(base), "lacks its 'parametrizations.weight.0.base'"),
        (lambda t, original, base: t.pop(original), "lacks its 'parametrizations.weight.original'"),
        (lambda t, original, base: t.update({base: torch.ones(7, 7)}), r"\(2, 8\) and \(7, 7\)"),
        (lambda t, original, base: t.update({original: torch.ones(9, 8)}), r"\(9, 8\) and \(8, 8\)"),
        (lambda t, original, base: t.update({original: torch.ones(8)}), r"\(8,\) and \(8, 8\)"),
        (lambda t, original, base: t.update({original.replace("units.0", "units.1"): torch.ones(2, 8)}), "no place"),
        (lambda t, original, base: t.update({original.split(".param")[0] + ".weight": torch.ones(2, 8)}), "no place"),
    ],
)
def test_tensors_that_do_not_belong_together(tmp_path: Path, change: Any, message: str) -> None:
    write_adapterhub(tmp_path, {**OPTIONS, "layers": [0], "tied_weights": True}, broken(change))
    with pytest.raises(FileError, match=message):
        read_adapter(tmp_path, backbone())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_reft": False}, "acts nowhere"),
        ({"r": "two"}, "r must be"),
        ({"positions": 3}, "no option 'positions'"),
        ({"prefix_positions": 0, "suffix_positions": 0}, "both 0"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_adapterhub(tmp_path, {**OPTIONS, **options}, unit("bert.encoder.layer.0", 0, 3)[0])
    with pytest.raises(FileError, match=message):
        read_adapter(tmp_path, backbone())
