"""A program, not a module: load a folder as anybody would, and write the logits of one text at some places.

``python -P plain_reload.py FOLDER REQUEST ANSWER [LOADER]``. It must not import ropewalk: it stands for everyone else's
code. Only where a folder says that no class of transformers runs it, LOADER names the function (``module:name``) that
does. REQUEST holds ``tokens`` and ``places``; ANSWER gets ``logits`` [places, vocabulary] in float32.
"""

import importlib
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging


def main(folder: str, request: str, answer: str, loader: str = "") -> None:
    """Answer one request, on an accelerator if there is one."""
    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    asked = load_file(request, device=device)
    if loader:
        module, _, name = loader.partition(":")
        model = getattr(importlib.import_module(module), name)(Path(folder)).to(device)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).to(device)
    with torch.no_grad():
        logits = model(asked["tokens"][None], use_cache=False, logits_to_keep=asked["places"]).logits[0]
    save_file({"logits": logits.float().cpu().contiguous()}, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
