"""transformers' Trainer with context parallelism: the ranks of a group share each sequence, in training and evaluation.

Three things differ from the Trainer. All ranks of a context group get the same batch, by the Trainer's own sampler, so
shuffling, workers and collators stay as they are. Each rank's model gets its tokens of the batch. Losses are summed
over context ranks, because each is a part of one mean. What the Trainer would compute from whole logits is refused.
"""

from typing import Any

import torch.distributed as dist
from accelerate.data_loader import BatchSamplerShard, IterableDatasetShard
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments

from ropewalk.core.error import UserError
from ropewalk.model.flattened import take_flattened
from ropewalk.model.parallelize import parallelize
from ropewalk.parallel.collective import sum_over_ranks

_NEEDS_LOGITS = ("compute_metrics", "preprocess_logits_for_metrics", "compute_loss_func", "model_init")
"""Arguments of the Trainer that need whole logits, or that make the model after it was parallelised."""


_SHARDS = (BatchSamplerShard, IterableDatasetShard)


class ContextParallelTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """A Trainer whose ranks share sequences; ``mesh``, ``layout``, ``exchange`` and ``ulysses_degree`` are as in
    ``parallelize``, and ``settings`` are the Trainer's own.

    Without a ``mesh`` all ranks share each sequence. With one, the other ranks are data ranks: a batch goes to each
    context group. The ranks of a group must follow each other, as in ``init_device_mesh(..., (data, context))``. The
    model's gradients must be averaged over all ranks, as DDP and FSDP do. ``DataCollatorWithFlattening`` is taken as it
    is; its sequences are filled up to a multiple of the ranks. Raises UserError for settings that need the logits of
    whole sequences, for those that distribute batches in another way, and for fields of a batch that cannot be cut.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        mesh: Any = None,
        layout: str = "auto",
        exchange: str = "auto",
        ulysses_degree: int | None = None,
        **settings: Any,
    ) -> None:
        _refuse_settings(args, settings)
        group = dist.group.WORLD if mesh is None and dist.is_initialized() else mesh
        self.context = parallelize(model, group, layout=layout, exchange=exchange, ulysses_degree=ulysses_degree)
        _require_neighbours(self.context.group)
        super().__init__(model, args, **settings)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The Trainer's, with the same batches for all ranks of a context group."""
        return self._share_batches(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """The Trainer's, with the same batches for all ranks of a context group."""
        return self._share_batches(super().get_eval_dataloader(eval_dataset))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Shaped[Tensor, "..."]],
        return_outputs: bool = False,
        num_items_in_batch: Shaped[Tensor, ""] | int | None = None,
    ) -> Any:
        """The loss of this rank's tokens, scaled so that the mean over all ranks is the mean over all labels."""
        ranks = self.context.ranks
        kwargs = self.context.cut(**take_flattened(inputs, ranks=ranks))
        if model.training and num_items_in_batch is not None:
            kwargs["num_items_in_batch"] = num_items_in_batch / ranks  # every context rank has counted all labels
        outputs = model(**kwargs)
        loss: Float[Tensor, ""] = outputs.loss
        if not model.training:
            loss = sum_over_ranks(loss.detach().double(), group=self.context.group).to(loss.dtype)
        else:  # the mean of gradients over all ranks must be their sum, or the mean over data ranks without a count
            loss = loss * (ranks if num_items_in_batch is None else self.args.world_size)
        return (loss, outputs) if return_outputs else loss

    def predict(self, *args: Any, **settings: Any) -> Any:
        """Refused: a rank has the logits of its own tokens alone."""
        raise _refuse("predict", "it returns logits of whole sequences", "call the model itself, without cut")

    def _share_batches(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        ranks = self.context.ranks
        if ranks == 1:
            return loader
        # accelerate gives each process its own batches
        shard = next(each for each in (loader.batch_sampler, loader.dataset) if isinstance(each, _SHARDS))
        shard.num_processes, shard.process_index = self.args.world_size // ranks, self.args.process_index // ranks
        if shard.num_processes == 1 and hasattr(shard, "even_batches"):
            shard.even_batches = False  # nobody waits for another batch, and a filled one would count sequences twice
        return loader


def _refuse_settings(args: TrainingArguments, settings: dict[str, Any]) -> None:
    """Raise UserError for a setting whose meaning would change without a word."""
    for name in _NEEDS_LOGITS:
        if settings.get(name) is not None:
            raise _refuse(name, "a rank has the logits of its own tokens alone", "leave it out")
    accelerator = args.accelerator_config
    cures = {
        "label_smoothing_factor": (args.label_smoothing_factor, "the model's own loss is used", "set it to 0"),
        "average_tokens_across_devices": (
            not args.average_tokens_across_devices,
            "a step's labels are counted over all ranks",
            "leave it true",
        ),
        "include_num_input_tokens_seen": (
            args.include_num_input_tokens_seen not in (False, "no"),
            "the ranks of a group would each count the same tokens",
            "leave it out",
        ),
        "parallelism_config": (
            args.parallelism_config is not None,
            "it shares sequences in another way",
            "leave it out",
        ),
        "accelerator_config": (
            bool(accelerator.dispatch_batches or accelerator.split_batches),
            "dispatch_batches and split_batches give each rank other sequences",
            "leave both out",
        ),
        "n_gpu": (args.n_gpu > 1, "one process would use several GPUs", "start one process for each GPU, by torchrun"),
    }
    for name, (asked, why, fix) in cures.items():
        if asked:
            raise _refuse(f"TrainingArguments.{name}", why, fix)


def _require_neighbours(group: dist.ProcessGroup | None) -> None:
    if group is None:
        return
    ranks = dist.get_process_group_ranks(group)
    first, count = ranks[0], len(ranks)
    if first % count or ranks != list(range(first, first + count)):
        raise _refuse(
            "mesh",
            f"the ranks {ranks} share sequences, and they do not follow each other",
            "make the mesh as init_device_mesh(device, (data, context), mesh_dim_names=('data', 'context'))",
        )


def _refuse(name: str, why: str, fix: str) -> UserError:
    return UserError(f"{name} is not supported by ContextParallelTrainer", where=name, why=why, fix=fix)
