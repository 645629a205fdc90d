"""Programs for other people's environments: load or convert exported folders there, and write logits of some texts.

    PYTHON benchmarks/read_logits.py transformers|ropewalk|convert|llama.cpp JOBS

Called by benchmarks/readers.py, and imports ropewalk only where that is the reader. JOBS is a JSON file with ``texts``
(``tokens`` and ``places``) and a list of jobs (``folder``, ``gguf``, ``answer``, ``overrides``); an answer is a .npy of
[places of all texts, vocabulary]. Prints one JSON line a job, with the reader's own last words where it refuses.
"""

import importlib
import json
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Job = dict[str, Any]
Texts = Sequence[dict[str, list[int]]]


def read_transformers(job: Job, texts: Texts) -> None:
    """Plain ``from_pretrained``, of whatever version is installed here."""
    import torch
    from transformers import AutoModelForCausalLM

    _answer(AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32, local_files_only=True), job, texts)


def read_ropewalk(job: Job, texts: Texts) -> None:
    """Our loader, called as a user would call it."""
    _answer(importlib.import_module("ropewalk.model.load").load_model(Path(job["folder"])), job, texts)


def convert(job: Job, texts: Texts) -> None:
    """llama.cpp's converter, in float32; its folder is the first of the import path."""
    sys.argv = ["convert_hf_to_gguf.py", job["folder"], "--outfile", job["gguf"], "--outtype", "f32"]
    runpy.run_path(str(Path(sys.path[0]) / sys.argv[0]), run_name="__main__")


def read_llama_cpp(job: Job, texts: Texts) -> None:
    """llama.cpp with a float32 cache and without flash attention, so that little but positions can differ."""
    llama = importlib.import_module("llama_cpp")
    settings = {"n_ctx": max(len(text["tokens"]) for text in texts), "n_batch": 512, "logits_all": True}
    settings |= {"kv_overrides": job["overrides"], "type_k": 0, "type_v": 0, "n_threads": 1}
    model = llama.Llama(model_path=job["gguf"], verbose=False, **settings)
    found = []
    for text in texts:
        model.reset()
        model.eval(text["tokens"])
        found += [model.scores[place].copy() for place in text["places"]]
    np.save(job["answer"], np.stack(found))


def _answer(model: Any, job: Job, texts: Texts) -> None:
    import torch

    found = []
    with torch.no_grad():
        for text in texts:
            places = torch.tensor(text["places"])
            found.append(model(torch.tensor([text["tokens"]]), use_cache=False, logits_to_keep=places).logits[0])
    np.save(job["answer"], torch.cat(found).numpy())


READERS: dict[str, Callable[[Job, Texts], None]] = {
    "transformers": read_transformers,
    "ropewalk": read_ropewalk,
    "convert": convert,
    "llama.cpp": read_llama_cpp,
}


def main(reader: str, jobs: str) -> None:
    """Do every job; one that fails is a result, whatever the reader raises."""
    asked: dict[str, Any] = json.loads(Path(jobs).read_text())
    for job in asked["jobs"]:
        refusal = ""
        try:
            READERS[reader](job, asked["texts"])
        except SystemExit as end:
            refusal = f"exit code {end.code}" if end.code else ""
        except Exception as error:
            refusal = f"{type(error).__name__}: {error}"
        print(json.dumps({"folder": job["folder"], "refusal": " ".join(refusal.split())[:300]}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
