"""A model folder with one flipped bit is refused by every reader, on every rank, before a tensor is used."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ropewalk.core.error import UserError
from ropewalk.evaluate.evaluate import evaluate_models
from ropewalk.model.adapter import merge_adapter
from ropewalk.model.export import export
from ropewalk.model.export_parity import verify_export
from ropewalk.model.extend import extend
from ropewalk.model.lazy_weights import read_weights
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.verify_folder import require_intact
from ropewalk.recipe.lora import Lora
from ropewalk.recipe.spec import EvaluateSpec
from ropewalk.rope.uniform import Unchanged
from ropewalk.train.prepare_model import build_model_with_loss
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe, write_corpus, write_model


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    write_model(folder / "run", folder / "tokenizer")
    write_corpus(folder)
    return folder


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    """A finished model folder with one bit of its weights flipped: a small change of one value, all still finite."""
    shutil.copytree(sound / "run", tmp_path / "run")
    folder = tmp_path / "run" / "stages" / "0" / "extended"
    flip(folder / "model.safetensors")
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)


def readers(model: Path) -> Iterator[Callable[[], object]]:
    out, recipe = model.parent / "out", make_recipe()
    yield lambda: extend(model, out, rope=Unchanged(), context_tokens=64)
    yield lambda: export({}, model, out, dtype="float32")
    yield lambda: read_weights(model)
    yield lambda: merge_adapter({}, model, Lora())
    yield lambda: verify_export(model)
    yield lambda: build_model_with_loss(model, recipe.stages[0], chunk_tokens=64, adapter_seed=0)
    yield lambda: evaluate_models({"it": model}, EvaluateSpec(), corpus=None, base_context_tokens=64)


def test_every_reader_refuses_a_flipped_bit(model: Path) -> None:
    for read in readers(model):
        with pytest.raises(UserError, match=r"is not what it was[\s\S]*model.safetensors does not have the digest"):
            read()


@pytest.mark.parametrize("ranks", [1, 3])
def test_all_ranks_raise(model: Path, ranks: int) -> None:
    def on_rank() -> str:
        try:
            require_intact(model, together=True)
        except UserError as error:
            return error.why
        return ""

    for said in run_ranks(on_rank, ranks, threads=1):
        assert said == "model.safetensors does not have the digest that its manifest gives"


def test_a_stage_does_not_begin_on_it(model: Path, sound: Path) -> None:
    run = model.parents[2]
    recipe = make_recipe(tokens=4 * 64)
    with pytest.raises(UserError, match="is not what it was"):
        run_ranks(lambda: train_stage(recipe, stage=0, run=run, corpus=sound / "corpus"), 2, threads=1)
    assert not (run / "metrics.jsonl").exists()


def test_what_changes_a_model_by_being_there_is_a_fault_and_notes_are_none(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sound / "run" / "stages" / "0" / "extended", folder)
    (folder / "notes.txt").write_text("mine")
    require_intact(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(UserError, match=r"index\.json is not in its manifest"):
        require_intact(folder)


def test_it_is_read_once_and_again_when_it_has_changed(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = tmp_path / "model", []
    shutil.copytree(sound / "run" / "stages" / "0" / "extended", folder)
    monkeypatch.setattr("ropewalk.parallel.verify_folder.find_folder_fault", lambda path, **_: read.append(path))
    require_intact(folder)
    require_intact(folder)
    os.utime(folder / "config.json", ns=(1, 1))
    require_intact(folder)
    assert len(read) == 2
    (folder / "manifest.json").unlink()
    require_intact(folder)
    assert len(read) == 2, "a model that no run wrote has nothing to be compared with"
