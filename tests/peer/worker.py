"""AdapterHub's side, run by its own interpreter: loads what lies in a folder of cases, and writes down its outputs.

It imports nothing of compose.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file


def model_of(folder: Path) -> Any:
    """AdapterHub's model over a backbone."""
    base = transformers.AutoModel.from_pretrained(folder)
    model = importlib.import_module("adapters").AutoAdapterModel.from_config(base.config)
    missing, unexpected = getattr(model, model.base_model_prefix).load_state_dict(base.state_dict(), strict=False)
    lost = [*unexpected, *(name for name in missing if not name.startswith("prompt_tuning."))]  # a second name
    if lost:
        raise KeyError(f"the backbone differs: {lost}")
    return model.eval()


def load(model: Any, case: Path, told: dict[str, Any]) -> None:
    """Loads a case with AdapterHub's own loaders, and makes it active."""
    if told["kind"] == "composition":
        model.load_adapter_setup(str(case / "files"), set_active=True, use_safetensors=True)
        return
    info: dict[str, Any] = {}
    name = model.load_adapter(
        str(case / "files"), with_head=told["kind"] == "head", use_safetensors=True, set_active=True, loading_info=info
    )
    missing = [key for key in info.get("missing_keys", ()) if ".pool." not in key]  # second names
    if missing:
        raise KeyError(f"missing: {missing}")
    model.set_active_adapters(name)


def run(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Its output by name."""
    with torch.no_grad():
        output = model(**inputs)
    outputs = output if isinstance(output, list | tuple) and not hasattr(output, "to_tuple") else [output]
    return {str(index): _tensor(each).contiguous() for index, each in enumerate(outputs)}


def _tensor(output: Any) -> torch.Tensor:
    """What is compared of an output."""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], -1)
    return output.logits if "logits" in output else output.last_hidden_state


def main(root: Path) -> None:
    """Runs every case there is."""
    for place in sorted(path.parent for path in root.glob("*/backbone")):
        inputs = load_file(place / "inputs.safetensors")
        for case in sorted(path.parent for path in place.glob("*/case.json")):
            try:
                model = model_of(place / "backbone")
                load(model, case, json.loads((case / "case.json").read_text()))
                save_file(run(model, inputs), case / "theirs.safetensors")
            except Exception:  # the test of this case shows it, the others go on
                (case / "error.txt").write_text(traceback.format_exc())


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(Path(sys.argv[1]))
