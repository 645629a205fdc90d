"""RULER by lm-eval and by ropewalk on one model: scores and processor seconds of a sample, in the same process.

lm-eval's side has its own prompts (lm_eval.tasks.ruler), transformers' ``generate`` with its cache, one sample at a
time as ``--model hf`` does by default, and its own scoring. Ours is what ``evaluate.ruler`` does: prompts, one reading
that gives the answer loss too, and writing. lm-eval gives cwe no solved example, so ours has none either, unless
``--cwe-example``. Both compute with one thread; a task's sides follow each other. Needs
lm-eval with its extra ``ruler``. A line of JSON for each task; tasks that the file has already are left out.

    python benchmarks/ruler_peer.py MODEL --tokens 1024 --samples 8 --dtype bfloat16 --out FILE
"""

import argparse
import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval.tasks.ruler import common_utils, cwe_utils, fwe_utils, niah_utils, prepare_niah, vt_utils
from transformers import AutoModelForCausalLM, AutoTokenizer

from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.evaluate.ruler_suite import plan_ruler, write_answers
from ropewalk.model.greedy_writer import GreedyWriter
from ropewalk.model.open_model import open_model
from ropewalk.recipe.ruler import RulerSpec

WRITTEN_TOKENS = {"vt": 30, "cwe": 120, "fwe": 50}  # 128 for needles
NEEDLES = {
    "niah_single_1": ("repeat", "words", "numbers"),
    "niah_multikey_2": ("needle", "words", "numbers"),
    "niah_multikey_3": ("needle", "uuids", "uuids"),
}
TASKS = (*NEEDLES, "vt", "cwe", "fwe")


def write_their_samples(task: str, tokenizer: Any, *, tokens: int, samples: int) -> list[dict[str, Any]]:
    common = {"num_samples": samples, "max_seq_length": tokens}
    if task in NEEDLES:
        haystack, key, value = NEEDLES[task]
        return prepare_niah.generate_samples(
            prepare_niah.get_haystack(type_haystack=haystack),
            template=niah_utils.TEMPLATE,
            type_haystack=haystack,
            type_needle_k=key,
            type_needle_v=value,
            TOKENIZER=tokenizer,
            **common,
        )
    if task == "vt":
        make = vt_utils.sys_vartrack_w_noise_random
        (example,) = make(tokenizer=tokenizer, num_samples=1, max_seq_length=500, incremental=5)
        return make(tokenizer=tokenizer, icl_example=example, **common)
    make = cwe_utils.sys_word_pair_random if task == "cwe" else fwe_utils.sys_kwext
    return make(tokenizer=tokenizer, **common)


def measure_theirs(task: str, model: Any, tokenizer: Any, *, tokens: int, samples: int) -> dict[str, Any]:
    begun, most = time.process_time(), WRITTEN_TOKENS.get(task, 128)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        made = write_their_samples(task, tokenizer, tokens=tokens, samples=samples)
    wrote = time.process_time()
    right, read, written = [], 0, 0
    for sample in made:
        prompt = tokenizer(f"{sample['input']} {sample['gen_prefix']}", return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=most,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )[0, prompt.shape[1] :]
        read, written = read + prompt.shape[1], written + len(out)
        text = common_utils.postprocess_pred([tokenizer.decode(out, skip_special_tokens=True)])
        right.append(common_utils.string_match_all(text, [sample["outputs"]]))
    ended = time.process_time()
    return summarise(right, read, written, samples, prompts_s=wrote - begun, model_s=ended - wrote)


def measure_ours(
    task: str, learner: GreedyWriter, tokenizer: Any, *, tokens: int, samples: int, example: bool
) -> dict[str, Any]:
    begun = time.process_time()
    spec = RulerSpec(tasks=(task,), samples=samples, example=example)
    plans = plan_ruler(spec, tokenizer, lengths=[tokens], seed=3)
    if not plans:  # plan_ruler has told the reason
        raise SystemExit(f"{task} needs more than {tokens} tokens")
    (planned,) = plans
    wrote = time.process_time()
    found = write_answers(learner, planned, tokenizer)
    ended = time.process_time()
    right = [sample.match(each.text) for sample, each in zip(planned.samples, found, strict=True)]
    read, written = sum(map(len, planned.questions)), sum(len(each.written.tokens) for each in found)
    return summarise(right, read, written, samples, prompts_s=wrote - begun, model_s=ended - wrote)


def summarise(
    right: list[float], read: int, written: int, samples: int, *, prompts_s: float, model_s: float
) -> dict[str, Any]:
    return {
        "score": sum(right) / samples,
        "prompt_tokens": read / samples,
        "written_tokens": written / samples,
        "prompts_cpu_s": round(prompts_s / samples, 3),
        "model_cpu_s": round(model_s / samples, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--cwe-example", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    done = {tuple(list(json.loads(line).values())[:5]) for line in lines}
    plain_tokenizer, tokenizer = AutoTokenizer.from_pretrained(given.model), load_tokenizer(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype)).eval()
    learner = open_model(GreedyWriter, given.model, dtype=given.dtype)
    size = {"tokens": given.tokens, "samples": given.samples}
    for task in given.tasks:
        example = task != "cwe" or given.cwe_example
        entry = {"task": task, **size, "dtype": given.dtype, "example": example}
        if tuple(entry.values()) in done:
            continue
        theirs = measure_theirs(task, model, plain_tokenizer, **size)
        ours = measure_ours(task, learner, tokenizer, **size, example=example)
        share = (ours["prompts_cpu_s"] + ours["model_cpu_s"]) / (theirs["prompts_cpu_s"] + theirs["model_cpu_s"])
        line = json.dumps({**entry, "ours_over_theirs": round(share, 3), "lm_eval": theirs, "ropewalk": ours})
        print(line, flush=True)
        with given.out.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
