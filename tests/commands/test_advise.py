"""Advice through the verb: every architecture, scaled bases, bad input, and a probe against plain transformers."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from llama2 import LLAMA2_7B
from made_texts import sentence
from ropewalk.commands.advise import advise_model
from ropewalk.commands.advise_probe import probe_candidates, read_probe_texts
from ropewalk.commands.probe_budget import BudgetClock, ReadingTime
from ropewalk.core.error import UserError
from ropewalk.core.record import Document, Score
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.corpus.tokens.train_tokenizer import train_tokenizer
from ropewalk.evaluate.evaluate import measure_model
from ropewalk.model.extend import extend
from ropewalk.model.init import init_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.recipe.advice import AdviceSpec
from ropewalk.recipe.spec import Init
from ropewalk.rope.scaling import Theta, Yarn

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
GEMMA_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
}
BASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama 3.1": {"rope_parameters": LLAMA3_ROPE, "rope_theta": 5e5, "max_position_embeddings": 131072},
    "served": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}},
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None},
    "mistral, window": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 2048},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
    "olmo2": {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2"},
    "smollm3": {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "pad_token_id": 2},
    "olmo3": {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "rope_theta": None},
    "gemma3": {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "sliding_window": 1024},
}
BASES["gemma3"] |= {"rope_parameters": GEMMA_ROPE, "rope_theta": None, "num_hidden_layers": 30}
TOLD = {
    "mistral, window": "all layers (32): 32 with a window of 2Ki; none is extended automatically",
    "smollm3": "only 24 of 32 layers have full attention and RoPE",
    "olmo3": "only 8 of 32 layers",
    "gemma3": "only 5 of 30 layers",
}
BASE_TOKENS = 32


def write_base(folder: Path, name: str) -> Path:
    folder.mkdir()
    config = {key: value for key, value in (LLAMA2_7B | BASES[name]).items() if value is not None}
    if name.startswith("mistral"):
        config["sliding_window"] = BASES[name]["sliding_window"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", BASES)
def test_advice_runs_on_every_architecture(name: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", name)
    scaled = name == "llama 3.1"
    found = advise_model(base, [f"context_length={'512Ki' if scaled else '8Ki'}"])
    told, theta = found["text"], {"gemma3": 1e6, "llama 3.1": 5e5, "olmo3": 5e5}.get(name, 1e4)
    assert json.loads(json.dumps(found, allow_nan=False))["base_theta"] == theta
    assert len(found["candidates"]) > (2 if scaled else 6)
    assert TOLD.get(name, "heads of 128") in told and len(told.splitlines()) < 35, "one screen"
    assert max(len(line) for line in told.splitlines() if not line.startswith("  -")) < 120
    if scaled:
        assert "llama3 factor 8 -> 64 over the original 8Ki" in told
        assert "not for this base: ntk, linear, yarn, ntk_by_parts" in told


def test_a_folder_gets_a_page_that_loads_nothing(tmp_path: Path) -> None:
    base = write_base(tmp_path / "<b>base", "llama 3.1")
    found = advise_model(base, [str(tmp_path / "out"), "context_length=256Ki", "rope.kind=llama3", "rope.factor=64"])
    page = (tmp_path / "out" / "advice.html").read_text()
    assert found["page"] == str(tmp_path / "out" / "advice.html")
    assert page.count("<svg ") == 4 and "<script" not in page and "<b>base" not in page and "asked" in page
    assert "default-src 'none'" in page and len(page) < 300_000
    none = advise_model(write_base(tmp_path / "plain", "llama"), ["context_length=8Ki", "rope.kind=nope"])["text"]
    assert any(line.startswith("asked") and "still" in line for line in none.splitlines())
    again = advise_model(base, [str(tmp_path / "out"), "context_length=256Ki"])
    assert "asked" not in again["text"] and "asked" not in (tmp_path / "out" / "advice.html").read_text()


def test_advice_on_a_block_for_serving_counts_from_plain_rope(tmp_path: Path) -> None:
    found = advise_model(write_base(tmp_path / "base", "served"), ["context_length=16Ki", "rope.kind=yarn"])
    plain = advise_model(write_base(tmp_path / "plain", "llama"), ["context_length=16Ki", "rope.kind=yarn"])
    assert found["candidates"] == plain["candidates"] and found["recommended"] == plain["recommended"]
    assert "its weights were trained with plain RoPE" in found["text"] and "remove that block" in found["text"]
    assert "asked: yarn factor 4 over the original 4Ki" in found["text"]


def test_a_recipe_asks_about_its_last_stage(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "llama")
    recipe = Path(__file__).parents[2] / "recipes" / "llama2-7b-16k.yaml"
    found = advise_model(recipe, [f"model={base}"])
    assert (found["context_tokens"], found["recommended"]) == (16384, "theta 1e6")
    assert [each["theta"] for each in found["candidates"] if each["name"] == "asked"] == [1e6]
    with pytest.raises(UserError, match="no base to extend"):
        advise_model(recipe.with_name("tiny-base.yaml"), [])


def test_advice_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['ropewalk', 'advise', 'tiny-base', 'context_length=1Ki', '--json']\n"
        "from ropewalk.cli.main import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["critical_dim"] == 16 and "text" not in json.loads(done.stdout)


BAD = {
    ("nowhere", "context_length=8Ki"): "nowhere is not a model",
    ("base",): "context_length: missing",
    ("base", "out"): "context_length: missing",
    ("base", "context_length=4Ki"): "the target is not longer than the base's context",
    ("base", "context_length=2Ki"): "the base already reads 4Ki tokens",
    ("base", "context_length=8Ki", "contxt=1"): "contxt: there is no such key; did you mean context",
    ("base", "context_length=8Ki", "rope.kind=yam"): "rope",
    ("base", "context_length=8Ki", "rope.kind=theta", "rope.theta=5e3"): "theta must not decrease",
    ("base", "context_length=8Ki", "out"): "it has no =",
    ("base", "taken", "context_length=8Ki"): "the page needs a folder",
}


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_what_cannot_be_advised_on(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base", "llama")
    Path("taken").touch()
    with pytest.raises(UserError) as raised:
        advise_model(Path(words[0]), list(words[1:]))
    assert BAD[words] in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "taken"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 32 tokens of context with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer = train_tokenizer([sentence(n) for n in range(80)], vocabulary=400, folder=folder / "tokenizer")
    shape = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp_width": 48, "deviation": 0.3}
    spec = Init.model_validate({**shape, "context_length": BASE_TOKENS, "tokenizer": str(tokenizer)})
    init_model(spec, folder / "base", tokenizer=tokenizer, seed=1)
    return folder / "base"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Three documents of which the first is too short and the last holds two pieces."""
    lines = [json.dumps({"text": sentence(n, words)}) for n, words in enumerate((20, 90, 200))]
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_probe_is_the_loss_of_plain_transformers(small: Path, text: Path, tmp_path: Path) -> None:
    spec = AdviceSpec(context_length=2 * BASE_TOKENS, documents=3, answers=4)
    yarn = Yarn()
    scores = probe_candidates(small, {"yarn": yarn}, spec, text=text, base_tokens=BASE_TOKENS, minutes=5).scores
    extend(small, tmp_path / "yarn", rope=yarn, context_tokens=spec.context_length)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "yarn", dtype=torch.float64)
    losses = []
    for tokens in read_probe_texts(text, load_tokenizer(small), tokens=spec.context_length, documents=3):
        ids = torch.from_numpy(tokens)[None]
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].double()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy())
    assert len(losses) == 3
    for first, end in ((24, 32), (48, 64)):
        score = next(score for score in scores if score.task == f"nll/position/{first}-{end}")
        assert score.value == pytest.approx(np.mean([loss[first - 1 : end - 1] for loss in losses]), rel=1e-4)
        assert score.model == "yarn" and score.n == 3 * (end - first)


@pytest.mark.parametrize(("target", "far_first"), [(48, 36), (40, 32), (33, 32)])
def test_a_target_below_twice_the_context_is_probed(
    small: Path, text: Path, tmp_path: Path, target: int, far_first: int
) -> None:
    """The loss at the target is over its last quarter, or over all tokens beyond the base where these are fewer."""
    asked = [str(tmp_path / "out"), f"context_length={target}", "documents=2", "answers=4"]
    found = advise_model(small, asked, probe=text)
    read = {score["model"] for score in found["scores"]}
    far = [score for score in found["scores"] if score["task"] == f"nll/position/{far_first}-{target}"]
    assert read == {each["name"] for each in found["candidates"]} == {score["model"] for score in far}
    assert all(score["n"] == 2 * (target - far_first) for score in far)
    table = next(line for line in found["text"].splitlines() if line.startswith("unchanged") and "[" in line)
    own = {score["task"]: score["value"] for score in found["scores"] if score["model"] == "unchanged"}
    near, at_target = own["nll/position/24-32"], own[f"nll/position/{far_first}-{target}"]
    assert f"{near:.3f}" in table and f"{at_target:.3f}" in table
    page = (tmp_path / "out" / "advice.html").read_text()
    assert ("over all tokens beyond the base" in page) == (far_first == BASE_TOKENS)


def test_texts_are_first_pieces_before_second_ones(small: Path, text: Path) -> None:
    tokenizer = load_tokenizer(small)
    read = read_source(Source(name="text", path=str(text), role="general"), seed=0)
    ids = [tokenizer.encode_document(document)[0] for document in read if isinstance(document, Document)]
    found = read_probe_texts(text, tokenizer, tokens=64, documents=3)
    expected = [ids[1][:64], ids[2][:64], ids[1][64:128] if len(ids[1]) >= 128 else ids[2][64:128]]
    assert len(ids[0]) < 64 and all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
    assert len(read_probe_texts(text, tokenizer, tokens=64, documents=1)) == 1


def test_ranks_probe_a_sharded_model(small: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, methods = (
        AdviceSpec(context_length=2 * BASE_TOKENS, documents=2, answers=4),
        {"yarn": Yarn(), "theta": Theta(theta=1e5)},
    )

    def probe() -> list[Score]:
        return probe_candidates(small, methods, spec, text=text, base_tokens=BASE_TOKENS, minutes=5).scores

    alone = probe()
    monkeypatch.setattr("ropewalk.evaluate.evaluate.measure_model", partial(measure_model, whole_bytes=0))
    for scores in run_ranks(probe, 2):
        assert [score.value for score in scores] == pytest.approx([score.value for score in alone], rel=1e-6)


def test_a_probe_stands_on_screen_page_and_json(small: Path, text: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.iterdir()}
    asked = ["context_length=64", "documents=2", "answers=4", "rope.kind=linear", "rope.factor=3"]
    found = advise_model(small, [str(tmp_path / "out"), *asked], probe=text)
    names = [each["name"] for each in found["candidates"]]
    assert names[-1] == "asked" and {score["model"] for score in found["scores"]} == set(names)
    assert "Without training" in found["text"] and "--probe" not in found["text"]
    page = (tmp_path / "out" / "advice.html").read_text()
    assert "On the model, without training" in page and page.count("<svg ") in (5, 6)
    assert {path: path.stat().st_mtime_ns for path in small.iterdir()} == before


def test_a_probe_that_cannot_be_run(small: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"longest document has [\d,]+ tokens, and the target is 4,096"):
        advise_model(small, ["context_length=4Ki"], probe=text)
    with pytest.raises(UserError, match="a source has no files"):
        advise_model(small, ["context_length=64"], probe=tmp_path / "absent.txt")
    with pytest.raises(UserError, match="not longer than the base's context"):
        advise_model(small, ["context_length=32"], probe=text)
    with pytest.raises(UserError, match="budget in minutes") as raised:
        advise_model(small, ["context_length=64"], minutes=3)
    assert "no --probe" in raised.value.why
    with pytest.raises(UserError, match="budget in minutes"):
        advise_model(small, ["context_length=64"], probe=text, minutes=0)
    with pytest.raises(UserError, match="too small for a probe") as raised:
        advise_model(small, ["context_length=64"], probe=text, minutes=1e-6)
    minutes = float(re.search(r"--minutes ([\d.]+) or more", raised.value.fix)[1])
    assert advise_model(small, ["context_length=64"], probe=text, minutes=30 * minutes)["scores"]  # a busy machine


def test_a_tiny_budget_reads_less_and_says_what_that_allows(
    small: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the plan is set by hand: 60 s a candidate and round, so 4 minutes hold two of each."""
    asked = ["context_length=64", "documents=3", "answers=8"]
    whole = advise_model(small, asked, probe=text)
    assert "3 of up to 3 documents with each of 8 candidates" in whole["text"]
    assert "Not read within the budget" not in whole["text"]
    monkeypatch.setattr(
        "ropewalk.commands.advise_probe._time_model", lambda *_, **__: (0.0, ReadingTime(0.0, 60 / 4096))
    )
    worth = list(dict.fromkeys(score["model"] for score in whole["scores"]))
    assert worth[:3] == ["unchanged", whole["recommended"], "yarn"] and len(worth) == 8
    fast = advise_model(small, asked, probe=text, minutes=4.1)["text"]
    assert "2 of up to 3 documents with each of 8 candidates" in fast, "the clock shows that time is left"
    monkeypatch.setattr(BudgetClock, "fits", lambda _, *, planned: planned)
    found = advise_model(small, [str(tmp_path / "out"), *asked], probe=text, minutes=4.1)
    read = {score["model"] for score in found["scores"]}
    assert read == {"unchanged", found["recommended"]} and "2 of up to 3 documents" in found["text"]
    assert f"Not read within the budget: {', '.join(worth[2:])}" in found["text"]
    assert ("Not told apart" in found["text"]) or ("tell it apart" in found["text"])
    loss = [score for score in found["scores"] if score["task"].startswith("change/nll/")]
    assert len(loss) == 1 and loss[0]["samples"] == 2
    page = (tmp_path / "out" / "advice.html").read_text()
    assert "Not read within the budget" in page
    one = advise_model(small, asked, probe=text, minutes=2.1)
    assert "1 of up to 3 documents" in one["text"] and "One document gives no interval" in one["text"]


def test_a_base_without_layers_to_stretch_is_told_to_choose_some() -> None:
    """Cohere 2 turns its windowed layers only, so a stage without a pattern would be refused."""
    text = advise_model(Path("CohereLabs/c4ai-command-r7b-12-2024"), ["context_length=16Ki"])["text"]
    assert "Recommended: theta 1e6 in the layers that a pattern (layers:) chooses, then training" in text
