"""Context parallelism for another training loop: our attention in a Hugging Face model, and a batch cut for it.

The model does not change. Its attention is registered under a name and gets keyword arguments, so any loop that calls
``model(**kwargs)`` works. Two things must be right besides attention. Labels are shifted and counted before the
sequences are cut. Every fault is found from values that all ranks have agreed on, so all ranks raise it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Int64, Shaped
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel

from ropewalk.core.digest import digest_arrays
from ropewalk.core.error import UserError
from ropewalk.model.architectures import family_of
from ropewalk.model.attention_interface import NAME
from ropewalk.model.check_rope import check_positions
from ropewalk.model.hf_batch import read_whole_batch
from ropewalk.model.latent_attention import exchange_latents
from ropewalk.model.pass_arguments import hand_on_arguments
from ropewalk.model.recurrent_layers import mix_documents
from ropewalk.model.rope_hooks import direct_positions, is_directed
from ropewalk.model.supported import refuse_unsupported, try_unknown, watch_arguments
from ropewalk.model.unparallelize import forget_before, note_before
from ropewalk.parallel.agree import require_same_batch
from ropewalk.partition import local_shard
from ropewalk.partition.choose import Sharing, choose_partition, make_sharing
from ropewalk.partition.cost import Heads
from ropewalk.partition.recurrent_cost import RecurrentStates
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.family import Family
from ropewalk.shape.read import parse_shape
from ropewalk.shape.shared_heads import count_shared_heads, limit_sharing

AnyMesh = DeviceMesh | dist.ProcessGroup | None
AXIS = "context"


@dataclass(frozen=True)
class ContextParallel:
    """This rank's place among the ranks that share a sequence; made by ``parallelize``."""

    group: dist.ProcessGroup | None
    sharing: Sharing
    device: torch.device
    """The model's device, which the group can communicate from."""

    @property
    def ranks(self) -> int:
        """The number of ranks that share a sequence."""
        return 1 if self.group is None else dist.get_world_size(self.group)

    @property
    def rank(self) -> int:
        """The index of this rank among them."""
        return 0 if self.group is None else dist.get_rank(self.group)

    def cut(
        self,
        input_ids: Shaped[Tensor, "..."],
        labels: Shaped[Tensor, "..."] | None = None,
        position_ids: Shaped[Tensor, "..."] | None = None,
        document_ids: Shaped[Tensor, "..."] | None = None,
        attention_mask: Shaped[Tensor, "..."] | None = None,
    ) -> dict[str, Any]:
        """Keyword arguments of the model's forward for this rank's tokens of a batch; inputs are [rows, context] each.

        Every context rank passes the *same* batch. ``document_ids`` number the documents, -1 for padding. Without them
        a document begins where ``position_ids`` are 0; without both, each sequence is one document. ``labels`` are
        those of ``input_ids``, unshifted as everywhere in transformers, -100 where nothing is learnt; the last token of
        a document never has one. The tokens of all sequences come back as one sequence of ``tokens / ranks``, in the
        order of ``partition.owned(rank)``.

        The model's loss is then this rank's *part* of the mean over all labels of the batch: the sum over context ranks
        is the mean. With several batches per step, or with data ranks, set ``num_items_in_batch`` to the labels of all
        of them before the call. The call costs one sum of a few numbers over the ranks. Raises UserError, on every
        rank, for a batch that cannot be cut or that is not the same everywhere.
        """
        given = {
            "input_ids": input_ids,
            "labels": labels,
            "position_ids": position_ids,
            "document_ids": document_ids,
            "attention_mask": attention_mask,
        }
        fields = {name: each.numpy(force=True) for name, each in given.items() if each is not None}
        asked = self.sharing.layout, self.sharing.exchange, str(self.sharing.ulysses_degree)
        settings = np.array([*asked, *fields])
        require_same_batch(digest_arrays(settings, *fields.values()), self.group, device=self.device)
        batch = read_whole_batch(fields, ranks=self.ranks)
        partition = choose_partition(batch.document, ranks=self.ranks, sharing=self.sharing).partition

        def share(field: Int64[np.ndarray, "rows context"]) -> Int64[Tensor, "1 local"]:
            return torch.from_numpy(local_shard(partition, self.rank, field))[None].to(input_ids.device)

        kwargs = {
            "input_ids": share(batch.tokens),
            "position_ids": share(batch.positions),
            "use_cache": False,  # most configs default to a cache of keys, which the partition does not support
            "partition": partition,
            "context_group": self.group,
        }
        if batch.labels is not None:
            own = share(batch.labels)
            kwargs |= {"labels": own, "shift_labels": own, "num_items_in_batch": max(batch.label_count, 1)}
        return kwargs

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up gradients over the context ranks, between backward and the optimizer (or the clipping of norms).

        For models whose whole weights are on every rank. FSDP2 adds up gradients itself; see ``parallelize``.
        """
        if self.group is None:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        assert not any(isinstance(gradient, DTensor) for gradient in gradients), "FSDP2 adds up gradients by itself"
        waiting = [dist.all_reduce(gradient, group=self.group, async_op=True) for gradient in gradients]
        for each in waiting:
            assert each is not None
            each.wait()


def parallelize(
    model: nn.Module,
    mesh: AnyMesh = None,
    *,
    layout: str = "auto",
    exchange: str = "auto",
    ulysses_degree: int | None = None,
) -> ContextParallel:
    """Install our attention in ``model``, a causal language model of transformers; the result cuts its batches.

    ``mesh`` are the ranks that share a sequence: a 1-D DeviceMesh, one with a dimension "context", or a process group;
    None for this rank alone. ``layout``, ``exchange`` and ``ulysses_degree`` are as in a recipe (docs/partition.md);
    ``ulysses_degree`` None takes the cheapest number for each batch. Only two parts of the model change: its attention
    implementation, and positions that depend on a text's length (dynamic NTK, LongRoPE), which take the length from the
    token's own document. Without ``cut``'s arguments the model attends by SDPA.

        share = parallelize(model, mesh)
        loss = model(**share.cut(input_ids, labels, position_ids)).loss      # this rank's part of the mean
        loss.backward()
        share.sum_gradients(model.parameters())

    **Gradients** must be summed over context ranks, because each rank's loss is a part of one mean. ``sum_gradients``
    does it for whole weights. DDP and the Trainer *average* over ranks: multiply the loss by the number of ranks. FSDP2
    averages too, unless you call ``set_gradient_divide_factor(1.0)`` and ``set_force_sum_reduction_for_comms(True)`` on
    every sharded module; shard over data and context ranks alike. Data ranks need the sum as well, with
    ``num_items_in_batch`` counted over all of them.

    Raises UserError, with a name, for models whose tokens interact other than in plain causal attention (linear,
    chunked, bidirectional, with dropout), heads that ``ulysses_degree`` cannot share, and a mesh that names no
    context ranks. An unknown class is tried on two short documents first; a refused model does not change. A forward
    with ``cut``'s arguments also raises UserError if it requests an output that they do not support (router losses, a
    cache, a mask).
    """
    refuse_unsupported(model)
    assert isinstance(model, PreTrainedModel)
    group = _find_group(mesh)
    if ulysses_degree is not None:
        _check_teams(ulysses_degree, ranks=1 if group is None else dist.get_world_size(group))
    sharing = _share(model, layout=layout, exchange=exchange, ulysses_degree=ulysses_degree)
    note_before(model)
    _direct_by_length(model)
    hand_on_arguments(model)
    exchange_latents(model, NAME)
    mix_documents(model)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        try_unknown(model)
    except UserError:
        model.set_attn_implementation(before)
        forget_before(model)
        raise
    watch_arguments(model, ranks=1 if group is None else dist.get_world_size(group))
    return ContextParallel(group, sharing, next(model.parameters()).device)


def _find_group(mesh: Any) -> dist.ProcessGroup | None:
    if mesh is None or isinstance(mesh, dist.ProcessGroup):
        return mesh
    names = mesh.mesh_dim_names or () if isinstance(mesh, DeviceMesh) else ()
    if isinstance(mesh, DeviceMesh) and (mesh.ndim == 1 or AXIS in names):
        group: dist.ProcessGroup = mesh.get_group(None if mesh.ndim == 1 else AXIS)
        return group
    raise UserError(
        "the mesh does not define which ranks share sequences",
        where="ropewalk.parallelize: mesh",
        why=f"it is {mesh!r}",
        fix=f'give a DeviceMesh of one dimension, one with a dimension named "{AXIS}", or a process group',
    )


def _share(model: PreTrainedModel, *, layout: str, exchange: str, ulysses_degree: int | None) -> Sharing:
    """The ways to share batches, with costs for the model; raises UserError where its heads cannot be split so."""
    config, first = model.config.get_text_config(), next(model.parameters())
    family, sent_width, each = family_of(model), None, config
    heads = config.num_attention_heads
    if family is not None and family.unequal:
        layers = [config.per_layer_config[index] for index in range(config.num_hidden_layers)]
        for each in layers:  # the last one attends to all tokens, which costs most
            count_shared_heads(heads, each.num_key_value_heads, ulysses_degree or 1)
    kv_heads = getattr(each, "num_key_value_heads", None) or heads
    head_dim = getattr(each, "head_dim", None) or config.hidden_size // heads
    if family is not None and family.latent is not None:
        head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
        sent_width = config.kv_lora_rank + config.qk_rope_head_dim
    recurrent = _read_states(config, family)
    ulysses_degree = limit_sharing(ulysses_degree, recurrent=recurrent is not None)
    count_shared_heads(heads, kv_heads, ulysses_degree or 1)
    return make_sharing(
        Heads(heads, kv_heads, head_dim, sent_width),
        device=first.device.type,
        element_bytes=first.element_size(),
        layout=layout,
        exchange=exchange,
        ulysses_degree=ulysses_degree,
        recurrent=recurrent,
    )


def _read_states(config: PreTrainedConfig, family: Family | None) -> RecurrentStates | None:
    if family is None or family.recurrent is None:
        return None
    name = next(each for each, row in SUPPORTED.items() if row is family)
    return RecurrentStates.of_shape(parse_shape(config.to_dict() | {"architectures": [name]}, "model.config"))


def _check_teams(ulysses_degree: int, *, ranks: int) -> None:
    if ulysses_degree < 1 or ranks % ulysses_degree:
        raise UserError(
            "context ranks cannot be divided into equal Ulysses groups",
            where="ropewalk.parallelize: ulysses_degree",
            why=f"{ranks} context ranks are not a multiple of {ulysses_degree}",
            fix=f"choose a divisor of {ranks}",
        )


def _direct_by_length(model: PreTrainedModel) -> None:
    """Where a length decides frequencies, use that of the document; a class would use that of its whole batch."""
    config = model.config.get_text_config()
    ropes = getattr(config, "rope_parameters", None) or {}
    kinds = {str(each.get("rope_type")) for each in (ropes, *ropes.values()) if isinstance(each, dict)}
    by_length = sorted(kinds & {"dynamic", "longrope"})
    if not by_length or is_directed(model):
        return
    name = type(model).__name__
    if family_of(model) is None or name not in SUPPORTED:
        raise UserError(
            f"the RoPE of {name} depends on the length of a text",
            where="ropewalk.parallelize: rope_parameters",
            why=f"{by_length[0]} takes the length from the local positions, which on a context rank are not those of "
            "the whole document",
            fix="choose a class whose RoPE ropewalk can control (docs/models.md)",
        )
    shape = parse_shape(model.config.to_dict() | {"architectures": [name]}, "model.config")
    direct_positions(model, shape.positions, head_dim=shape.rotary_dims, native=True)
    check_positions(model, shape.positions, head_dim=shape.rotary_dims, context_tokens=shape.context_tokens)
