"""Low-rank adapters in a loaded model, through peft, and their way back into plain weights.

A matrix with an adapter is still called what it was, its own weight ``base_layer`` below that name and frozen; what is
trained whole is not copied, as peft's ``modules_to_save`` would, so a tied head stays tied. The surprise is the hook on
a frozen embedding: without it no gradient reaches what stands before the first adapter, and an MLP in tiles and the
search for leaks would have nothing to hold on to.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ropewalk.model.biases import NAME as SCORE_BIAS
from ropewalk.model.weights import read_headers, read_tensor
from ropewalk.parallel.verify_folder import require_intact
from ropewalk.recipe.lora import Lora, require_peft

_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


def attach_adapter(model: PreTrainedModel, lora: Lora, *, seed: int) -> None:
    """Put fresh adapters into ``model``, in place, and freeze everything that ``lora`` does not train.

    Their first values depend on ``seed`` alone: the product of each is 0. Biases of attention scores are always
    trained, since a stage that adds them has nothing to freeze. Raises UserError where peft is not installed.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.projections))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if _is_whole(name, lora, tied=model.config.tie_word_embeddings):
            parameter.requires_grad_(True)
    if not model.get_input_embeddings().weight.requires_grad:
        model.enable_input_require_grads()


def _is_whole(name: str, lora: Lora, *, tied: bool) -> bool:
    """Whether the parameter called ``name`` is trained as it is; a tied head goes by the embedding's name."""
    if "embed_tokens" in name:
        return "embeddings" in lora.also_train or (tied and "head" in lora.also_train)
    if name.startswith("lm_head"):
        return "head" in lora.also_train
    return f".{SCORE_BIAS}." in name or ("norms" in lora.also_train and "norm" in name.split(".")[-2])


def merge_adapter(trained: Mapping[str, Tensor], folder: Path, lora: Lora) -> dict[str, Tensor]:
    """All weights of the model: those of ``folder`` in float32, with what was trained on top of it.

    ``trained`` holds whole tensors by the names that they have in a model with adapters.
    """
    require_intact(folder)
    stored = read_headers(folder)
    weights = {name: read_tensor(stored, name).float() for name in stored}
    for name, tensor in trained.items():
        if name.endswith(_DOWN):
            stem = name.removesuffix(_DOWN)
            weights[f"{stem}.weight"] += trained[stem + _UP].float() @ tensor.float() * lora.scale
        elif not name.endswith(_UP):
            assert name in weights, name
            weights[name] = tensor.float()
    return weights
