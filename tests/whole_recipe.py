"""A recipe small enough to go through every part in seconds."""

from pathlib import Path
from typing import Any

import yaml

from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.spec import Recipe


def write_recipe(folder: Path) -> Recipe:
    """A model from nothing, then the same model's context doubled: two stages, two ranks, context degree 2."""
    source = {"role": "general", "language": "en", "size_bytes": 60_000}
    stage: dict[str, Any] = {"tokens": 2048, "step_tokens": 256, "lr": 1e-3, "checkpoint_steps": 3, "log_steps": 2}
    gates: dict[str, Any] = {"window_loss": 9, "retrieval": 0.99, "short_loss": 9, "otherwise": "warn"}
    gates |= {"answers": 20, "documents": 2, "short_tokens": 512}
    data = {
        "model": {
            "init": {
                "layers": 2,
                "width": 32,
                "heads": 2,
                "kv_heads": 1,
                "head_dim": 16,
                "mlp_width": 64,
                "context_length": 64,
                "tokenizer": 320,
            }
        },
        "run": str(folder / "run"),
        "seed": 1,
        "corpus": {
            "store": str(folder / "store"),
            "sources": [
                {"name": "stories", "embedded": "stories_en", "options": {"characters": [3000, 4000]}, **source},
                {"name": "pairs", "embedded": "key_value", "options": {"words": [40]}, **source, "role": "instruction"},
            ],
            "mix": {"general": 3, "instruction": 1},
            "held_out": 0.2,
        },
        "stages": [
            {"context_length": 64, "rope": {"kind": "unchanged"}, **stage},
            {
                "context_length": 128,
                "rope": {"kind": "theta", "theta": 1e5},
                "merge_with_base": 0.9,
                "gate": gates,
                **stage,
            },
        ],
        "parallel": {"ranks": 2, "context_parallel": 2, "recompute": "none"},
        "evaluate": {"lengths": [1, 2], "answers": 40, "documents": 4, "position_lengths": 2, "short_tokens": 2048},
        "export": {"dtype": "float32"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return load_recipe(path)
