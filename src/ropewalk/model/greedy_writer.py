"""Greedy decoding with a cache of keys, under context parallelism: what a model writes after each of several prompts.

The prompts are packed into one sequence and read once. Then all of them get one token per forward, until each is
finished. Every rank computes the same tokens, so a sharded model works as well.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ropewalk.model.architectures import backbone_of, head_of, logit_rules
from ropewalk.model.attention_interface import make_empty_mask
from ropewalk.model.key_cache import KeyCache
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.collective import rank_and_ranks, sum_over_ranks
from ropewalk.partition import AnyPartition, local_shard, partition_tokens

Finished = Callable[[int, list[int]], bool]
"""Whether a prompt, by its number, needs no more tokens after those that are written."""


class GreedyWriter(ModelWithLoss):
    """A model whose forward gives the likeliest next tokens, for ``open_model``."""

    def forward(  # type: ignore[override]
        self,
        tokens: Int64[Tensor, "local"],
        positions: Int64[Tensor, "local"],
        chosen: Bool[Tensor, "local"],
        *,
        cache: KeyCache,
        partition: AnyPartition | None = None,
        context_group: dist.ProcessGroup | None = None,
    ) -> Int64[Tensor, "chosen"]:
        """The likeliest token after each of the ``chosen`` tokens; the cache keeps the keys of all."""
        hidden: Float[Tensor, "1 local width"] = backbone_of(self.causal)(
            input_ids=tokens[None],
            position_ids=positions[None],
            attention_mask=make_empty_mask(tokens.device),
            use_cache=False,
            partition=partition,
            context_group=context_group,
            key_cache=cache,
        ).last_hidden_state
        # A scale above 0 and a cap do not change which token is the likeliest.
        assert logit_rules(self.causal)[0] > 0
        likeliest: Tensor = (hidden[0][chosen] @ head_of(self.causal).T).float().argmax(-1)
        return likeliest


def write_greedily(
    learner: GreedyWriter, prompts: Sequence[Int64[np.ndarray, "_"]], *, most_tokens: int, finished: Finished
) -> list[list[int]]:
    """Up to ``most_tokens`` tokens after each prompt, the same on every rank. Every rank calls it.

    The tokens of the prompts are cut over all ranks.
    """
    rank, ranks = rank_and_ranks()
    group = dist.group.WORLD if ranks > 1 else None
    device = next(learner.parameters()).device
    lengths = [len(prompt) for prompt in prompts]
    padding = -sum(lengths) % ranks
    # twice [_] + [padding] -> [tokens]
    fields = (
        np.concatenate([*prompts, np.zeros(padding, dtype=np.int64)]),
        np.concatenate([*map(np.arange, lengths), np.zeros(padding, dtype=np.int64)]),
        np.repeat(np.array([*range(len(prompts)), -1]), [*lengths, padding]),
    )
    partition = partition_tokens(fields[2].astype(np.int32)[None], ranks=ranks)
    tokens, positions, documents = (
        torch.from_numpy(local_shard(partition, rank, field[None])).long().to(device) for field in fields
    )
    last = (documents >= 0) & (positions == torch.tensor([*lengths, 0], device=device)[documents] - 1)
    written: list[list[int]] = [[] for _ in prompts]
    with torch.no_grad():
        cache = KeyCache(documents, positions, group=group)
        found = learner(tokens, positions, last, cache=cache, partition=partition, context_group=group)
        table = torch.zeros(len(prompts), dtype=torch.float64, device=device)
        table[documents[last]] = found.double()
        new, alive = sum_over_ranks(table).long(), torch.arange(len(prompts), device=device)
        for step in range(most_tokens):
            for number, token in zip(alive.tolist(), new.tolist(), strict=True):
                written[number].append(token)
            left = [not finished(number, written[number]) for number in alive.tolist()]
            going = torch.tensor(left, device=device)
            alive, new = alive[going], new[going]
            if not len(alive) or step == most_tokens - 1:
                break
            places = torch.tensor(lengths, device=device)[alive] + step
            cache.begin_step(alive, places)
            new = learner(new, places, torch.ones_like(new, dtype=torch.bool), cache=cache)
    return written
