"""The shapes that are shipped: each is found by its name, told with its day, and refused where weights are needed."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from ropewalk.commands.check import check_recipe
from ropewalk.commands.check_inputs import take_offline
from ropewalk.commands.claim import claim
from ropewalk.commands.extend import extend_model
from ropewalk.commands.run import run_recipe
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.load import load_recipe
from ropewalk.shape import find
from ropewalk.shape.find import find_model
from ropewalk.shape.read import read_shape
from ropewalk.shape.shipped import BASES, find_near, read_sources

ROOT = Path(__file__).parents[2]
NAME = "Qwen/Qwen3-8B-Base"
KINDS = ("copy", "mirror", "derived", "facts", "remembered")


def test_every_shape_has_a_source_and_every_source_a_shape() -> None:
    names = {str(path.parent.relative_to(BASES)) for path in BASES.rglob("config.json")}
    assert names == set(read_sources()) and len(names) >= 40
    for name, source in read_sources().items():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", name) and set(source) == {"read", "how", "from"}
        assert re.fullmatch(r"2026-\d\d-\d\d", source["read"]) and source["how"].partition(":")[0] in KINDS
        config = json.loads((BASES / name / "config.json").read_text())
        assert config["architectures"] and config["model_type"] and "_name_or_path" not in config


@pytest.mark.parametrize(
    ("name", "parameters", "context_tokens"),
    [
        ("deepseek-ai/DeepSeek-V3", 671_026_404_352, 163_840),
        ("deepseek-ai/DeepSeek-V3-Base", 671_026_404_352, 163_840),
        ("Qwen/Qwen3-30B-A3B", 30_532_122_624, 40_960),
        ("Qwen/Qwen3-30B-A3B-Base", 30_532_122_624, 32_768),
        ("moonshotai/Kimi-K2-Base", 1_026_408_209_408, 131_072),
        ("google/gemma-4-31B", 30_697_345_280, 262_144),
    ],
)
def test_common_bases_are_found_by_their_names(name: str, parameters: int, context_tokens: int) -> None:
    shape = read_shape(find_model(name, config_only=True))
    assert (shape.parameters, shape.context_tokens) == (parameters, context_tokens)


def test_the_package_holds_them() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ropewalk"]
    package = ROOT / "src" / "ropewalk"
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    assert {path for path in BASES.rglob("*") if path.is_file()} <= packed


def test_a_name_is_enough_where_only_a_shape_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    folder = find_model(NAME, config_only=True)
    assert folder == BASES / NAME
    told = capsys.readouterr().err
    assert NAME in told and read_sources()[NAME]["read"] in told and f"{NAME}@main" in told and "derived" in told
    shape = read_shape(folder)
    assert (shape.layers, shape.width, shape.context_tokens, shape.theta) == (36, 4096, 32768, 1e6)
    assert shape.parameters == 8_190_735_360


def test_a_revision_still_asks_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(find, "fetch_model", lambda name, revision, _, **__: asked.append((name, revision)) or tmp_path)
    assert find_model(f"{NAME}@main", config_only=True) == tmp_path
    assert find_model(f"{NAME}@abc123") == tmp_path
    assert asked == [(NAME, "main"), (NAME, "abc123")]


def test_a_folder_of_that_name_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path(NAME).mkdir(parents=True)
    for config_only in (True, False):
        with pytest.raises(UserError, match=r"has no config\.json"):
            find_model(NAME, config_only=config_only)
    (Path(NAME) / "config.json").write_text("{}")
    assert find_model(NAME, config_only=True) == Path(NAME) == find_model(NAME)


def test_weights_are_asked_of_the_hub_or_a_folder(tmp_path: Path) -> None:
    for ask in (
        lambda: find_model(NAME),
        lambda: extend_model(NAME, tmp_path / "out", ["context_length=64Ki", "rope.kind=yarn"]),
    ):
        with pytest.raises(UserError, match=re.escape(NAME)) as refused:
            ask()
        assert "weights" in refused.value.why and f"{NAME}@main" in refused.value.fix
    assert not (tmp_path / "out").exists()


def test_a_recipe_is_checked_by_name_and_refused_before_its_run_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(
        ROOT / "recipes" / "llama2-7b-16k.yaml", ["model=meta-llama/Llama-2-7b-hf", f"run={tmp_path / 'run'}"]
    )
    found = check_recipe(take_offline(recipe))
    assert found["errors"] == 0 and "tokens/s" in found["text"]
    assert capsys.readouterr().err.count("ropewalk ships") == 1, "both of them look for the shape"
    with pytest.raises(UserError, match="no weights here"), claim(recipe, RunFolder(Path(recipe.run))):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ("Qwen3-8B-Base", NAME),
        ("qwen/qwen3-8b-base", NAME),
        ("Qwen/Qwen3-8b-Bsae", NAME),
        ("meta-llama/Llama2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("Olmo-3-1025-7B", "allenai/Olmo-3-1025-7B"),
        ("some-org/gemma-3-27b-pt", "google/gemma-3-27b-pt"),
    ],
)
def test_a_near_miss_is_proposed(given: str, first: str) -> None:
    assert find_near(given)[0] == first
    with pytest.raises(UserError) as refused:
        find_model(given, config_only=True)
    assert first in refused.value.fix and "org/name@main" in refused.value.fix


@pytest.mark.parametrize("given", ["Qwen3-8B-Base", "/models/Qwen3-8B-Base", "nowhere"])
def test_a_run_is_offered_no_shape_without_weights(given: str, tmp_path: Path) -> None:
    recipe = load_recipe(Path("quickstart"), [f"model={given}", f"run={tmp_path / 'run'}"])

    def begin() -> None:
        with claim(recipe, RunFolder(Path(recipe.run))):
            pass

    for ask in (begin, lambda: run_recipe(recipe), lambda: find_model(given)):
        with pytest.raises(UserError, match="is not a model") as refused:
            ask()
        assert "shape" not in str(refused.value) and "org/name@main" in refused.value.fix
    assert not (tmp_path / "run").exists()


def test_nothing_is_proposed_for_another_word() -> None:
    assert find_near("nowhere") == [] == find_near("./runs/mine")
