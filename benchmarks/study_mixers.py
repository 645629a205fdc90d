"""What gated delta nets in place of attention layers do: none, a quarter and half of them, at eight times the context.

    python benchmarks/study_mixers.py FOLDER           as often as needed: it goes on where it was stopped
    python benchmarks/study_mixers.py FOLDER --table RESULTS.json docs/convert-layers.md

The packaged tiny base is a Llama of three layers, and no class of transformers has gated delta nets beside its
attention. So the base of this study is a Qwen3 of four layers, made of it: the fourth layer adds nothing at first, and
the norms of queries and keys get the mean sizes of its queries and keys. It is trained for 1.2M tokens at 512, as the
tiny base was in its last stages. Then each arm is extended to 4Ki and trained on the same 160Ki tokens, with three
seeds; in the first fifth of the steps the arms with new layers train these alone. One CPU rank; FOLDER gets all runs.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from page_tables import write_tables
from ropewalk.core.quantity import format_length
from ropewalk.evaluate.score import mean
from ropewalk.model.folder import copy_tokenizer
from ropewalk.shape.find import find_model

TOKENS, TARGET, FROZEN = 160 << 10, 4096, 4
"""Of each arm; its context; and the first steps, of 20, in which only new layers are trained."""
ARMS = {
    "none": [],
    "quarter": "[{}, {}, {mixer: gated_delta}, {}]",
    "half": "[{}, {mixer: gated_delta}]",
}
_TEXTS = [
    {"name": "topics", "embedded": "python_topics", "role": "general", "language": "en", "size_bytes": "3M"},
    {"name": "stories_en", "embedded": "stories_en", "role": "general", "language": "en", "size_bytes": "4M",
     "options": {"characters": [4200, 5200], "recount": True}},
    {"name": "encyclopedia_zh", "embedded": "encyclopedia_zh", "role": "general", "language": "zh", "size_bytes": "3M"},
    {"name": "code", "embedded": "python_code", "role": "domain", "language": "code", "size_bytes": "5M"},
]  # fmt: skip


def write_start(out: Path) -> None:
    """A Qwen3 of four layers from the tiny base, not yet trained."""
    if (out / "model.safetensors").exists():
        return
    tiny = AutoModelForCausalLM.from_pretrained(find_model("tiny-base"))
    old, weights = tiny.config, tiny.state_dict()
    config = Qwen3Config(
        **{key: getattr(old, key) for key in _SAME_KEYS}, num_hidden_layers=old.num_hidden_layers + 1,
        max_window_layers=old.num_hidden_layers + 1, use_sliding_window=False, architectures=["Qwen3ForCausalLM"],
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    first, last = old.num_hidden_layers - 1, old.num_hidden_layers
    for name in [name for name in weights if f".{first}." in name]:
        weights[name.replace(f".{first}.", f".{last}.")] = (
            torch.zeros_like(weights[name]) if "o_proj" in name or "down_proj" in name else weights[name].clone()
        )
    sizes = _measure_sizes(tiny)
    for layer in range(last + 1):
        for kind in ("q", "k"):
            size = sizes[min(layer, first), kind]
            weights[f"model.layers.{layer}.self_attn.{kind}_norm.weight"] = torch.full((old.head_dim,), size)
    model.load_state_dict(weights)
    out.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(find_model("tiny-base"), out, context_tokens=old.max_position_embeddings)
    model.save_pretrained(out)


_SAME_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rms_norm_eps", "initializer_range", "tie_word_embeddings", "bos_token_id", "eos_token_id",
    "max_position_embeddings", "rope_parameters",
)  # fmt: skip


@torch.no_grad()
def _measure_sizes(tiny: Any) -> dict[tuple[int, str], float]:
    """The root mean square of queries and keys of each layer, on tokens at random."""
    found: dict[tuple[int, str], float] = {}
    for layer, block in enumerate(tiny.model.layers):
        for kind in ("q", "k"):
            module = getattr(block.self_attn, f"{kind}_proj")
            module.register_forward_hook(
                lambda _, __, out, key=(layer, kind): found.__setitem__(key, float(out.square().mean().sqrt()))
            )
    tiny(torch.randint(4096, (1, 512), generator=torch.Generator().manual_seed(0)))
    return found


def make_base_recipe(folder: Path) -> dict[str, Any]:
    """1.2M tokens at the tiny base's own context."""
    keys = [
        {"name": f"kv_{words}", "embedded": "key_value", "role": "instruction", "language": "en", "size_bytes": "2M",
         "options": {"words": [words], "pairs": [4, 8]}}
        for words in (128, 500)
    ]  # fmt: skip
    shares = {"general": 70, "domain": 20, "instruction": 10}
    stage = _make_stage(512, 1200 << 10, step_tokens="4Ki", rope={"kind": "unchanged"}, lr=2.5e-3)
    stage |= {"micro_batch_size": 4, "loss_weights": {"kv_128": 30, "kv_500": 30}}
    return _make_recipe(folder / "start", folder / "base", _TEXTS + keys, shares, stage)


def make_study(folder: Path) -> dict[str, Any]:
    """The recipe of the arms, and the study of them."""
    keys = {"name": "key_value", "embedded": "key_value", "role": "instruction", "language": "en", "size_bytes": "4M",
            "options": {"words": [500, 1000, 2000, 4000], "pairs": [4, 12]}}  # fmt: skip
    stage = _make_stage(TARGET, TOKENS, step_tokens="8Ki", rope={"kind": "theta", "theta": 1e6}, lr=1e-3)
    stage |= {"loss_weights": {"key_value": 30}}
    shares = {"general": 7, "domain": 2, "instruction": 1}
    recipe = _make_recipe(folder / "base" / "export", folder / "arm", [*_TEXTS, keys], shares, stage)
    recipe["evaluate"] = {
        **{"lengths": [1, 2, 4, 8], "answers": 100, "documents": 8, "position_lengths": 8, "short_tokens": "4Ki"},
        **{"pairs": [4, 12], "precision": "bfloat16"},
    }
    (folder / "arm.yaml").write_text(yaml.safe_dump(recipe))
    arms = {
        name: [f"stages.0.layers={lines}", f"stages.0.experimental={{frozen_steps: {FROZEN}}}"] if lines else []
        for name, lines in ARMS.items()
    }
    return {"recipe": "arm.yaml", "study": str(folder / "study"), "arms": arms, "seeds": [1, 2, 3], "zero_shot": False,
            "overrides": []}  # fmt: skip


def _make_stage(context: int, tokens: int, *, step_tokens: str, rope: dict[str, Any], lr: float) -> dict[str, Any]:
    return {
        **{"context_length": context, "rope": rope, "tokens": tokens, "step_tokens": step_tokens, "lr": lr},
        **{"schedule": {"shape": "cosine", "warmup": 0.1, "floor": 0.01}, "betas": [0.9, 0.99]},
        **{"checkpoint_steps": 20, "log_steps": 10},
    }


def _make_recipe(
    model: Path, run: Path, sources: list[dict[str, Any]], mix: dict[str, float], stage: dict[str, Any]
) -> dict[str, Any]:
    return {
        **{"model": str(model), "run": str(run), "seed": 7, "stages": [stage], "export": {"dtype": "float32"}},
        "corpus": {"store": str(run.parent / "store"), "seed": 7, "sources": sources, "mix": mix, "max_repeats": 8,
                   "held_out": 0.1, "near_duplicates": None},
        "parallel": {"ranks": 1, "context_parallel": 1, "recompute": "none", "precision": "bfloat16"},
    }  # fmt: skip


def run(folder: Path) -> None:
    """Each part that is not done yet."""
    folder.mkdir(parents=True, exist_ok=True)
    write_start(folder / "start")
    base, study = folder / "base.yaml", folder / "study.yaml"
    base.write_text(yaml.safe_dump(make_base_recipe(folder)))
    for verb in ("prepare", "extend", "train", "export"):
        if not (folder / "base" / "export" / "manifest.json").exists():
            subprocess.run([sys.executable, "-m", "ropewalk", verb, str(base)], check=True)
    study.write_text(yaml.safe_dump(make_study(folder)))
    subprocess.run([sys.executable, "-m", "ropewalk", "sweep", str(study)], check=True)


def tabulate(results: dict[str, Any]) -> str:
    """A row for each arm: mean over seeds with Student's 95 % interval."""
    scores: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for cell in results["cells"]:
        for task, _, tokens, depth, _, value, *_ in cell["scores"]:
            if depth is None:
                scores[cell["arm"] or "base", task, tokens].append(value)
    lengths = [TARGET >> shift for shift in (3, 2, 1, 0)]
    far = f"nll/position/{TARGET * 3 // 4}-{TARGET}", TARGET
    heads = [f"retrieval at {format_length(tokens)}, %" for tokens in lengths]
    lines = [f"| layers with gated delta nets | {' | '.join(heads)} | loss of 3Ki to 4Ki, nats |"]
    lines += ["|---" * (len(heads) + 2) + "|"]
    for arm in ("base", *ARMS):
        cells = [_tell(scores.get((arm, "retrieval/key_value", tokens)), 100) for tokens in lengths]
        lines.append(f"| {arm} | {' | '.join(cells)} | {_tell(scores.get((arm, *far)), 1)} |")
    return "\n".join(lines) + "\n"


def _tell(values: list[float] | None, times: float) -> str:
    if not values:
        return "-"
    value, low, high = mean([times * each for each in values]) if len(values) > 1 else (times * values[0],) * 3
    digits = 0 if times > 1 else 2
    return f"{value:.{digits}f} ± {(high - low) / 2:.{digits}f}" if high > low else f"{value:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", nargs=2, type=Path, metavar=("RESULTS", "PAGE"))
    given = parser.parse_args()
    if given.table is None:
        run(given.folder.resolve())
        return
    results, page = given.table
    write_tables(page, tabulate(json.loads(results.read_text())))


if __name__ == "__main__":
    main()
