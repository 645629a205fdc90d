"""Low-rank adapters in a loaded model, through peft, and their merge back into plain weights.

A matrix with an adapter keeps its name; its own frozen weight is called ``base_layer`` below that name. Parameters that
are trained whole are not copied, unlike with peft's ``modules_to_save``, so a tied head stays tied. A frozen embedding
needs a hook. Without it no gradient reaches the modules before the first adapter, and both the tiled MLP and the search
for leaks need that gradient.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from transformers import PreTrainedModel

from ropewalk.core.error import UserError
from ropewalk.model.architectures import blocks_of, family_of, is_embedding, recurrent_of
from ropewalk.model.biases import NAME as SCORE_BIAS
from ropewalk.model.lazy_weights import LazyWeights, read_weights
from ropewalk.recipe.lora import Lora, require_peft
from ropewalk.shape.latent import name_latent

_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


def attach_adapter(model: PreTrainedModel, lora: Lora, *, seed: int) -> None:
    """Insert new adapters into ``model``, in place, and freeze every parameter that ``lora`` does not train.

    The first values depend on ``seed`` alone; the product of each adapter is 0 at the start. Biases of attention scores
    are always trained, because they are new in the stage that adds them. Routers and experts get no adapter. Raises
    UserError where peft is not installed, where no matrix has a chosen name, and for a model with recurrent layers.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    family, blocks = family_of(model), blocks_of(model)
    _refuse_recurrent(model, blocks)
    own = family.projections if family else {}
    if family and family.latent:
        own = name_latent(model.config.q_lora_rank)
    names = list(dict.fromkeys(own.get(name, name) for name in lora.projections))
    _refuse_only_experts(blocks, names)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names)
    with torch.random.fork_rng(devices=[]), _seemingly_real(model):
        torch.default_generator.manual_seed(seed)
        model.requires_grad_(False)
        inject_adapter_in_model(config, blocks)  # given a whole model, peft would take the experts as well
    for name, parameter in model.named_parameters():
        if _is_whole(name, lora, tied=model.config.tie_word_embeddings):
            parameter.requires_grad_(True)
    if not model.get_input_embeddings().weight.requires_grad:
        model.enable_input_require_grads()


def _refuse_recurrent(model: PreTrainedModel, blocks: nn.ModuleList) -> None:
    if any(recurrent_of(model, block) is not None for block in blocks):
        raise UserError(
            "adapters do not support recurrent layers yet",
            where="stages: lora",
            why=f"the recurrent layers of {type(model).__name__} have matrices with other names and counts",
            fix="leave lora out",
        )


def _refuse_only_experts(blocks: nn.ModuleList, names: list[str]) -> None:
    there = {path.split(".")[-1] for path, module in blocks.named_modules() if isinstance(module, nn.Linear)}
    if not there & set(names):
        raise UserError(
            "no matrix of this model gets an adapter",
            where="stages: lora.modules",
            why=f"its blocks have none of {', '.join(names)} outside of the experts, which get no adapters",
            fix="add attention to lora.modules",
        )


@contextmanager
def _seemingly_real(model: PreTrainedModel) -> Iterator[None]:
    """Let matrices on the meta device look as if they had memory: one number that stands for all of them.

    peft moves new adapters to the device of the matrix beside them, and on the meta device their values would be lost.
    """
    empty = []
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear) and isinstance(weight, nn.Parameter) and weight.device.type == "meta":
            module.weight = nn.Parameter(torch.empty(1, dtype=weight.dtype).expand(weight.shape))
            empty.append((module, weight))
    yield
    for module, weight in empty:
        module.weight = weight.requires_grad_(module.weight.requires_grad)


def _is_whole(name: str, lora: Lora, *, tied: bool) -> bool:
    """Whether the parameter called ``name`` is trained as it is; a tied head has the name of the embedding."""
    if is_embedding(name):
        return "embeddings" in lora.also_train or (tied and "head" in lora.also_train)
    if name.startswith("lm_head"):
        return "head" in lora.also_train
    return f".{SCORE_BIAS}." in name or ("norms" in lora.also_train and "norm" in name.split(".")[-2])


def merge_adapter(trained: Mapping[str, Float[Tensor, "..."]], folder: Path, lora: Lora) -> LazyWeights:
    """All weights of the model in float32: those of ``folder``, with the trained values applied.

    ``trained`` holds whole tensors under their names in a model with adapters.
    """
    stored = read_weights(folder)
    adapted = {f"{name.removesuffix(_DOWN)}.weight": name for name in trained if name.endswith(_DOWN)}
    whole = {name for name in trained if not name.endswith((_DOWN, _UP))}
    assert {*adapted, *whole} <= {*stored}, {*adapted, *whole} - {*stored}

    def read(name: str) -> Float32[Tensor, "..."]:
        if name in whole:
            return trained[name].float()
        weight = stored[name].float()
        if name in adapted:
            down, up = adapted[name], adapted[name].removesuffix(_DOWN) + _UP
            weight += trained[up].float() @ trained[down].float() * lora.scale
        return weight

    return LazyWeights(stored.shapes, read)
