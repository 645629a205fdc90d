"""Give a model without memory its weights: each rank reads the rows of its own shards, and no rank holds the model.

A model from ``build_model`` has its parameters on the meta device, with shapes only. After it is sharded, each rank
allocates its shards and reads them from the files. Parameters that have values already, such as new adapters, stay.
Buffers that a file holds, such as the biases by which experts are chosen, are whole on every rank.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ropewalk.model.expert_files import join_experts
from ropewalk.model.read_rows import AnyStored, read_rows
from ropewalk.model.weights import read_headers, refuse_bad
from ropewalk.parallel.collective import gather_values
from ropewalk.parallel.rank_shards import map_shard

Places = list[tuple[nn.Module, str]]


def load_shards(model: nn.Module, folder: Path, *, device: torch.device, alone: bool = False) -> None:
    """Allocate the parameters of ``model`` that have no memory on ``device``, and fill them from a model folder.

    The model is a ``build_model``, or a module that holds one as ``causal``; it may be sharded, and then every rank
    must call this, unless one of them reads a whole model ``alone``. Raises UserError, on every rank, where a value is
    not finite.
    """
    stored, bad = join_experts(read_headers(folder)), {}
    for name, parameter, places in list(_find_empty(model)):
        made = nn.Parameter(
            map_shard(parameter, torch.empty_like, device=device), requires_grad=parameter.requires_grad
        )
        local, first_row = _find_rows(made)
        bad[name] = read_rows(stored[name], local, first_row=first_row)
        for module, own_name in places:
            setattr(module, own_name, made)
    bad |= read_buffers(model, stored)
    own = {name: count for name, count in bad.items() if count}
    everyones = [own] if alone else gather_values(own)
    for name in bad:
        # With replicas, several ranks count the same value.
        found = sum(each.get(name, 0) for each in everyones)
        total = int(torch.Size(stored[name].shape).numel())
        refuse_bad(folder, name, bad=min(found, total), values=total)


def read_buffers(model: nn.Module, stored: Mapping[str, AnyStored]) -> dict[str, int]:
    """Give each buffer that files hold its stored values; return for each how many are not finite.

    The buffers are in float32 in a model of any type: their classes compute so, but not all of them declare it.
    """
    bad = {}
    for name, module, own_name in list(find_stored_buffers(model)):
        value = torch.empty(stored[name].shape, device=module.get_buffer(own_name).device)
        bad[name] = read_rows(stored[name], value)
        module.register_buffer(own_name, value)
    return bad


def find_stored_buffers(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield the name in the files of each buffer that files hold, with its module and its name there."""
    for path, module in model.named_modules():
        for own_name, _ in module.named_buffers(recurse=False):
            if own_name not in module._non_persistent_buffers_set:
                yield f"{path}.{own_name}".removeprefix("causal."), module, own_name


def _find_empty(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Places]]:
    """Yield each parameter on the meta device with its name in the files and all its places; a tied one has several."""
    found: dict[nn.Parameter, tuple[str, Places]] = {}
    for path, module in model.named_modules():
        for own_name, parameter in module.named_parameters(recurse=False):
            if parameter.device.type == "meta":
                name = f"{path}.{own_name}".removeprefix("causal.").replace(".base_layer.", ".")
                found.setdefault(parameter, (name, []))[1].append((module, own_name))
    for parameter, (name, places) in found.items():
        yield name, parameter, places


def _find_rows(parameter: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], int]:
    """Return this rank's part of a parameter, and its first row in the whole. FSDP gives each rank equal parts."""
    if not isinstance(parameter, DTensor):
        return parameter.detach(), 0
    local, rows, mesh = parameter.to_local().detach(), parameter.shape[0], parameter.device_mesh
    place = mesh.get_coordinate()
    assert place is not None and parameter.placements[-1].is_shard(0)
    each = -(-rows // mesh.size(mesh.ndim - 1))
    first = min(rows, place[-1] * each)
    assert len(local) == min(each, rows - first), "the last ranks have fewer rows, or none"
    return local, first
