"""A run goes on by other means and grows: what is the same is kept, and what training would be lost by is refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import ropewalk.evaluate.evaluate
import ropewalk.model.export
import ropewalk.train.stage  # noqa: F401 - once here, so that every forked rank has them already
from ropewalk.checkpoint.load import load_weights
from ropewalk.commands import grow as grow_module
from ropewalk.commands.plan_growth import plan_growth
from ropewalk.commands.run import do_part, run_recipe
from ropewalk.core.artifact import is_finished
from ropewalk.core.error import UserError
from ropewalk.core.record import TIMED, read_metrics, read_scores
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.embedded import embedded_documents
from ropewalk.recipe.load import load_recipe, parse_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.train import loop
from ropewalk.train.sessions import read_sessions

Begin = Callable[..., Recipe]
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared run of one constant stage on one rank, of which no step is taken yet."""
    folder = tmp_path_factory.mktemp("begun")
    source = {"role": "general", "language": "en", "size_bytes": 60_000}
    init = {"layers": 2, "width": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "mlp_width": 64, "context_length": 64}
    stage = {"tokens": 1024, "step_tokens": 128, "lr": 1e-3, "checkpoint_steps": 4, "log_steps": 2}
    stage |= {"context_length": 64, "rope": {"kind": "unchanged"}, "schedule": {"shape": "constant", "warmup": 0.25}}
    data = {
        "model": {"init": {**init, "tokenizer": 320}},
        "run": str(folder / "run"),
        "corpus": {
            "store": str(folder / "store"),
            "sources": [
                {"name": "stories", "embedded": "stories_en", "options": {"characters": [3000, 4000]}, **source}
            ],
            "mix": {"general": 1},
            "held_out": 0.2,
        },
        "stages": [stage],
        "parallel": {"ranks": 1, "recompute": "none", "precision": "float32"},
        "evaluate": {"lengths": [1], "answers": 10, "documents": 4, "position_lengths": 1, "short_tokens": 512},
        "export": {"dtype": "float32"},
    }
    do_part("prepare", parse_recipe(data, where="test"))
    return folder


@pytest.fixture
def begin(begun: Path, tmp_path: Path) -> Begin:
    """``begin(path=value, ...)``: a run folder of its own, prepared for that recipe; nothing is trained."""

    def make(name: str = "run", **changes: Any) -> Recipe:
        return copy_run(begun / "run", tmp_path / name, **changes)

    return make


@pytest.fixture(scope="module")
def straight_and_stopped(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Recipe]:
    """The stage trained in one session, and once more up to step 5."""
    folder = tmp_path_factory.mktemp("sessions")
    straight, stopped = (copy_run(begun / "run", folder / name) for name in ("straight", "stopped"))
    do_part("train", straight)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(stopped, 5, patch)
    return straight, stopped


def copy_run(held: Path, folder: Path, **changes: Any) -> Recipe:
    """A copy with the store that it points into, as if it had been made from the recipe with those changes."""
    shutil.copytree(held.parent / "store", folder.parent / "store", dirs_exist_ok=True)
    shutil.copytree(held, folder)
    places = {"run": str(folder), "corpus__store": str(folder.parent / "store")}
    recipe = change(load_recipe(folder / "recipe.yaml"), **places, **changes)
    RunFolder(folder).recipe.write_text(yaml.safe_dump(recipe.to_json()))
    return recipe


def change(recipe: Recipe, **changes: Any) -> Recipe:
    """``stages__0__lr=...``: a key of the recipe as plain data."""
    data = recipe.to_json()
    for path, value in changes.items():
        *parents, last = (int(key) if key.isdigit() else key for key in path.split("__"))
        place: Any = data
        for key in parents:
            place = place[key]
        place[last] = value
    return parse_recipe(data, where="test")


def add_stage(recipe: Recipe, **changes: Any) -> Recipe:
    stage = {
        **recipe.to_json()["stages"][-1],
        "context_length": 128,
        "rope": {"kind": "theta", "theta": 1e5},
        **changes,
    }
    return change(recipe, stages=[*recipe.to_json()["stages"], stage])


def folder_of(recipe: Recipe) -> RunFolder:
    return RunFolder(Path(recipe.run))


def weights_of(recipe: Recipe, stage: int = 0) -> dict[str, torch.Tensor]:
    folder = folder_of(recipe)
    return load_weights(folder.checkpoint(stage, folder.newest_step(stage)))


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def rows_of(recipe: Recipe) -> list[tuple[int, int, str, float]]:
    rows = read_metrics(folder_of(recipe).metrics)
    return [(row.stage, row.step, row.name, row.value) for row in rows if row.name not in TIMED]


def losses_of(recipe: Recipe, name: str = "loss/train") -> dict[tuple[int, int], float]:
    return {(stage, step): value for stage, step, row, value in rows_of(recipe) if row == name}


def stop_at(recipe: Recipe, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until that many more steps are taken, and saved, as if a signal had come."""
    original, taken = loop.gather_rank_status, 0

    def gather_rank_status(*args: Any, **settings: Any) -> Any:
        nonlocal taken
        taken += 1
        return dataclasses.replace(original(*args, **settings), asked=taken >= step)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(loop, "gather_rank_status", gather_rank_status)
        do_part("train", recipe)
    assert end.value.code == 75


MEANS = {
    "ranks": {"parallel__ranks": 2},
    "context degree": {"parallel__ranks": 2, "parallel__context_parallel": 2},
    "replicas": {"parallel__ranks": 2, "parallel__replicas": 2},
    "precision": {"parallel__precision": "bfloat16"},
    "states in 8 bits": {"parallel__states": "8bit"},
    "states on the host": {"parallel__states": "host", "parallel__offload": "none", "parallel__mlp_tile_tokens": None},
    "recompute": {"parallel__recompute": "full"},
    "recompute one of two blocks": {"parallel__recompute": "full", "parallel__recompute_blocks": 1},
    "micro_batch_size and cadence": {
        "stages__0__micro_batch_size": 2,
        "stages__0__checkpoint_steps": 3,
        "stages__0__save_total_limit": 1,
    },
}
CLOSE = {"precision": 2e-2, "states in 8 bits": 1e-2}


@pytest.mark.parametrize("name", MEANS)
def test_the_second_session_may_use_other_means(
    straight_and_stopped: tuple[Recipe, Recipe], tmp_path: Path, name: str
) -> None:
    straight, stopped = straight_and_stopped
    recipe = copy_run(Path(stopped.run), tmp_path / "run")
    other = change(recipe, **MEANS[name])
    do_part("train", other)
    expected = losses_of(straight)
    assert losses_of(other) == pytest.approx(expected, rel=CLOSE.get(name, 1e-4)) and len(expected) == 8
    sessions = read_sessions(Path(recipe.run))
    assert [(each["stage"], each["from_step"]) for each in sessions] == [(0, 0), (0, 5)]
    assert load_recipe(folder_of(recipe).recipe).to_json() == other.to_json()
    told = {**sessions[1]["parallel"], **sessions[1]["means"]}
    assert all(told[path.split("__")[-1]] == value for path, value in MEANS[name].items())
    if name.startswith(("recompute", "states on the host")):
        assert same(weights_of(other), weights_of(straight)), "not a number is computed in another order"


def stamp(folder: RunFolder, *names: str) -> dict[str, int]:
    return {name: (folder.root / name).stat().st_mtime_ns for name in names}


@pytest.mark.timeout(900)
def test_a_finished_run_grows_in_every_way(begin: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    """Other means change nothing. Other `evaluate`, other `export`, a stage appended: each makes anew what stands on
    it and nothing else."""
    recipe = begin()
    folder = folder_of(recipe)
    run_recipe(recipe)
    times = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.name != ".lock"}
    capsys.readouterr()
    run_recipe(change(recipe, parallel__ranks=2, stages__0__save_total_limit=1))
    assert "nothing to do" in capsys.readouterr().err
    assert times == {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.name != ".lock"}
    kept = ("corpus/manifest.json", "stages/0/trained/manifest.json", "stages/0/extended/manifest.json")
    before = stamp(folder, *kept, "export/manifest.json", "scores.json")

    more = change(recipe, evaluate__documents=2)
    capsys.readouterr()
    run_recipe(more)
    said = capsys.readouterr().err
    assert "evaluate.documents (4 there, 2 here)" in said and "made again because of this: scores.json;" in said
    assert stamp(folder, *kept, "export/manifest.json") == {n: t for n, t in before.items() if n != "scores.json"}
    assert {score.context_tokens for score in read_scores(folder.scores)} == {64}
    assert is_finished(folder.root)

    scored = stamp(folder, "scores.json")
    narrow = change(more, export__dtype="bfloat16")
    run_recipe(narrow)
    assert stamp(folder, *kept, "scores.json") == {**{name: before[name] for name in kept}, **scored}
    assert json.loads((folder.export / "config.json").read_text())["dtype"] == "bfloat16"

    longer = add_stage(narrow)
    run_recipe(longer)
    assert stamp(folder, *kept) == {name: before[name] for name in kept}
    assert {stage for stage, _ in losses_of(longer)} == {0, 1} and is_finished(folder.trained(1))
    assert json.loads((folder.export / "config.json").read_text())["max_position_embeddings"] == 128
    assert is_finished(folder.root) and load_recipe(folder.recipe).to_json() == longer.to_json()

    with pytest.raises(UserError, match=r"belongs to another recipe[\s\S]*stages.1 \(taken out\); stage 1 would have"):
        run_recipe(narrow)
    with pytest.raises(UserError, match=r"stages.0.tokens[\s\S]*stage 1 would have to be trained again"):
        run_recipe(change(longer, stages__0__tokens=2048))


@pytest.mark.parametrize("shape", ["constant", "wsd"])
def test_more_tokens_end_where_a_longer_stage_ends(
    begin: Begin, capsys: pytest.CaptureFixture[str], shape: str
) -> None:
    """Bit for bit, since the warm-up keeps its steps: a quarter of 8 steps is an eighth of 16."""
    schedule = {"shape": shape, "decay": 0.25, "floor": 0.0}
    straight = begin("straight", stages__0__tokens=2048, stages__0__schedule={**schedule, "warmup": 0.125})
    do_part("train", straight)
    recipe = begin(stages__0__schedule={**schedule, "warmup": 0.25}, stages__0__checkpoint_steps=100)
    do_part("train", recipe)
    longer = change(recipe, stages__0__tokens=2048)
    capsys.readouterr()
    do_part("train", longer)
    said = capsys.readouterr().err
    assert same(weights_of(longer), weights_of(straight)) and losses_of(longer) == losses_of(straight)
    assert losses_of(longer, "lr") == losses_of(straight, "lr")
    with pytest.raises(UserError, match=r"has already taken 16 steps, but the recipe now has 8"):
        do_part("train", recipe)
    assert ("continues from step 6, before its learning rate decayed: 2 steps repeated" in said) == (shape == "wsd")


def test_a_stage_that_went_down_is_not_made_longer(begin: Begin) -> None:
    recipe = begin(stages__0__schedule={"shape": "cosine", "warmup": 0.0})
    do_part("train", recipe)
    files = set(Path(recipe.run).rglob("*"))
    with pytest.raises(UserError, match=r"the shape cosine decays over all[\s\S]*append a new stage"):
        do_part("train", change(recipe, stages__0__tokens=2048))
    with pytest.raises(UserError, match=r"cannot continue with these learning rates"):
        do_part("train", change(recipe, stages__0__lr=1e-4))
    assert files == set(Path(recipe.run).rglob("*"))
    do_part("train", add_stage(recipe))


def test_wsd_without_the_checkpoint_before_its_decay_is_refused(begin: Begin) -> None:
    recipe = begin(stages__0__schedule={"shape": "wsd", "decay": 0.25, "warmup": 0.0})
    do_part("train", recipe)
    folder = folder_of(recipe)
    assert folder.list_steps(0) == [8, 6, 4]
    for step in (6, 4):
        shutil.rmtree(folder.checkpoint(0, step))
    with pytest.raises(UserError, match="no checkpoint from before the decay"):
        do_part("train", change(recipe, stages__0__tokens=2048))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 7}, r"seed \(0 there, 7 here\)"),
        ({"stages__0__mix": {"stories": 2}}, r"stages.0.mix \(null there, .* here\)"),
        ({"corpus__held_out": 0.3}, r"corpus.held_out \(0.2 there, 0.3 here\)"),
        ({"model__init__layers": 3}, r"model.init.layers \(2 there, 3 here\)"),
        ({"stages__0__weight_decay": 0.0}, r"stages.0.weight_decay \(0.1 there, 0.0 here\)"),
    ],
    ids=["seed", "mix", "corpus", "model", "training"],
)
def test_what_would_lose_training_is_refused_with_its_key(begin: Begin, changes: dict[str, Any], told: str) -> None:
    recipe = begin()
    folder = folder_of(recipe)
    folder.checkpoint(0, 4).mkdir(parents=True)
    (folder.checkpoint(0, 4) / "manifest.json").touch()
    with pytest.raises(
        UserError, match=rf"belongs to another recipe[\s\S]*{told}; stage 0 would have to be trained again"
    ):
        do_part("train", change(recipe, **changes))
    assert load_recipe(folder.recipe).to_json() == recipe.to_json() and is_finished(folder.corpus)


def test_before_any_step_everything_may_change(begin: Begin, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = begin()
    do_part("extend", recipe)
    other = change(recipe, corpus__held_out=0.3, stages__0__rope={"kind": "theta", "theta": 2e5})
    with pytest.raises(UserError, match="ropewalk prepare"):
        do_part("train", other)
    assert "made again because of this: stages/0/extended, corpus, initial, tokenizer" in capsys.readouterr().err
    do_part("prepare", other)
    do_part("extend", other)
    config = json.loads((folder_of(other).extended(0) / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 2e5


def test_a_panel_that_asks_otherwise_reads_its_base_again(begin: Begin) -> None:
    recipe = begin(stages__0__validation={"short_tokens": 64})
    folder = folder_of(recipe)
    folder.base_loss(0).parent.mkdir(parents=True)
    folder.base_loss(0).write_text("{}")
    for changes, stale in (
        ({"stages__0__validation": {"short_tokens": 128}}, (folder.base_loss(0),)),
        ({"evaluate__seed": 5}, (folder.base_loss(0),)),
        ({"stages__0__log_steps": 4, "stages__0__save_total_limit": 1}, ()),
    ):
        assert plan_growth(change(recipe, **changes), folder).stale == stale


def test_killed_while_growing_the_same_command_goes_on(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = {"shape": "wsd", "decay": 0.25, "warmup": 0.0}
    straight = begin("straight", stages__0__schedule=schedule, stages__0__tokens=2048)
    do_part("train", straight)
    recipe = begin(stages__0__schedule=schedule)
    do_part("train", recipe)
    longer = change(recipe, stages__0__tokens=2048)
    for moment in ("trained", "step-00000008"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(grow_module, "discard", die_at(moment))
            do_part("train", longer)
    stop_at(longer, 3, monkeypatch)
    do_part("train", longer)
    assert same(weights_of(longer), weights_of(straight)) and losses_of(longer) == losses_of(straight)


def die_at(name: str) -> Callable[[Path], None]:
    def discard(path: Path) -> None:
        if path.name == name:
            raise KeyboardInterrupt
        original(path)

    original = grow_module.discard
    return discard


def test_text_may_be_moved_in_the_middle_of_a_run_but_not_exchanged(begun: Path, tmp_path: Path) -> None:
    documents = embedded_documents("stories_en", seed=1, size_bytes=60_000, options={"characters": [900, 1100]})
    texts = [{"text": document.text} for document in documents]
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "texts.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in texts))
    data = load_recipe(begun / "run" / "recipe.yaml").to_json()
    data["corpus"] |= {"store": str(tmp_path / "store"), "sources": [{"name": "stories", "role": "general"}]}
    data |= {"run": str(tmp_path / "run"), "model": "tiny-base"}
    data["stages"][0] |= {"context_length": 512, "step_tokens": 512, "tokens": 4096}

    def prepare(path: Path) -> None:
        data["corpus"]["sources"][0]["path"] = str(path)
        do_part("prepare", parse_recipe(data, where="test"))

    prepare(first)
    made = (tmp_path / "run" / "corpus" / "manifest.json").stat()
    first.rename(second)
    prepare(second)
    assert (tmp_path / "run" / "corpus" / "manifest.json").stat() == made
    assert load_recipe(tmp_path / "run" / "recipe.yaml").corpus.sources[0].path == str(second)
    third = tmp_path / "third"
    third.mkdir()
    (third / "texts.jsonl").write_text(json.dumps(texts[0]))
    with pytest.raises(UserError, match=r"belongs to another recipe[\s\S]*corpus\.sources\.0\.path"):
        prepare(third)
