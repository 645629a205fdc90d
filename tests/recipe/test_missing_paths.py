"""Paths that a recipe names and that are not there: all at once, each with its key."""

import json
from pathlib import Path
from typing import Any

import pytest

from ropewalk.core.error import UserError
from ropewalk.recipe.missing_paths import find_missing_paths, require_paths
from ropewalk.recipe.spec import Recipe


def write(folder: Path, **changes: Any) -> Recipe:
    """A recipe whose paths all lie in ``folder``."""
    chat = {"messages_key": "messages", "template": "chat"}
    sources = [
        {"name": "web", "path": str(folder / "web"), "role": "general", "scores": str(folder / "scores.jsonl")},
        {"name": "ids", "path": str(folder / "part-*" / "*.bin"), "role": "domain", "tokens": "megatron"},
        {"name": "talk", "path": str(folder / "talk.jsonl"), "role": "instruction", "options": chat},
        {"name": "far", "path": "s3://bucket/web", "role": "general"},
        {"name": "ours", "embedded": "stories", "role": "general"},
    ]
    evaluate = {
        "lengths": [1],
        "foreign": [{"name": "poems", "path": str(folder / "poems.txt")}],
        "ruler": {"squad": str(folder / "squad.json")},
        "benchmarks": [{"kind": "helmet_rag", "path": str(folder / "nq.jsonl"), "demos": str(folder / "solved.jsonl")}],
    }
    stage = {"context_length": 64, "tokens": 640, "step_tokens": 64, "lr": 1e-4, "rope": {"kind": "unchanged"}}
    corpus = {"store": "store", "sources": sources, "mix": {"general": 1, "domain": 1, "instruction": 1},
              "decontaminate": ["probes", str(folder / "exam.jsonl")]}  # fmt: skip
    model: Any = changes.get("model", str(folder / "base"))
    return Recipe.model_validate(
        {"model": model, "run": str(folder / "run"), "stages": [stage], "corpus": corpus, "evaluate": evaluate}
    )


TEXT = {
    "corpus.sources.0.path": "web",
    "corpus.sources.0.scores": "scores.jsonl",
    "corpus.sources.1.path": "part-*/*.bin",
    "corpus.sources.2.path": "talk.jsonl",
    "corpus.decontaminate.files.1": "exam.jsonl",
}
EVALUATED = {
    "evaluate.foreign.0.path": "poems.txt",
    "evaluate.ruler.squad": "squad.json",
    "evaluate.benchmarks.0.path": "nq.jsonl",
    "evaluate.benchmarks.0.demos": "solved.jsonl",
}


def test_every_missing_path_is_told_with_its_key(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    found = {each.key: each for each in find_missing_paths(recipe, prepared=False)}
    assert found.keys() == TEXT.keys() | EVALUATED.keys()
    assert all(
        found[key].message.startswith(f"{tmp_path / name}: no such") for key, name in {**TEXT, **EVALUATED}.items()
    )
    assert {each.level for each in found.values()} == {"warning"}
    assert {each.key for each in find_missing_paths(recipe, prepared=True)} == EVALUATED.keys()
    with pytest.raises(UserError) as caught:
        require_paths(recipe)
    assert all(key in caught.value.where for key in found) and str(tmp_path / "squad.json") in caught.value.why


def test_what_is_there_is_not_told(tmp_path: Path) -> None:
    for name in {**TEXT, **EVALUATED}.values():
        path = tmp_path / name.replace("*", "x")
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if "." not in name else path.write_text("{}")
    require_paths(write(tmp_path))


def test_a_base_without_the_chat_template_that_a_source_needs(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    key = "corpus.sources.2.options.template"
    assert key in {each.key for each in find_missing_paths(write(tmp_path), prepared=False)}
    assert key not in {each.key for each in find_missing_paths(write(tmp_path), prepared=True)}
    (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert key not in {each.key for each in find_missing_paths(write(tmp_path), prepared=False)}


def test_a_tokenizer_of_a_model_that_starts_from_nothing(tmp_path: Path) -> None:
    sizes = {"width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "mlp_width": 64, "context_length": 64}
    init = {**sizes, "tokenizer": str(tmp_path / "tok")}
    keys = {each.key for each in find_missing_paths(write(tmp_path, model={"init": init}), prepared=False)}
    assert "model.init.tokenizer" in keys
