"""A base whose class has no row goes through the command line, on two ranks; the process that verifies the export reads
its row again."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ropewalk.cli.main import app
from ropewalk.core.artifact import is_finished
from ropewalk.core.run_folder import RunFolder
from ropewalk.model.architectures import find_class
from ropewalk.model.twin import make_twin
from ropewalk.recipe.spec import Recipe
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.guessed import GUESSED
from tiny_tokenizer import write_tokenizer

NAME = "HyperCLOVAXForCausalLM"
PARTS = ("check", "prepare", "extend", "train", "evaluate", "export")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny model of the class, as its publisher would save it."""
    kind, folder = find_class(NAME), tmp_path / "base"
    assert kind is not None and NAME not in SUPPORTED
    make_twin(kind, {"max_position_embeddings": 64}).float().save_pretrained(folder)
    write_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32", "eos_token_id": 96}))
    return folder


def test_a_class_without_a_row_goes_through_all_commands(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    data = recipe.to_json()
    stage = {"context_length": 128, "rope": {"kind": "theta", "theta": 1e6}, "lr": 1e-3}
    data |= {"model": str(base), "stages": [stage | {"tokens": 1024, "step_tokens": 512}]}
    data["corpus"]["sources"] = data["corpus"]["sources"][:1]
    data["corpus"]["mix"] = {"general": 1}
    data["evaluate"] |= {"lengths": [1], "answers": 4, "documents": 1, "short_tokens": 512}
    path, folder = tmp_path / "unknown.yaml", RunFolder(Path(recipe.run))
    path.write_text(yaml.safe_dump(data))
    GUESSED.clear()
    for part in PARTS:
        done = CliRunner().invoke(app, [part, str(path), *(["--verify"] if part == "export" else [])])
        assert done.exit_code == 0, (part, done.output, done.exception)
        if part == "check":
            assert f"{NAME} has no row of data" in done.output
    assert is_finished(folder.trained(0)) and is_finished(folder.export)
    assert folder.scores.exists() and json.loads(folder.parity.read_text())
