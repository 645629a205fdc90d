"""The first weights of the harder study's base: the packaged tiny base with six layers instead of three.

    python benchmarks/study_tasks_base.py runs/grown-base

Each layer is followed by a copy of itself whose two output projections are zero, so the grown model computes what the
tiny base computes, and the copies learn from there. A copy of a layer that looks words up can look up a second time,
which a question of two hops needs. `ropewalk run recipes/study-tasks-base.yaml` trains it.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ropewalk.shape.find import TINY_BASE

OUTPUTS = ("self_attn.o_proj", "mlp.down_proj")
PREFIX = "model.layers."


def grow(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with every layer doubled: layer n becomes 2n, and its copy without output 2n + 1."""
    grown = {}
    for name, tensor in weights.items():
        if not name.startswith(PREFIX):
            grown[name] = tensor
            continue
        number, _, rest = name.removeprefix(PREFIX).partition(".")
        silent = any(output in rest for output in OUTPUTS)
        grown[f"{PREFIX}{2 * int(number)}.{rest}"] = tensor
        grown[f"{PREFIX}{2 * int(number) + 1}.{rest}"] = torch.zeros_like(tensor) if silent else tensor.clone()
    return grown


def main(out: Path) -> None:
    out.mkdir(parents=True)
    weights = load_file(TINY_BASE / "model.safetensors")
    grown = grow(weights)
    save_file(grown, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((TINY_BASE / "config.json").read_text())
    config["num_hidden_layers"] *= 2
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY_BASE / name, out / name)
    print(f"{out}: {config['num_hidden_layers']} layers, {sum(t.numel() for t in grown.values()):,} parameters")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
