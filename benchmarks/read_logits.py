"""Programs for other people's environments: load or convert exported folders there, and write logits of one text.

    PYTHON benchmarks/read_logits.py transformers|convert|llama.cpp JOBS

Called by benchmarks/readers.py, and must not import ropewalk. JOBS is a JSON file with ``tokens``, ``places`` and a
list of ``{"folder", "gguf", "answer", "overrides"}``; an answer is a .npy of [places, vocabulary]. Prints one JSON line
a job, with the reader's own last words where it refuses.
"""

import importlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Job = dict[str, Any]


def read_transformers(job: Job, tokens: list[int], places: list[int]) -> None:
    """Plain ``from_pretrained``, of whatever version is installed here."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False, logits_to_keep=torch.tensor(places)).logits[0]
    np.save(job["answer"], logits.numpy())


def convert(job: Job, tokens: list[int], places: list[int]) -> None:
    """llama.cpp's converter, in float32; its folder is the first of the import path."""
    sys.argv = ["convert_hf_to_gguf.py", job["folder"], "--outfile", job["gguf"], "--outtype", "f32"]
    runpy.run_path(str(Path(sys.path[0]) / sys.argv[0]), run_name="__main__")


def read_llama_cpp(job: Job, tokens: list[int], places: list[int]) -> None:
    """llama.cpp with a float32 cache and without flash attention, so that little but positions can differ."""
    llama = importlib.import_module("llama_cpp")
    settings = {"kv_overrides": job["overrides"], "n_ctx": len(tokens), "n_batch": 512, "logits_all": True}
    settings |= {"type_k": 0, "type_v": 0, "n_threads": 1}
    model = llama.Llama(model_path=job["gguf"], verbose=False, **settings)
    model.eval(tokens)
    np.save(job["answer"], np.stack([model.scores[place] for place in places]))


READERS: dict[str, Callable[[Job, list[int], list[int]], None]] = {
    "transformers": read_transformers,
    "convert": convert,
    "llama.cpp": read_llama_cpp,
}


def main(reader: str, jobs: str) -> None:
    """Do every job; one that fails is a result, whatever the reader raises."""
    asked: dict[str, Any] = json.loads(Path(jobs).read_text())
    for job in asked["jobs"]:
        refusal = ""
        try:
            READERS[reader](job, asked["tokens"], asked["places"])
        except SystemExit as end:
            refusal = f"exit code {end.code}" if end.code else ""
        except Exception as error:
            refusal = f"{type(error).__name__}: {error}"
        print(json.dumps({"folder": job["folder"], "refusal": " ".join(refusal.split())[:300]}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
