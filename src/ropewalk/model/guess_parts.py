"""The parts of a class that has no row, read off a tiny model of it: paths, matrices, norms, the layout of cosines.

A forward says which module is what: matrices that run before the attention of a layer make its queries, keys and
values, the last of the layer's attention makes its output, and the others are the MLP.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ropewalk.core.quantity import format_count
from ropewalk.model.trial import refuse_class
from ropewalk.model.twin import HEAD_DIM, HEADS, KV_HEADS, LAYERS, MLP_WIDTH, WIDTH
from ropewalk.model.watch_attention import Watch
from ropewalk.shape.family import CosSin, Norm, Parts, QkNorm

EXPERTS = "experts"
"""The name that transformers gives the experts in their mixture."""


def is_mixture(module: nn.Module) -> bool:
    """Whether a part of a block has experts."""
    return EXPERTS in dict(module.named_children())


@dataclass(frozen=True)
class FoundParts:
    """The modules of a tiny model: its backbone, a block, and the paths to the rest."""

    parts: Parts
    backbone: nn.Module
    block: nn.Module

    @property
    def attention(self) -> nn.Module:
        return self.block.get_submodule(self.parts.attention)

    @property
    def mlp(self) -> nn.Module:
        return self.block.get_submodule(self.parts.mlp)


def find_parts(model: PreTrainedModel, watch: Watch) -> FoundParts:
    """The paths of a class's modules. Raises UserError for a class that is built otherwise."""
    name = type(model).__name__
    backbone: Any = getattr(model, model.base_model_prefix, None)
    if not isinstance(backbone, nn.Module) or backbone is model:
        raise refuse_class(name, "its model has no part without the head")
    children = dict(backbone.named_children())
    layers = [path for path, each in children.items() if isinstance(each, nn.ModuleList) and len(each) == LAYERS]
    rotary = [
        path for path, each in children.items() if any(key.endswith("inv_freq") for key, _ in each.named_buffers())
    ]
    if len(layers) != 1 or len(rotary) != 1:
        what = "one list of layers" if len(layers) != 1 else "one module that makes the angles of RoPE for all layers"
        raise refuse_class(name, f"it has not {what}")
    blocks: Any = backbone.get_submodule(layers[0])
    block: Any = blocks[0]
    embedding = next((path for path, each in backbone.named_modules() if each is model.get_input_embeddings()), None)
    attention = next((path for path, each in block.named_modules() if each is watch.calls[0].module), None)
    after = list(children)[list(children).index(layers[0]) + 1 :]
    norms = [path for path in after if "norm" in type(children[path]).__name__.lower()]
    mlps = [
        path
        for path, each in block.named_children()
        if path != attention and any(part.dim() > 1 for part in each.parameters())
    ]
    for found, what in ((embedding, "embedding"), (attention, "attention of a layer"), (norms, "last norm")):
        if not found:
            raise refuse_class(name, f"its {what} is not where a Llama has it")
    if len(mlps) != 1:
        raise refuse_class(
            name,
            f"its blocks have {format_count(len(mlps), 'part')} with matrices besides attention ({', '.join(mlps)})",
        )
    assert embedding is not None and attention is not None
    parts = Parts(model.base_model_prefix, layers[0], rotary[0], norms[-1], attention, mlps[0], embedding=embedding)
    return FoundParts(parts, backbone, block)


@dataclass(frozen=True)
class FoundMatrices:
    """The matrices of a block: their names where these differ from Llama's, and the kind of the MLP."""

    projections: Mapping[str, str]
    query: str
    output: str
    mlp: str
    """Empty where the first block has experts instead."""
    gated: bool


def find_matrices(name: str, found: FoundParts) -> FoundMatrices:
    """The names of a block's matrices. Raises UserError for other matrices than those of attention and an MLP."""
    attention = {
        path: each.weight.shape for path, each in found.attention.named_modules() if isinstance(each, nn.Linear)
    }
    mlp = {path: each.weight.shape for path, each in found.mlp.named_modules() if isinstance(each, nn.Linear)}
    kv_heads = [heads for heads in (KV_HEADS, HEADS) if _fits(attention, heads)]
    if not kv_heads:
        raise refuse_class(name, f"its attention has other matrices than Llama's: {_show(attention)}")
    names = _name_attention(attention, kv_heads[0])
    if is_mixture(found.mlp):  # then no layer has another MLP
        told = {own: path.rpartition(".")[2] for own, path in names.items()}
        told = {own: path for own, path in told.items() if own != path}
        return FoundMatrices(told, names["q_proj"], names["o_proj"], "", True)
    into = [path for path, shape in mlp.items() if shape[1] == WIDTH]
    out = [path for path, shape in mlp.items() if shape == (WIDTH, MLP_WIDTH)]
    rows = [mlp[path][0] for path in into]
    if len(into) + len(out) != len(mlp) or len(out) != 1 or rows not in ([MLP_WIDTH], [2 * MLP_WIDTH], [MLP_WIDTH] * 2):
        raise refuse_class(name, f"its MLP is no product of two or three matrices: {_show(mlp)}")
    gated = sum(rows) == 2 * MLP_WIDTH
    up = next((path for path in into if path in ("up_proj", "w3")), into[-1])
    names |= {"up_proj": up, "down_proj": out[0]}
    if gated:
        names["gate_proj"] = next((path for path in into if path != up), up)
    last = {own: path.rpartition(".")[2] for own, path in names.items()}
    told = {own: path for own, path in last.items() if own != path}
    return FoundMatrices(told, names["q_proj"], names["o_proj"], into[0], gated)


def _fits(attention: Mapping[str, torch.Size], kv_heads: int) -> bool:
    query, both, output = HEADS * HEAD_DIM, (HEADS + 2 * kv_heads) * HEAD_DIM, (WIDTH, HEADS * HEAD_DIM)
    shapes = [tuple(shape) for shape in attention.values()]
    single = sorted(((query, WIDTH), *2 * [(kv_heads * HEAD_DIM, WIDTH)], output))
    return sorted(shapes) in (single, sorted(((both, WIDTH), output)))


def _name_attention(attention: Mapping[str, torch.Size], kv_heads: int) -> dict[str, str]:
    """The class's names by those of Llama; matrices of one shape are told apart by their order and their names."""
    paths = list(attention)
    output = next((path for path in paths if path.startswith(("o_", "out", "dense"))), paths[-1])
    rest = [path for path in paths if path != output]
    if len(rest) == 1:
        return dict.fromkeys(("q_proj", "k_proj", "v_proj"), rest[0]) | {"o_proj": output}
    wide = next((path for path in rest if attention[path][0] == HEADS * HEAD_DIM), rest[0])
    query = next((path for path in rest if path.startswith("q")), wide)
    key, value = (path for path in rest if path != query)
    return {"q_proj": query, "k_proj": key, "v_proj": value, "o_proj": output}


def _show(matrices: Mapping[str, torch.Size]) -> str:
    return ", ".join(f"{path} {tuple(shape)}" for path, shape in matrices.items()) or "none"


def find_norm(name: str, norm: nn.Module) -> Norm:
    """The trained parameters of a norm."""
    sizes = {path: tuple(each.shape) for path, each in norm.named_parameters()}
    if sizes not in ({}, {"weight": (WIDTH,)}, {"weight": (WIDTH,), "bias": (WIDTH,)}):
        raise refuse_class(name, f"its last norm has other parameters than a norm: {sizes}")
    kinds: tuple[Norm, ...] = ("none", "scale", "scale_bias")
    return kinds[len(sizes)]


def count_norms(found: FoundParts) -> int:
    """The norms of a block outside of its attention's heads."""
    inside = {id(each) for part in (found.attention, found.mlp) for each in part.modules()}
    norms = [each for each in found.block.modules() if "norm" in type(each).__name__.lower()]
    return sum(id(each) not in inside for each in norms)


def find_qk_norm(found: FoundParts) -> QkNorm:
    """The range over which queries and keys are normalised, by the parameters of the two norms."""
    sizes = [
        tuple(parameter.shape)
        for each in found.attention.modules()
        if "norm" in type(each).__name__.lower()
        for parameter in each.parameters(recurse=False)
    ]
    if not sizes:
        return "none"
    if all(len(size) == 2 for size in sizes):
        return "each_head"
    return "head" if sizes == 2 * [(HEAD_DIM,)] else "all_heads"


@torch.no_grad()
def find_layout(name: str, found: FoundParts) -> CosSin:
    """The layout in which a class passes cosines and sines to its blocks."""
    rotary: Any = found.backbone.get_submodule(found.parts.rotary)
    key = next(key for key, _ in rotary.named_buffers() if key.endswith("inv_freq"))
    half = len(getattr(rotary, key))
    kinds = () if key == "inv_freq" else (key.removesuffix("_inv_freq"),)
    made = rotary(torch.zeros(1, 1, WIDTH, dtype=torch.float64), torch.full((1, 1), 3), *kinds)
    if isinstance(made, torch.Tensor):
        if not made.is_complex():
            raise refuse_class(name, "its angles are passed in a layout that ropewalk does not know")
        return "complex"
    cosine = made[0][0, 0]
    if len(cosine) == half:
        return "single"
    if len(cosine) == 2 * half:
        for layout, one in (("halves", cosine[:half]), ("doubled", cosine[::2])):
            # twice [half] -> [2 half]
            again = torch.cat([one, one]) if layout == "halves" else one.repeat_interleave(2)
            if half > 1 and torch.equal(again, cosine):
                return layout  # type: ignore[return-value]
    raise refuse_class(name, "its angles are passed in a layout that ropewalk does not know")
