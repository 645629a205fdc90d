"""A run folder as the quickstart leaves it, with invented but plausible figures."""

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from plain_mix import source_shares
from ropewalk.core.artifact import new_folder, seal
from ropewalk.core.record import Metric, Score, append_metrics, write_scores
from ropewalk.corpus.prepare.ledger import Amount, SourceLedger
from ropewalk.recipe.load import load_recipe, parse_recipe
from ropewalk.rope.layers import LayerPosition
from ropewalk.rope.scaling import Theta, Unchanged

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
STEPS, STEP_TOKENS, PANEL_STEPS = 180, 8192, 10
BASE_TOKENS, TOKENS = 512, 2048
ACCURACY = {
    "base": {1: 0.985, 2: 0.52, 4: 0.31, 8: 0.14},
    "zero-shot": {1: 0.97, 2: 0.96, 4: 0.95, 8: 0.85},
    "extended": {1: 0.991, 2: 0.988, 4: 0.979, 8: 0.914},
}
GAIN = {"base": 1.9, "zero-shot": 0.08, "extended": -0.05}


def write_run(folder: Path, *, recipe: dict[str, Any] | None = None) -> Path:
    """Write a whole run folder; ``recipe`` is plain data as recipe.yaml holds it."""
    recipe = recipe or load_recipe(RECIPE).to_json()
    parse_recipe(recipe, where="tests")
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    roles = {source["name"]: source["role"] for source in recipe["corpus"]["sources"]}
    tokens = {name: 150_000 + 61_000 * number for number, name in enumerate(roles)}
    write_corpus(folder / "corpus", recipe, tokens=tokens)
    for stage, spec in enumerate(recipe["stages"]):
        shares = source_shares(spec["mix"] or recipe["corpus"]["mix"], roles=roles, tokens=tokens)
        append_metrics(folder / "metrics.jsonl", make_rows(shares, stage=stage, steps=STEPS // len(recipe["stages"])))
        models = folder / "stages" / str(stage)
        write_models(models, theta=spec["rope"].get("theta") or 1e4, context=spec["context_length"])
        (models / "mix.json").write_text(json.dumps(shares))
    text_sources = [name for name, role in roles.items() if role != "instruction"]
    models = list(ACCURACY) if isinstance(recipe["model"], str) else ["extended"]
    write_scores(
        folder / "scores.json",
        [score for model in models for score in make_scores(model, text_sources, compared=len(models) > 1)],
    )
    (folder / "parity.json").write_text(json.dumps({"0": 2.1e-7, "511": 4.4e-7, "512": 5.0e-7, "2047": 8.8e-7}))
    facts = {"python": "3.11.2", "ropewalk": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}
    seal(folder, kind="run", inputs={}, facts=facts, names=["recipe.yaml", "scores.json"])
    return folder


def write_corpus(folder: Path, recipe: dict[str, Any], *, tokens: dict[str, int]) -> None:
    with new_folder(folder, kind="corpus", inputs={}) as work:
        sources, ledger = {}, {}
        for source in recipe["corpus"]["sources"]:
            name, amount = source["name"], tokens[source["name"]]
            documents = amount // 400
            language = source["language"] or "zh"
            entry = SourceLedger(
                read=Amount(documents + 95, amount * 4 + 70_000),
                trimmed_bytes=20_000,
                stored=Amount(documents + 60, amount * 4 + 30_000, amount + 25_000),
                train=Amount(documents, amount * 4, amount),
                held_out=Amount(50, 20_000, 20_000),
            )
            entry.dropped["too short"].add(documents=35, bytes=20_000)
            entry.dropped["near duplicate"].add(documents=10, bytes=10_000, tokens=5_000)
            entry.check()
            ledger[name] = entry.to_json()
            facts = {
                "role": source["role"],
                "documents": documents,
                "tokens": amount,
                "held_out_documents": 50,
                "held_out_tokens": 20_000,
                "languages": {language: documents},
                "license": source["license"],
            }
            sources[name] = {"store": "../../store/1", "store_digest": "0" * 32, "facts": facts}
        content = {"digest": "c" * 32, "vocabulary": 4096, "eos_id": 0, "long_documents": "split", "sources": sources}
        (work / "corpus.json").write_text(json.dumps(content))
        (work / "ledger.json").write_text(json.dumps(ledger))


def make_rows(shares: dict[str, float], *, stage: int = 0, steps: int = STEPS) -> Iterator[Metric]:
    random = np.random.default_rng(3)
    start = {name: 2.2 + 0.25 * number for number, name in enumerate(shares)}
    for step in range(1, steps + 1):
        falling = math.exp(-step / 60)
        rate = 6e-4 * min(1, step / 11) * 0.5 * (1 + math.cos(math.pi * step / steps))
        noise = random.normal(size=4)
        yield Metric(stage, step, "lr", rate, "1")
        yield Metric(stage, step, "imbalance", 1.01 + 0.01 * abs(noise[0]), "1")
        yield Metric(stage, step, "loss/train", 2.4 + 1.1 * falling + 0.08 * noise[1], "nats per token")
        yield Metric(stage, step, "grad_norm", 0.5 + 0.9 * falling + 0.08 * abs(noise[2]), "1")
        yield Metric(stage, step, "tokens_per_second", (5200 if step > 1 else 900) + 250 * noise[3], "tokens/s")
        yield Metric(stage, step, "mfu", (0.21 if step > 1 else 0.04) + 0.01 * noise[3], "share")
        if step % PANEL_STEPS == 0:
            for bucket in ("0-512", "512-1024", "1024-2048"):
                for kind in ("position", "length"):
                    yield Metric(stage, step, f"loss/{kind}/{bucket}", 2.3 + falling, "nats per token")
            yield Metric(stage, step, "held_out/full-truncated", 0.1 * falling - 0.08, "nats per token")
            for name, share in shares.items():
                yield Metric(
                    0, step, f"loss/source/{name}", start[name] + falling + 0.03 * random.normal(), "nats per token"
                )
                yield Metric(stage, step, f"accuracy/source/{name}", 0.4, "share")
                drawn = share * STEP_TOKENS * PANEL_STEPS * (1 + 0.04 * random.normal())
                yield Metric(stage, step, f"tokens/source/{name}", int(drawn), "tokens")


def write_models(folder: Path, *, theta: float, context: int) -> None:
    config = {"head_dim": 32, "hidden_size": 128, "num_attention_heads": 4}
    former = LayerPosition(rope=Unchanged(), theta=1e4)
    changed = former if theta == 1e4 else LayerPosition(rope=Theta(theta=theta), theta=1e4)
    inputs = {
        "former": 3 * [former.model_dump(mode="json", exclude_none=True)],
        "positions": 3 * [changed.model_dump(mode="json", exclude_none=True)],
    }
    facts = {
        "base_context_tokens": BASE_TOKENS,
        "base_theta": 1e4,
        "context_tokens": context,
        "theta": theta,
        "layers": [f"0-2: theta {theta:g}"],
        "live_frequency_difference": 6.1e-8,
    }
    for name in ("extended", "trained"):
        with new_folder(folder / name, kind="model", inputs=inputs, facts=lambda: facts) as work:
            (work / "config.json").write_text(json.dumps(config))


def make_scores(model: str, sources: list[str], *, compared: bool) -> Iterator[Score]:
    random, stretched = np.random.default_rng(5), model != "base"

    def score(
        task: str, metric: str, tokens: int, value: float, *, half: float, n: int, depth: float | None = None
    ) -> Score:
        low, high = value - half, value + half
        if metric == "accuracy":
            low, high = max(0.0, low), min(1.0, high)
        samples = 48 if metric == "nats" else n // 6 if metric == "accuracy" else 20
        return Score(model, task, metric, tokens, depth, "en", n, value, low, high, samples)

    borders = [0, 128, 256, 384, 512, 768, 1024, 1536, 2048]
    for first, end in pairwise(borders):
        beyond = max(0, first - BASE_TOKENS) / BASE_TOKENS
        value = 2.9 - 0.06 * math.log2(1 + first / 128) + (0 if stretched else 0.7 * min(beyond, 1.5))
        yield score(f"nll/position/{first}-{end}", "nats", TOKENS, value, half=0.03, n=48 * (end - first))
    gap = -0.08 if stretched else 0.93
    yield score("nll/gap", "nats", TOKENS, gap, half=0.02, n=48 * BASE_TOKENS)
    yield score("gain/context", "nats", TOKENS, GAIN[model], half=0.01, n=48 * (TOKENS - BASE_TOKENS))
    for multiple, accuracy in ACCURACY[model].items():
        length = multiple * BASE_TOKENS
        half = 2 * math.sqrt(accuracy * (1 - accuracy) / 1000)
        yield score("retrieval/key_value", "accuracy", length, accuracy, half=half, n=1000)
        for depth in (0.1, 0.3, 0.5, 0.7, 0.9):
            value = min(1.0, max(0.0, accuracy + 0.4 * random.normal() * (1 - accuracy) * accuracy))
            yield score("retrieval/key_value", "accuracy", length, value, half=2 * half, n=200, depth=depth)
    for number, name in enumerate(sources):
        change = (0.002 * number - 0.01) * stretched
        yield score(f"short/{name}", "nats", BASE_TOKENS, (2.3 + 0.2 * number) * (1 + change), half=0.05, n=16384)
        if stretched and compared:
            yield score(f"change/short/{name}", "change", BASE_TOKENS, change, half=0.003, n=16384)
    if stretched and compared:
        mean = 0.001 * (len(sources) - 1) - 0.01
        yield score("change/short_mean", "change", BASE_TOKENS, mean, half=0.002, n=16384 * len(sources))
