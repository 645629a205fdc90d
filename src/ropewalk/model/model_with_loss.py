"""A causal language model together with its loss, as the one module that is sharded and trained.

FSDP2 gathers whole weights only inside the forward and backward of the module that owns them. The loss reads the head's
weight itself, so the loss must run inside that module.
"""

import torch.distributed as dist
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from ropewalk.model.architectures import backbone_of, blocks_of, head_of, logit_rules
from ropewalk.model.attention_interface import make_empty_mask
from ropewalk.model.expert_balance import ExpertBalance
from ropewalk.model.loss import LossRules, score_labels
from ropewalk.model.pass_arguments import hand_on_arguments
from ropewalk.partition import AnyPartition


class ModelWithLoss(nn.Module):
    """``causal`` (a transformers model, parameters named as in its files) and its chunked loss."""

    def __init__(
        self, causal: PreTrainedModel, *, chunk_tokens: int | None = None, z_loss: float = 0.0, most: float = 1.0
    ) -> None:
        super().__init__()
        self.causal = causal
        hand_on_arguments(causal)
        self.chunk_tokens, self.z_loss = chunk_tokens, z_loss
        self.most = most
        """Largest weight of a token's loss by its context (loss.weigh_by_context)."""
        self.balance: ExpertBalance | None = None
        """The balance of its experts, where it has any and is trained (train/prepare_model.py)."""

    @property
    def blocks(self) -> nn.ModuleList:
        return blocks_of(self.causal)

    def forward(
        self,
        tokens: Int[Tensor, "local"],
        positions: Int[Tensor, "local"],
        labels: Int[Tensor, "local"],
        weights: Float[Tensor, "local"],
        *,
        partition: AnyPartition,
        context_group: dist.ProcessGroup | None = None,
        truncated_nll: Float[Tensor, "local"] | None = None,
        counted: Int64[Tensor, "counted"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "local"], Bool[Tensor, "local"]]:
        """This context rank's ``(sum of weights x loss, nll, correct)``; the sums of all ranks add up to the batch's.

        The four tensors are the batch's fields as ``local_shard`` gives them to this rank. ``nll`` is in
        float32; ``correct`` is True where the label is a likeliest token and has a weight. ``truncated_nll`` is the
        labels' nll with truncated context; give it where the loss is weighed by it. ``counted`` are the indices of the
        weights that are not 0; without it the host waits for a GPU.
        """
        hidden = self.read(tokens, positions, partition=partition, context_group=context_group)
        scale, cap = logit_rules(self.causal)
        return score_labels(
            hidden if scale == 1 else hidden * scale,
            head_of(self.causal),
            labels,
            weights,
            rules=LossRules(self.chunk_tokens, self.z_loss, self.most, cap),
            truncated_nll=truncated_nll,
            counted=counted,
        )

    def read(
        self,
        tokens: Int[Tensor, "local"],
        positions: Int[Tensor, "local"],
        *,
        partition: AnyPartition,
        context_group: dist.ProcessGroup | None = None,
    ) -> Float[Tensor, "local width"]:
        """The head's input for these tokens. On a sharded learner, call it only inside forward."""
        hidden: Tensor = backbone_of(self.causal)(
            input_ids=tokens[None],
            position_ids=positions[None],
            attention_mask=make_empty_mask(tokens.device),
            use_cache=False,  # the config's default builds a cache and loses the document borders
            partition=partition,
            context_group=context_group,
        ).last_hidden_state[0]  # [1, local, width] -> [local, width]
        return hidden
