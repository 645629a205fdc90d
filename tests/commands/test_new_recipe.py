"""Every recipe that `ropewalk new` writes breaks no rule, and holds the positions that `advise` recommends."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from ropewalk.commands.check import check_recipe
from ropewalk.commands.check_inputs import take_offline
from ropewalk.commands.claim import read_base_shape
from ropewalk.commands.new_recipe import _find_kind, new_recipe
from ropewalk.core.error import UserError
from ropewalk.evaluate.items import Sums
from ropewalk.evaluate.loss_by_position import PositionLoss
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.recipe.check_evaluate import check_lengths
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.multiple import count_tokens
from ropewalk.recipe.spec import EvaluateSpec, Recipe
from ropewalk.shape.find import TINY_BASE


def find_fit(recipe: Recipe) -> bool:
    shape = read_base_shape(take_offline(recipe))
    assert shape is not None
    return all(plan.fits for plan in forecast_recipe(take_offline(recipe), shape))


@pytest.mark.parametrize("model", ["Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-8B-Base", "HuggingFaceTB/SmolLM2-360M"])
@pytest.mark.parametrize("kind", ["16k", "32k", "128k", "domain", "lora-1gpu"])
def test_a_new_recipe_breaks_no_rule(kind: str, model: str, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    if kind in ("16k", "32k") and model.startswith("Qwen"):
        with pytest.raises(UserError, match="reads 32Ki tokens already"):
            new_recipe(kind, model=model, out=out)
        assert not out.exists()
        return
    new_recipe(kind, model=model, out=out)
    recipe = load_recipe(out)
    assert recipe.model == f"{model}@main", "a run needs weights, which the shape of that name has not"
    checked = check_recipe(take_offline(recipe))
    assert checked["errors"] == 0, checked["text"]
    assert recipe.parallel.precision == "auto", "a trial on a CPU without bfloat16 would be ten times slower"
    assert recipe.stages[0].rope.kind != "unchanged" and (recipe.stages[0].lora is not None) == (kind == "lora-1gpu")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    new_recipe("quickstart", model=None, out=tmp_path / "q.yaml")
    assert load_recipe(tmp_path / "q.yaml") == load_recipe(Path("quickstart"))
    for kind, model, name in (
        ("64k", "x", "a"),
        ("32k", None, "b"),
        ("quickstart", None, "q.yaml"),
        ("quickstart", "x", "c"),
    ):
        with pytest.raises(UserError):
            new_recipe(kind, model=model, out=tmp_path / name)


@pytest.mark.parametrize("kind", ["640", "768", "1024", "1280", "1536", "2560", "2600", "5000"])
def test_every_target_is_measured(kind: str, tmp_path: Path) -> None:
    """Of a base of 512 tokens; whole multiples that are no powers of two, and lengths between them."""
    new_recipe(kind, model="tiny-base", out=tmp_path / "mine.yaml")
    recipe = load_recipe(tmp_path / "mine.yaml")
    spec, (base_tokens, target) = recipe.evaluate, (512, int(kind))
    assert [count_tokens(each, base_tokens) for each in spec.lengths] == [base_tokens, target]
    assert count_tokens(spec.position_lengths, base_tokens) == target
    assert not list(check_lengths(recipe, base_tokens))
    loss = PositionLoss([np.zeros(target, dtype=np.int64)] * 2, base_tokens, spec.position_lengths)
    scores = {score.task for score in loss.score(Sums(*np.ones((3, loss.groups))), model="base")}
    assert "nll/gap" in scores, f"{kind}: the last quarter is one bucket"
    whole = EvaluateSpec(lengths=(1, 2)).model_dump(mode="json")
    assert EvaluateSpec(lengths=(1.0, "2")).model_dump(mode="json") == whole and whole["lengths"] == [1, 2]


@pytest.mark.parametrize("kind", ["2Ki", "2048"])
def test_a_kind_is_a_context_length_as_recipes_write_it(kind: str, tmp_path: Path) -> None:
    new_recipe(kind, model="tiny-base", out=tmp_path / "mine.yaml")
    assert load_recipe(tmp_path / "mine.yaml").stages[0].context_length == 2048
    for wrong in ("64KiB", "many", "-4", "0"):
        with pytest.raises(UserError, match="unknown kind"):
            new_recipe(wrong, model="tiny-base", out=tmp_path / "other.yaml")
    with pytest.raises(UserError, match="2K may mean two lengths"):
        new_recipe("2K", model="tiny-base", out=tmp_path / "other.yaml")
    with pytest.raises(UserError, match="1M may mean two lengths") as caught:
        new_recipe("1M", model="tiny-base", out=tmp_path / "other.yaml")
    assert caught.value.fix.startswith("ropewalk new 1Mi")
    found = [_find_kind(each).context_tokens for each in ("16k", "16Ki", "32k", "64Ki", "1Mi", "1m")]
    assert found == [16384, 16384, 32768, 65536, 1 << 20, 1 << 20]


def test_a_recipe_with_a_typo_in_its_name_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quickstrat") as caught:
        new_recipe("quickstrat", model=None, out=tmp_path / "mine.yaml")
    assert caught.value.why.endswith("the shipped recipes quickstart") and caught.value.fix == "ropewalk new quickstart"


def test_a_base_whose_length_is_open_is_pointed_to_a_recipe_that_chooses(tmp_path: Path) -> None:
    """`advise` takes the choice as an override; `new` takes none."""
    with pytest.raises(UserError, match="context length of this base is ambiguous") as caught:
        new_recipe("256Ki", model="google/gemma-3-12b-pt", out=tmp_path / "a.yaml")
    name = caught.value.fix.partition("ropewalk new ")[2].partition(",")[0]
    new_recipe(name, model=None, out=tmp_path / "b.yaml")
    recipe = load_recipe(tmp_path / "b.yaml", ["model=google/gemma-3-12b-pt"])
    assert recipe.stages[0].rope.model_dump()["original_tokens"] == 16384 and not (tmp_path / "a.yaml").exists()


def test_the_command_in_a_recipe_can_be_pasted(tmp_path: Path) -> None:
    path = tmp_path / "my recipes" / "a b.yaml"
    new_recipe("2Ki", model="tiny-base", out=path)
    command = path.read_text(encoding="utf-8").partition("\n")[0].partition("GPU: ")[2]
    assert shlex.split(command) == ["ropewalk", "check", str(path)]


@pytest.mark.parametrize(
    ("kind", "model", "ranks"),
    [
        ("16Ki", "HuggingFaceTB/SmolLM2-135M", (1, 1)),
        ("128Ki", "Qwen/Qwen3-0.6B-Base", (1, 1)),
        ("1Mi", "Qwen/Qwen3-0.6B-Base", (8, 8)),
        ("domain", "HuggingFaceTB/SmolLM3-3B-Base", (4, 4)),
        ("128Ki", "Qwen/Qwen3-1.7B-Base", (2, 2)),
        ("16Ki", "meta-llama/Llama-2-7b-hf", (8, 2)),
        ("128Ki", "Qwen/Qwen3-8B-Base", (8, 8)),
        ("lora-1gpu", "Qwen/Qwen3-8B-Base", (1, 1)),
    ],
)
def test_as_many_gpus_are_asked_for_as_the_model_needs(
    kind: str, model: str, ranks: tuple[int, int], tmp_path: Path
) -> None:
    new_recipe(kind, model=model, out=tmp_path / "mine.yaml")
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert (recipe.parallel.ranks, recipe.parallel.context_parallel) == ranks
    assert recipe.hardware == f"h100-sxm x {ranks[0]}"
    if kind == "128Ki":  # of the longest that fewer than eight GPUs are asked for
        assert find_fit(recipe)


def test_the_place_of_the_text_is_given_with_data(tmp_path: Path) -> None:
    for number, data in enumerate(
        ("my text/all of it.jsonl", "s3://bucket/web", '{odd} "name".txt', "2024", "~", "true")
    ):
        alone, mixed = tmp_path / f"{number}.yaml", tmp_path / f"{number}-domain.yaml"
        new_recipe("2Ki", model="tiny-base", out=alone, data=data)
        recipe = load_recipe(alone)
        assert [(source.path, source.role) for source in recipe.corpus.sources] == [(data, "domain")]
        assert recipe.corpus.sources[0].language is None and recipe.mix(recipe.stages[0]) == {"domain": 1}
        new_recipe("domain", model="tiny-base", out=mixed, data=data)
        places = {source.name: source.path for source in load_recipe(mixed).corpus.sources}
        assert places.pop("own") == data and set(places) == {"web", "books", "chat"}
    assert check_recipe(recipe)["errors"] == 0
    with pytest.raises(UserError, match="--data has no meaning"):
        new_recipe("quickstart", model=None, out=tmp_path / "q.yaml", data="text")


@pytest.mark.parametrize("name", ["2024", "mine #2", "a: b", "'mine'", "plain"])
def test_names_that_yaml_would_read_otherwise_are_in_quotes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TINY_BASE, name)
    new_recipe("2Ki", model=name, out=Path(f"{name}.yaml"))
    recipe = load_recipe(Path(f"{name}.yaml"))
    assert recipe.model == name and recipe.run == f"runs/{name}"


def test_a_shipped_recipe_is_known_by_its_name(tmp_path: Path) -> None:
    made = new_recipe("llama3.1-8b-512k", model="meta-llama/Llama-3.1-8B", out=tmp_path / "mine.yaml")
    assert load_recipe(tmp_path / "mine.yaml") == load_recipe(Path("llama3.1-8b-512k")) and made["text"].endswith(
        "mine.yaml"
    )
    with pytest.raises(UserError) as refused:
        new_recipe("qwen3-8b", model=None, out=tmp_path / "other.yaml")
    assert "qwen3-8b-128k" in refused.value.why and "llama" not in refused.value.why
    with pytest.raises(UserError, match="no recipe for me/mine"):
        new_recipe("qwen3-8b-128k", model="me/mine", out=tmp_path / "other.yaml")
