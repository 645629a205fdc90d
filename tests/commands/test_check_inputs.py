"""`check` looks at the data before it is prepared: amounts, lengths, faults, packages and disk, each with a fix."""

import ast
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from ropewalk.commands import check_inputs
from ropewalk.commands.check import check_recipe
from ropewalk.commands.check_inputs import take_offline
from ropewalk.core.error import UserError
from ropewalk.corpus.inspect import sample
from ropewalk.corpus.inspect.sample import sample_source
from ropewalk.corpus.read.source import read_items
from ropewalk.corpus.spec import Source
from ropewalk.plan.disk import count_run_bytes
from ropewalk.recipe.load import parse_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.shape.find import TINY_BASE
from ropewalk.shape.read import read_shape

SRC = Path(__file__).parents[2] / "src" / "ropewalk"
LINE = "The harbour master counted the ropes that lay along the quay before the rain began. "


def make(folder: Path, *, notes: dict[str, Any] = {}, **changes: Any) -> Recipe:  # noqa: B006 - read only
    sources = [
        {"name": "notes", "path": str(folder / "notes"), "role": "general", "language": "en", **notes},
        {"name": "books", "path": str(folder / "books"), "role": "general", "language": "en"},
    ]
    stage = {
        "context_length": "2Ki",
        "rope": {"kind": "theta", "theta": 1e6},
        "tokens": "200K",
        "step_tokens": "4Ki",
        "lr": 1e-4,
    }
    return parse_recipe(
        {
            "model": "tiny-base",
            "run": str(folder / "run"),
            "corpus": {"store": str(folder / "store"), "sources": sources, "mix": {"general": 1}},
            "stages": [stage],
            "evaluate": {"lengths": [1, 4], "position_lengths": 4, "documents": 8},
            **changes,
        },
        where="test",
    )


def write(folder: Path, *, words: int, documents: int) -> None:
    (folder / "notes").mkdir()
    records = [json.dumps({"text": LINE * 3}) for _ in range(documents)]
    (folder / "notes" / "a.jsonl").write_text("\n".join(records) + "\n")
    (folder / "books").mkdir()
    for number in range(documents):
        (folder / "books" / f"{number}.txt").write_text(LINE * (words // 15))


def warned(checked: dict[str, Any]) -> dict[str, str]:
    return {finding["key"]: finding["message"] for finding in checked["findings"]}


def test_little_and_short_text_is_told_before_it_is_prepared(tmp_path: Path) -> None:
    write(tmp_path, words=150, documents=20)
    checked = check_recipe(make(tmp_path))
    found = warned(checked)
    assert set(found) >= {"stages.0.context_length", "corpus.mix.general", "evaluate.documents"}, checked["text"]
    assert found["stages.0.context_length"] == "none of the 40 documents that were read has 2Ki tokens"
    assert "about 0 of 8 documents with 2Ki tokens will be held out" in found["evaluate.documents"]
    assert all(finding["fix"] for finding in checked["findings"]) and checked["errors"] == 0
    assert "  fix: add longer text" in checked["text"]
    joined = warned(check_recipe(make(tmp_path, notes={"join": {"related": {"target_tokens": "2Ki"}}})))
    assert "stages.0.context_length" not in joined  # what is made of short texts is long


def test_enough_long_text_is_shown_and_not_warned_of(tmp_path: Path) -> None:
    write(tmp_path, words=6000, documents=80)
    checked = check_recipe(make(tmp_path))
    assert not {"stages.0.context_length", "corpus.mix.general", "evaluate.documents"} & set(warned(checked))
    assert "0 of 80 documents have 2Ki" in checked["text"] and "80 of 80 documents have 2Ki" in checked["text"]
    told = [line.split()[0] for line in checked["inputs"]]
    assert told == ["model", "mix", "text", "text", "disk"]


def test_a_source_too_small_to_hold_out_of_is_told_before_it_is_prepared(tmp_path: Path) -> None:
    write(tmp_path, words=6000, documents=9)
    checked = check_recipe(make(tmp_path))
    assert "nothing is held out of notes (9 documents), books (9 documents): " in warned(checked)["corpus.held_out"]
    assert "about 0 of 8 documents" in warned(checked)["evaluate.documents"]


def test_a_base_without_tokens_for_a_gap_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, words=6000, documents=20)
    checked = check_recipe(make(tmp_path, notes={"fill_in_middle": {"sentinels": ["<A>", "<B>", "<C>"]}}))
    (fault,) = (finding for finding in checked["findings"] if finding["level"] == "error")
    assert fault["key"] == "corpus.sources.0.fill_in_middle" and "not in its vocabulary: <A>" in fault["message"]


def test_a_broken_line_is_an_error_with_its_key(tmp_path: Path) -> None:
    write(tmp_path, words=6000, documents=4)
    (tmp_path / "notes" / "a.jsonl").write_text('{"text": "fine"}\n{"body": "no text here"}\n')
    checked = check_recipe(make(tmp_path))
    (fault,) = (finding for finding in checked["findings"] if finding["level"] == "error")
    assert fault["key"] == "corpus.sources.0" and "a.jsonl" in fault["source"] and "faults: skip" in fault["fix"]


def test_a_long_source_is_sampled_and_scaled(tmp_path: Path) -> None:
    record = json.dumps({"text": LINE * 50}) + "\n"
    for part in range(20):
        (tmp_path / f"{part:02}.jsonl").write_text(record * 250)
    found = sample_source(Source(name="s", path=str(tmp_path), role="general", language="en"), seed=0)
    assert found is not None and not found.whole and len(found.lengths) < 2000
    assert found.documents == pytest.approx(20 * 250, rel=0.02)
    repository = tmp_path / "code" / "one"
    repository.mkdir(parents=True)
    for name in ("a.py", "b.py"):
        (repository / name).write_text("x = 1\n" * 100)
    joined = {"name": "c", "path": str(tmp_path / "code"), "role": "domain", "profile": "code"}
    options = {"join": {"by": "repository"}}
    apart, together = (sample_source(Source.model_validate(each), seed=0) for each in (joined, joined | options))
    assert apart is not None and apart.lengths == (600, 600)
    assert together is not None and together.lengths == (1200,)
    (tmp_path / "old.txt").write_bytes("天地玄黄，宇宙洪荒。".encode("gb18030") * 20)
    old = {"name": "o", "path": str(tmp_path / "old.txt"), "role": "domain", "options": {"encoding": "gb18030"}}
    sample = sample_source(Source.model_validate(old), seed=0)
    assert sample is not None and sample.excerpt == "天地玄黄，宇宙洪荒。" * 20  # tokens are counted on it


def test_records_that_are_all_skipped_are_not_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text('{"other": "key"}\n' * 300)
    taken: list[Any] = []

    def count(*given: Any) -> Any:
        for item in read_items(*given):
            taken.append(item)
            yield item

    monkeypatch.setattr(sample, "read_items", count)
    monkeypatch.setattr(sample, "_READ_BYTES", 100 * 256)
    source = Source(name="s", path=str(tmp_path), role="general", language="en", faults="skip")
    found = sample_source(source, seed=0)
    assert found is not None and not found.whole and found.lengths == () and len(taken) == 100


def test_a_full_disk_is_a_warning_where_the_run_could_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int = 1 << 20

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage())
    checked = check_recipe(make(tmp_path))
    assert "and 1 MiB are free" in warned(checked)["run"]
    elsewhere = check_recipe(make(tmp_path, model="HuggingFaceTB/SmolLM2-135M"))
    assert "run" not in warned(elsewhere) and "1 MiB are free here" in elsewhere["text"]


def test_run_and_store_on_one_disk_are_weighed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make(tmp_path)
    size = count_run_bytes(recipe, read_shape(TINY_BASE))
    monkeypatch.setattr(check_inputs, "count_store_bytes", lambda *_: size)
    for room, warns in ((1.5, True), (2.5, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, room=room: SimpleNamespace(free=room * size))
        assert ("lie on one disk and need up to" in warned(check_recipe(recipe)).get("run", "")) == warns


def test_packages_that_are_missing_are_told(tmp_path: Path) -> None:
    sources = [{"name": "far", "path": "abfs://bucket/web", "role": "general", "language": "en"}]
    recipe = make(tmp_path, corpus={"sources": sources, "mix": {"general": 1}})
    assert "adlfs" in warned(check_recipe(recipe))["corpus.sources.0.path"]


def test_offline_takes_the_shipped_shape_and_asks_no_hub(tmp_path: Path) -> None:
    taken = take_offline(make(tmp_path, model="HuggingFaceTB/SmolLM2-135M@main"))
    assert taken.model == "HuggingFaceTB/SmolLM2-135M"
    with pytest.raises(UserError, match="cannot be fetched") as raised:
        take_offline(make(tmp_path, model="nobody/knows-this@main"))
    assert "--offline" in raised.value.why


def test_every_warning_carries_its_fix() -> None:
    without = []
    for path in SRC.rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "Finding(" in text else ():
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding"):
                continue
            level, starred = node.args[0], any(isinstance(each, ast.Starred) for each in node.args)
            if isinstance(level, ast.Constant) and level.value == "warning" and len(node.args) < 5 and not starred:
                without.append(f"{path.name}:{node.lineno}")
    assert [place for place in without if not place.startswith("check.py")] == []
    assert len(without) <= 1, "recurrent layers' memory says it in the message"
