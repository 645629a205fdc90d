"""The page of the real models has the tables of its readings, each reading is complete, and a stop loses none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conformance.tiny_families import make_model
from programs import load_program
from ropewalk.attention import cpu_kernel
from ropewalk.core.error import UserError
from ropewalk.evaluate.items import Item, measure
from ropewalk.model.attention_interface import NAME
from ropewalk.model.model_with_loss import ModelWithLoss

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "2026-11-29-real-model.jsonl"
QUESTIONS, ROUNDS, METHODS = 16, 4, ("unchanged", "theta", "ntk", "yarn")


def test_the_page_has_the_measured_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_program("tabulate_real_model", monkeypatch)
    text = program.tabulate(program.read_cells(RESULTS))
    assert load_program("page_tables", monkeypatch).read_tables(ROOT / "docs" / "real-model.md") == text.strip("\n")


def test_a_reading_holds_all_of_its_text() -> None:
    for line in RESULTS.read_text().splitlines():
        reading = json.loads(line)
        number, kind, _, target, tokens = reading["key"]
        assert number < ROUNDS and tokens <= target and reading["seconds"] > 0
        sums = [reading]
        if kind in ("loss", "quote"):
            end = reading["borders"][-1]
            assert sum(reading["count"]) == end - 1 and (end == tokens if kind == "loss" else 0.95 < end / tokens < 1)
            sums += [reading[name] for name in ("answers", "alone") if kind == "quote"]
        assert kind == "loss" or len(sums[-1]["count"]) == QUESTIONS
        for each in sums:
            assert all(0 <= right <= count for right, count in zip(each["correct"], each["count"], strict=True))


def test_a_share_and_a_difference_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_program("tabulate_real_model", monkeypatch)
    one, two = ({"number": n, "count": [7.0] * 4, "correct": [7.0] * (3 - n) + [6.0] * (1 + n)} for n in (0, 1))
    assert program._share([one, two]).startswith("62 % of 8 [") and program._share([]) == "-"
    losses = {
        arm: [{"number": 0, "nll": [0.0, value], "count": [1, 4]}] for arm, value in (("unchanged", 8), ("ntk", 6))
    }
    assert (program._compare(losses["ntk"], losses["unchanged"], -1), program._compare([], [], -1)) == ("-0.500", "-")


def test_a_reading_has_the_precision_that_its_line_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``open_model`` holds weights in float32 where the CPU multiplies no bfloat16; such readings are refused."""
    program = load_program("real_model", monkeypatch)
    bench = object.__new__(program.Bench)
    bench.precision = "bfloat16"
    for dtype in (torch.bfloat16, torch.float32):
        opened = torch.nn.Linear(1, 1, dtype=dtype)
        monkeypatch.setattr(program, "open_model", lambda *_, opened=opened, **__: opened)
        monkeypatch.setattr(program.Bench, "folder", lambda *_: tmp_path)
        if dtype == torch.bfloat16:
            assert bench.learner("unchanged", 16) is opened
        else:
            with pytest.raises(UserError, match="reads in float32, not in bfloat16"):
                bench.learner("unchanged", 32)


def test_readings_come_in_rounds_and_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stop the texts of two cells differ by one at most, and a second call does the rest."""
    program = load_program("real_model", monkeypatch)
    bench = object.__new__(program.Bench)
    bench.out, bench.model, bench.base_tokens, bench.targets = tmp_path, Path("base"), 8, [16, 32]
    bench.file, bench.methods = tmp_path / "readings.jsonl", list(METHODS)
    bench.precision, bench.kinds = "float32", program.DEFAULT_KINDS
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


def test_readings_of_another_precision_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 and float32 make no pair, so a folder has one of them."""
    program = load_program("real_model", monkeypatch)
    bench = object.__new__(program.Bench)
    bench.file, bench.precision = tmp_path / "readings.jsonl", "float32"
    bench.file.write_text(json.dumps({"key": [0], "precision": "bfloat16"}) + "\n")
    with pytest.raises(UserError, match="bfloat16"):
        bench.done()
    bench.precision = "bfloat16"
    assert bench.done() == {"[0]"}


class _Words:
    """A tokenizer of which only the break between two questions is asked."""

    def encode_inside(self, text: str) -> Any:
        assert text == "\n\n"
        return np.array([7])


def test_a_quotation_asks_for_what_the_text_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is whole but for its end, each answer is found where its cue ends, and depths are everywhere."""
    program = load_program("real_model_quote", monkeypatch)
    document = np.random.default_rng(2).integers(10, 10**6, 4096)
    asked = program.ask_for_quotations(document, _Words(), base_tokens=1024, number=1)
    questions, whole = program.QUESTIONS, asked.whole
    end = asked.borders[-1]
    assert len(whole.tokens) == 4096 and end == 4096 - questions * (1 + program.CUE_TOKENS + program.ANSWER_TOKENS)
    assert np.array_equal(whole.tokens[:end], document[:end])
    assert np.array_equal(whole.tokens[end:], asked.alone.tokens)
    assert np.array_equal(whole.group[end:], asked.alone.group) and (whole.group[:end] >= 0).all()
    for border, group in zip(asked.borders[:-1], range(asked.positions), strict=True):
        assert (whole.group[:border] < group).all() and whole.group[border] == group
    text = document[:end].tolist()
    for number, depth in enumerate(asked.depths):
        places = np.flatnonzero(whole.group == asked.positions + number)
        assert len(places) == program.ANSWER_TOKENS
        at = text.index(int(whole.tokens[places[0] - program.CUE_TOKENS]))
        assert at == round(depth * end)
        passage = whole.tokens[places[0] - program.CUE_TOKENS : places[-1] + 1]
        assert passage.tolist() == text[at : at + len(passage)]
    gaps = np.diff([0, *sorted(asked.depths), 1])
    assert gaps.max() < 2.2 / questions and asked.depths != sorted(asked.depths)


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
