"""The page of the real models has the tables of its readings, each reading is complete, and a stop loses none."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ropewalk
from conformance.tiny_families import make_model
from made_texts import sentence
from programs import load_program
from ropewalk.attention import cpu_kernel
from ropewalk.core.error import UserError
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.evaluate.items import Item, measure
from ropewalk.model.attention_interface import NAME
from ropewalk.model.model_with_loss import ModelWithLoss

ROOT = Path(__file__).parents[1]
TINY_BASE = Path(ropewalk.__file__).parent / "model" / "tiny_base"
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*-real-model.jsonl"))
QUESTIONS, ROUNDS, METHODS = 16, 4, ("unchanged", "theta", "ntk", "yarn")


def test_the_page_has_the_measured_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_program("tabulate_real_model", monkeypatch)
    text = program.tabulate(program.read_cells(RESULTS))
    assert load_program("page_tables", monkeypatch).read_tables(ROOT / "docs" / "real-model.md") == text.strip("\n")


def test_a_reading_holds_all_of_its_text() -> None:
    for line in (line for path in RESULTS for line in path.read_text().splitlines()):
        reading = json.loads(line)
        number, kind, _, target, tokens = reading["key"]
        assert number < ROUNDS and tokens <= target and reading["seconds"] > 0
        sums = [reading]
        if reading.get("borders"):
            end, read = reading["borders"][-1], sum(reading["count"])
            least = {"loss": 1.0, "quote": 0.95, "questions": 0.9}[kind]
            assert read == end - 1 or (kind == "questions" and 0.94 * end < read < end)
            assert end == tokens if kind == "loss" else least < end / tokens < 1
            sums += [reading[name] for name in ("answers", "alone") if kind != "loss"]
        assert kind == "loss" or len(sums[-1]["count"]) == sum(reading.get("kinds", {kind: QUESTIONS}).values())
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
    bench.precision, bench.kinds = "float32", program.KINDS
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
    assert keys == read and len({json.dumps(key) for key in keys}) == len(keys) == ROUNDS * (6 + 2 * 4 * 4)


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


def test_questions_ask_for_what_the_text_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is whole but for its end, each answer is found where its cue ends, and depths are everywhere."""
    program, tokenizer = load_program("real_model_questions", monkeypatch), load_tokenizer(TINY_BASE)
    lines = (f"{sentence(number, 9)}\n{'' if number % 4 else chr(10)}" for number in range(3000))
    document = tokenizer.encode_inside("".join(lines))[:16384].astype(np.int64)
    asked = program.ask_about(document, tokenizer, base_tokens=2048, number=1)
    whole, end = asked.whole, asked.borders[-1]
    assert len(whole.tokens) == len(document) and asked.groups == asked.positions + sum(program.KINDS.values())
    assert np.array_equal(whole.tokens[end:], asked.alone.tokens)
    assert np.array_equal(whole.group[end:], asked.alone.group)
    own = whole.group[:end] >= 0
    assert np.array_equal(whole.tokens[:end][own], document[: own.sum()])
    for group, (first, last) in enumerate(pairwise(asked.borders)):
        assert set(whole.group[first:last]) <= {-1, group}
    read, told = tokenizer.decode(document[: own.sum()]), tokenizer.decode(whole.tokens[:end])
    facts = re.findall(r"\n\n((?:The secret number|The colour) of [^.]*)\.(?=\n)", told)
    assert len(facts) == len(set(facts)) == program.KINDS["needle"] + program.KINDS["key_value"]
    found = []
    for number in range(sum(program.KINDS.values())):
        places = np.flatnonzero(whole.group == asked.positions + number)
        before = tokenizer.decode(whole.tokens[places[0] - program.CUE_TOKENS : places[0]])
        answer = tokenizer.decode(whole.tokens[places])
        if number < program.KINDS["quotation"]:
            assert len(places) == program.ANSWER_TOKENS and before + answer in told
        else:
            found.append(before.rpartition("\n\n")[2] + answer)
            assert found[-1] not in read
    assert sorted(found) == sorted(facts)
    assert np.diff([0, *sorted(asked.depths), 1]).max() < 0.1 and asked.depths != sorted(asked.depths)


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
