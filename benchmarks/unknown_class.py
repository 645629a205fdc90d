"""Does a base whose class has no row of data go through the whole command line? Each command is a process of its own.

    python benchmarks/unknown_class.py benchmarks/results/2026-11-29-unknown-class.json [HyperCLOVAXForCausalLM]

A tiny random model of a class that is not in docs/models.md is checked, prepared for, extended, trained on two ranks,
evaluated, exported and verified. Every process reads the row off the class again. The result has the seconds of each
command, and the largest difference of logits between the export in plain transformers and ours.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from ropewalk.core.run_folder import RunFolder
from ropewalk.model.architectures import find_class
from ropewalk.model.twin import FEW_EXPERTS, VOCABULARY, make_twin
from ropewalk.shape.families import SUPPORTED

DENSE = "HyperCLOVAXForCausalLM"
PARTS = ("check", "prepare", "extend", "train", "evaluate", "export")


def write_base(folder: Path, name: str) -> None:
    """A tiny model of the class ``name`` with a tokenizer of single characters; a mixture has few experts."""
    kind = find_class(name)
    assert kind is not None and name not in SUPPORTED, f"{name} has a row: choose another class"
    make_twin(kind, FEW_EXPERTS).float().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float32", "eos_token_id": VOCABULARY - 1}
    (folder / "config.json").write_text(json.dumps(config))
    known = {chr(32 + index): index for index in range(VOCABULARY - 2)}
    tokenizer = Tokenizer(models.WordLevel({**known, "[UNK]": VOCABULARY - 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>", "model_max_length": 64}')


def make_recipe(folder: Path) -> dict[str, Any]:
    """Two steps at twice the base's context, on two context ranks."""
    source = {"name": "stories", "embedded": "stories_en", "role": "general", "language": "en", "size_bytes": 60_000}
    stage = {"context_length": 128, "rope": {"kind": "theta", "theta": 1e6}, "tokens": 1024, "step_tokens": 512}
    return {
        "model": str(folder / "base"),
        "run": str(folder / "run"),
        "corpus": {"store": str(folder / "store"), "sources": [source], "mix": {"general": 1}, "held_out": 0.2},
        "stages": [stage | {"lr": 1e-3}],
        "parallel": {"ranks": 2, "context_parallel": 2, "recompute": "none"},
        "evaluate": {"lengths": [1], "answers": 4, "documents": 1, "short_tokens": 512},
        "export": {"dtype": "float32"},
    }


def main() -> None:
    """Run all commands in a temporary folder; the first that fails ends the program with its words."""
    out, name = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else DENSE
    with tempfile.TemporaryDirectory() as temporary:
        folder, seconds = Path(temporary), {}
        write_base(folder / "base", name)
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(make_recipe(folder)))
        for part in PARTS:
            begun = time.monotonic()
            command = [sys.executable, "-m", "ropewalk", part, str(recipe), *(["--verify"] if part == "export" else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{part} ends with {done.returncode}:\n{done.stdout}\n{done.stderr}")
            seconds[part] = round(time.monotonic() - begun, 1)
            print(part, seconds[part], flush=True)
        parity = json.loads(RunFolder(folder / "run").parity.read_text())
        found = json.loads(out.read_text()) if out.exists() else {}
        out.write_text(json.dumps(found | {name: {"seconds": seconds, "parity": parity}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
