"""AdapterHub loads the folders that we write with its own loaders, and computes what we compute.

`COMPOSE_PEER` names an interpreter that has `adapters`; without it nothing runs here. All cases are written first, one
process of the peer's runs them, then each is compared.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compose.dsl import Fuse, fuses
from compose.runtime.attach import attach
from compose.runtime.model import Model
from tests import tiny
from tests.peer.cases import ADAPTERS, COMPOSITIONS, FUSED, FUSIONS, HEADS

PEER = os.environ.get("COMPOSE_PEER", "")
pytestmark = [pytest.mark.peer, pytest.mark.skipif(not PEER, reason="COMPOSE_PEER names no interpreter of the peer's")]

CASES = [
    *(("adapter", case, where) for case, row in ADAPTERS.items() for where in row.architectures),
    *(("composition", case, where) for case, (_, places) in COMPOSITIONS.items() for where in places),
    *(("fusion", case, where) for case in FUSIONS for where in FUSED),
    *(("head", case, where) for case, row in HEADS.items() for where in row.architectures),
]

VIT_NAMES = (
    (r"^layers\.(\d+)\.attention\.q_proj", r"encoder.layer.\1.attention.attention.query"),
    (r"^layers\.(\d+)\.attention\.k_proj", r"encoder.layer.\1.attention.attention.key"),
    (r"^layers\.(\d+)\.attention\.v_proj", r"encoder.layer.\1.attention.attention.value"),
    (r"^layers\.(\d+)\.attention\.o_proj", r"encoder.layer.\1.attention.output.dense"),
    (r"^layers\.(\d+)\.mlp\.fc1", r"encoder.layer.\1.intermediate.dense"),
    (r"^layers\.(\d+)\.mlp\.fc2", r"encoder.layer.\1.output.dense"),
    (r"^layers\.(\d+)\.layernorm", r"encoder.layer.\1.layernorm"),
)
"""What the peer's transformers calls the modules of a ViT."""


def save_backbone(backbone: Any, folder: Path) -> None:
    """A backbone as the peer's transformers reads it."""
    folder.mkdir(parents=True)
    backbone.config.save_pretrained(folder)
    tensors = {}
    for name, tensor in backbone.state_dict().items():
        for pattern, older in VIT_NAMES if backbone.config.model_type == "vit" else ():
            name = re.sub(pattern, older, name)
        tensors[name] = tensor.clone().contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def random_adapter(model: Model, name: str, preset: str, seed: int, **options: Any) -> None:
    tiny.randomize(model.add_adapter(name, preset, **options), seed)


def write_case(model: Model, kind: str, case: str, folder: Path, inputs: dict[str, torch.Tensor]) -> None:
    """Writes a case's files, and what we compute with them."""
    expression: Any = "a"
    if kind == "adapter":
        random_adapter(model, "a", ADAPTERS[case].preset, 1, **ADAPTERS[case].options)
        model.save_adapter("a", folder / "files", format="adapterhub")
    elif kind == "head":
        random_adapter(model, "a", "seq_bn", 1, reduction_factor=4)
        head = model.add_head("a", HEADS[case].kind, **HEADS[case].options)
        vocabulary = {name: each.clone() for name, each in head.tensors().items() if name == "out.weight"}
        tiny.randomize(head, 2)
        if case == "causal_lm" and model.config.tie_word_embeddings:
            head.tensors()["out.weight"].copy_(vocabulary["out.weight"])
        model.save_adapter("a", folder / "files", with_head=True, format="adapterhub")
    else:
        expression, (preset, options) = Fuse("a", "b"), FUSIONS.get(case, ("dynamic", {}))
        if kind == "composition":
            expression = COMPOSITIONS[case][0]
        for seed, name in enumerate("abcde"):
            random_adapter(model, name, "double_seq_bn" if name in "de" else "seq_bn", seed, reduction_factor=4)
        for fuse in fuses(expression):
            tiny.randomize(model.add_fusion(fuse, preset, **options), 5, scale=0.1)
        model.plan(expression).save(folder / "files", format="adapterhub")
    (folder / "case.json").write_text(json.dumps({"kind": "composition" if kind == "fusion" else kind}))
    with torch.no_grad():
        if kind == "head":
            found = {"0": model.plan(expression)(**inputs)[0].logits}
        else:
            states = model.plan(expression).states(**inputs).last_hidden_state
            if model.spec.architecture == "t5":  # it reports the states as its heads read them
                states = states * model.config.d_model**-0.5
            found = {"0": states}
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / "ours.safetensors")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all cases, after the peer has run them."""
    root = tmp_path_factory.mktemp("peer")
    for architecture in tiny.CONFIGS:
        backbone = tiny.backbone(architecture, dtype=torch.float32)
        save_backbone(backbone, root / architecture / "backbone")
        inputs = tiny.inputs(architecture, padded=True, dtype=torch.float32)
        save_file(inputs, root / architecture / "inputs.safetensors")
        for kind, case, where in CASES:
            if where == architecture:
                model = attach(backbone)
                write_case(model, kind, case, root / architecture / f"{kind}-{case}", inputs)
                model.detach()
    worker = Path(__file__).with_name("worker.py")
    done = subprocess.run([PEER, "-W", "ignore", str(worker), str(root)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize(("kind", "case", "architecture"), CASES)
def test_the_peer_computes_the_same(root: Path, kind: str, case: str, architecture: str) -> None:
    folder = root / architecture / f"{kind}-{case}"
    if (folder / "error.txt").exists():
        pytest.fail((folder / "error.txt").read_text())
    ours, theirs = load_file(folder / "ours.safetensors"), load_file(folder / "theirs.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-5)
