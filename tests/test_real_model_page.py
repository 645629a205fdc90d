"""The page of the real models has the tables of its readings, each reading is complete, and a stop loses none."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conformance.tiny_families import make_model
from ropewalk.attention import cpu_kernel
from ropewalk.evaluate.items import Item, measure
from ropewalk.model.attention_interface import NAME
from ropewalk.model.model_with_loss import ModelWithLoss

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "2026-11-29-real-model.jsonl"
QUESTIONS, ROUNDS, METHODS = 16, 4, ("unchanged", "theta", "ntk", "yarn")


def load_program(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look up their own module
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_measured_tables() -> None:
    program = load_program("tabulate_real_model")
    text = program.tabulate(program.read_cells(RESULTS))
    page = (ROOT / "docs" / "real-model.md").read_text()
    assert f"{program.BEGIN}\n{text}\n\n{program.END}" in page


def test_a_reading_holds_all_of_its_text() -> None:
    for line in RESULTS.read_text().splitlines():
        reading = json.loads(line)
        number, kind, _, target, tokens = reading["key"]
        assert number < ROUNDS and tokens <= target and reading["seconds"] > 0
        if kind == "loss":
            assert sum(reading["count"]) == tokens - 1 and reading["borders"][-1] == tokens
        else:
            assert len(reading["count"]) == QUESTIONS
        assert all(0 <= right <= count for right, count in zip(reading["correct"], reading["count"], strict=True))


def test_a_share_and_a_difference_by_hand() -> None:
    program = load_program("tabulate_real_model")
    one, two = ({"number": n, "count": [7.0] * 4, "correct": [7.0] * (3 - n) + [6.0] * (1 + n)} for n in (0, 1))
    assert program._share([one, two]).startswith("62 % of 8 [") and program._share([]) == "-"
    losses = {
        arm: [{"number": 0, "nll": [0.0, value], "count": [1, 4]}] for arm, value in (("unchanged", 8), ("ntk", 6))
    }
    assert (program._compare(losses, "ntk"), program._compare(losses, "unchanged")) == ("-0.500", "-")


def test_readings_come_in_rounds_and_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stop the texts of two cells differ by one at most, and a second call does the rest."""
    program = load_program("real_model")
    bench = object.__new__(program.Bench)
    bench.out, bench.model, bench.base_tokens, bench.targets = tmp_path, Path("base"), 8, [16, 32]
    bench.file, bench.methods = tmp_path / "readings.jsonl", list(METHODS)
    monkeypatch.setattr(program.Bench, "arms", lambda *_: list(METHODS))
    now = iter(range(10**6))
    monkeypatch.setattr(program.time, "monotonic", lambda: float(next(now)))
    read: list[Any] = []
    monkeypatch.setattr(program.Bench, "measure", lambda _, reading: read.append(reading.key) or {"count": [1.0]})
    assert program.read_all(bench, 60.0) is False and 15 < len(read) < 40
    cells = [json.dumps(key[1:]) for key in read]
    counts = [cells.count(json.dumps(key[1:])) for key in read if key[3] == 16]
    assert max(counts) - min(counts) <= 1
    assert program.read_all(bench, 10.0**6) is True
    keys = [json.loads(line)["key"] for line in bench.file.read_text().splitlines()]
    assert keys == read and len({json.dumps(key) for key in keys}) == len(keys) == ROUNDS * (6 + 2 * 3 * 4)


def test_a_reading_by_products_is_the_reading_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faster attention changes a reading by rounding alone: both differ from float32 alike."""
    tokens = np.random.default_rng(1).integers(0, 97, 1200)
    item = Item(tokens, np.where(np.arange(1200) > 0, np.arange(1200) // 300, -1))
    wide, narrow = (
        ModelWithLoss(make_model("LlamaForCausalLM").to(dtype)) for dtype in (torch.float32, torch.bfloat16)
    )
    for each in (wide, narrow):
        each.causal.set_attn_implementation(NAME)
    truth, found = measure(wide, [item], 4, name="float32"), {}
    for fast in (False, True):
        monkeypatch.setattr(cpu_kernel, "products_pay", lambda fast=fast: fast)
        found[fast] = measure(narrow, [item], 4, name="bfloat16")
        assert found[fast].count.sum() == 1199
    off = {fast: np.abs(sums.nll - truth.nll) / truth.count for fast, sums in found.items()}
    assert off[True].max() <= 2 * off[False].max() + 1e-3 and off[True].max() < 0.02
    assert np.any(found[True].nll != found[False].nll), "the other path was taken"
