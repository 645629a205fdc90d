"""A recipe's own evaluation prompts are kept out of its text, and what was dropped is shown."""

import json
from pathlib import Path

import yaml

from made_texts import sentence
from ropewalk.commands.corpus_inspect import inspect_recipe
from ropewalk.commands.prepare import write_prompts
from ropewalk.commands.run import do_part
from ropewalk.recipe.load import load_recipe
from ropewalk.shape.find import find_model

STAGE = {
    "context_length": 1024,
    "rope": {"kind": "theta", "theta": 1e5},
    "tokens": 4096,
    "step_tokens": 1024,
    "lr": 1e-3,
}


def test_a_document_that_holds_a_prompt_of_the_evaluation_is_dropped_and_shown(tmp_path: Path) -> None:
    recipe = {
        "model": "tiny-base",
        "run": str(tmp_path / "run"),
        "corpus": {
            "store": str(tmp_path / "store"),
            "sources": [{"name": "web", "path": str(tmp_path / "web.jsonl"), "role": "general", "language": "en"}],
            "mix": {"general": 1},
            "decontaminate": {"files": ["probes"], "action": "drop"},
        },
        "stages": [STAGE],
        "evaluate": {"lengths": [1], "answers": 24},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(tmp_path / "recipe.yaml", ())
    asked = write_prompts(loaded, find_model("tiny-base"))
    (task, texts) = next(iter(asked.items()))
    assert task == "retrieval/key_value" and len(texts) > 1
    texts = [f"{sentence(1, 40)}. {texts[0]}", *(sentence(n, 60) for n in range(20, 40))]
    (tmp_path / "web.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    do_part("prepare", loaded)
    shown = inspect_recipe(loaded)
    (reason,) = shown["reasons"]
    assert reason["reason"] == "contaminated" and reason["documents"] == 1
    assert "retrieval/key_value, prompt 0" in shown["text"] and "1 of 21 documents" in shown["text"]
