"""A program, not a module: load a folder as any user would, and write the logits of texts at some places.

``python -P plain_reload.py FOLDER SCRATCH DEVICE [LOADER]``. It must not import ropewalk: it stands for other people's
code. Only where no class of transformers runs a folder, LOADER names the function (``module:name``) that does.

The model is loaded once, for all files ``request-N`` in the folder SCRATCH, which get ``answer-N`` beside them. A
request holds ``tokens`` and one of two keys. With ``places``, the answer has their ``logits`` [places, vocabulary] in
float32. With ``generate``, a count, it has that number of ``written`` ids and the ``logits`` that they were chosen by.
``cached`` decides whether they are written with a cache of keys, as servers do; ``avoid`` are ids that are not written.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Shaped
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from ropewalk.core.quantity import format_count


def answer_requests(folder: str, scratch: str, device: str, loader: str = "") -> None:
    """Process all requests in ``scratch`` on ``device``, such as ``cpu`` or ``cuda:0``."""
    logging.disable_progress_bar()
    if loader:
        module, _, name = loader.partition(":")
        model = getattr(importlib.import_module(module), name)(Path(folder)).to(device)
    else:
        model = load_plain(folder).to(device)
    for request in sorted(Path(scratch).glob("request-*")):
        found = answer(model, load_file(request, device=device), generates=not loader)
        found = {name: tensor.float() if name == "logits" else tensor for name, tensor in found.items()}
        whole = {name: tensor.cpu().contiguous() for name, tensor in found.items()}
        save_file(whole, request.with_name(request.name.replace("request", "answer")))


@torch.no_grad()
def answer(model: Any, asked: dict[str, Shaped[Tensor, "..."]], *, generates: bool) -> dict[str, Shaped[Tensor, "..."]]:
    """What the model says to one request."""
    if "generate" in asked:
        return generate_tokens(model, asked, generates=generates)
    # [1, places, vocabulary] -> [places, vocabulary]
    return {"logits": model(asked["tokens"][None], use_cache=False, logits_to_keep=asked["places"]).logits[0]}


def load_plain(folder: str) -> Any:
    """The model of the class that a folder names, which for a multimodal folder is not a causal language model's.

    Raises RuntimeError where the files lack a tensor of the class, which would have random numbers.
    """
    name = json.loads((Path(folder) / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, name) if name.endswith("ForConditionalGeneration") else AutoModelForCausalLM
    model, report = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise RuntimeError(f"the files lack {format_count(len(missing), 'tensor')} of {name}: {', '.join(missing[:3])}")
    return model


def generate_tokens(
    model: Any, asked: dict[str, Shaped[Tensor, "..."]], *, generates: bool
) -> dict[str, Shaped[Tensor, "..."]]:
    """The likeliest tokens after a prompt, by ``generate`` or, where a model has only its forward, one by one."""
    tokens, count = asked["tokens"][None], int(asked["generate"])
    if generates:
        done = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            num_beams=1,
            pad_token_id=0,
            suppress_tokens=asked["avoid"].tolist() if "avoid" in asked else None,
            use_cache=bool(asked["cached"]),
            return_dict_in_generate=True,
            output_logits=True,
        )
        # count x [1, vocabulary] -> [count, vocabulary]
        return {"written": done.sequences[0, tokens.shape[1] :], "logits": torch.cat(done.logits)}
    steps = []
    for _ in range(count):
        steps.append(model(tokens, use_cache=False).logits[:, -1])
        # [1, tokens] and [1, 1] -> [1, tokens + 1]
        tokens = torch.cat([tokens, steps[-1].argmax(dim=-1)[None]], dim=1)
    # count x [1, vocabulary] -> [count, vocabulary]
    return {"written": tokens[0, -count:], "logits": torch.cat(steps)}


if __name__ == "__main__":
    answer_requests(*sys.argv[1:])
