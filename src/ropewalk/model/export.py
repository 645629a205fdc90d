"""Write weights into a model folder that any engine loads: the extended model's folder with these weights.

All files except the weights come from the folder that was trained, so no file can be left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from jaxtyping import Float, Shaped
from torch import Tensor

from ropewalk.core.artifact import is_finished, new_folder, read_manifest
from ropewalk.model.engines import LOADER, is_native
from ropewalk.model.folder import copy_tokenizer, read_config
from ropewalk.model.weights import Dtype, check_finite, check_weights, open_to_readers, read_headers, read_tensor
from ropewalk.parallel.verify_folder import require_intact
from ropewalk.shape.layer_keys import STALE_KEYS
from ropewalk.shape.read import read_shape

_SHARD_BYTES = 5 * 10**9
_LOADING = f"""No class of transformers has this model's positions: config.json tells them under `ropewalk`, layer by
layer. Other readers refuse the folder, and so run no other model in silence. It loads with

    from pathlib import Path
    from {LOADER.replace(":", " import ")}

    model = load_model(Path("this folder"))
"""


def export(weights: Mapping[str, Shaped[Tensor, "..."]] | Path, like: Path, out: Path, *, dtype: Dtype) -> None:
    """Write ``out``, finished: config and tokenizer of the model folder ``like``, with ``weights`` as ``dtype``.

    ``weights`` are whole tensors under transformers' names, or a model folder that has them. Raises UserError where
    names or shapes differ from those of ``like``, a value is not finite, or a folder does not match its manifest.
    """
    require_intact(like)
    shape = read_shape(like)
    tensors = read_weights(weights) if isinstance(weights, Path) else weights
    expected = {name: stored.shape for name, stored in read_headers(like).items()}
    # A tied head that was stored twice is stored once: no engine needs the copy.
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if shape.tied else {}
    kept = {name: tensor.to(getattr(torch, dtype)).contiguous() for name, tensor in tensors.items() if name not in tied}
    check_finite(out, kept)
    facts = read_manifest(like)["facts"] if is_finished(like) else {"context_tokens": shape.context_tokens}
    with new_folder(out, kind="model", inputs={"like": str(like), "dtype": dtype}, facts=lambda: facts) as work:
        save_torch_state_dict(kept, work, max_shard_size=_SHARD_BYTES, metadata={"format": "pt"})
        open_to_readers(work)
        check_weights(work, expected, tied=tied)
        told = {key: value for key, value in read_config(like).items() if key not in STALE_KEYS}
        config = told | {"dtype": dtype, "torch_dtype": dtype}
        (work / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        copy_tokenizer(like, work, context_tokens=facts["context_tokens"])
        if not is_native(work):
            (work / "LOADING.md").write_text(_LOADING)


def read_weights(folder: Path) -> dict[str, Shaped[Tensor, "..."]]:
    """All stored tensors of a model folder that matches its manifest; names and shapes are not checked."""
    require_intact(folder)
    stored = read_headers(folder)
    return {name: read_tensor(stored, name) for name in stored}


def merge_weights(
    trained: Mapping[str, Float[Tensor, "..."]], base: Mapping[str, Float[Tensor, "..."]], *, share: float
) -> dict[str, Float[Tensor, "..."]]:
    """``share`` x ``trained`` + the rest x ``base``, weight by weight; a weight that the base lacks stays as trained.

    Both ends of one short training lie in one basin of the loss. So the line between them is a trade between new and
    lost abilities (WiSE-FT, 2109.01903; model soups, 2203.05482).
    """
    return {
        name: tensor if name not in base else torch.lerp(base[name].to(tensor.dtype), tensor, share)
        for name, tensor in trained.items()
    }
