"""Greedy decoding with a cache of keys, under context parallelism: what a model writes after each of several prompts.

The prompts are packed into one sequence and read once. Then all of them get one token per forward, until each is
finished. Every rank computes the same tokens, so a sharded model works as well. Where a right continuation is known, it
is read with the prompt: its loss needs no second reading, and as long as it is what the model would have written, no
token is computed alone (as in speculative decoding, Leviathan et al. 2023, with the answer as the draft).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from ropewalk.model.architectures import backbone_of, head_of, logit_rules
from ropewalk.model.attention_interface import make_empty_mask
from ropewalk.model.key_cache import KeyCache
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.collective import rank_and_ranks, sum_over_ranks
from ropewalk.parallel.fsdp import is_sharded
from ropewalk.partition import AnyPartition, local_shard, partition_tokens

Finished = Callable[[int, list[int]], bool]
"""Whether a prompt, by its number, needs no more tokens after those that are written."""
_SCORED_TOKENS = 256
"""Tokens whose logits are held at once: with a large vocabulary they are the largest array of a reading."""
Tokens = Int64[np.ndarray, "_"]


@dataclass(frozen=True, slots=True)
class Written:
    """The tokens that a model wrote after a prompt, and its loss on the prompt's draft, the right continuation.

    ``nll`` in nats and ``correct`` are of the draft's tokens, each read after the ones before it; empty without one.
    """

    tokens: list[int]
    nll: Float64[np.ndarray, "draft"]
    correct: Bool[np.ndarray, "draft"]


class GreedyWriter(ModelWithLoss):
    """A model whose forward gives the likeliest next tokens, for ``open_model``."""

    def forward(  # type: ignore[override]
        self,
        tokens: Int64[Tensor, "local"],
        positions: Int64[Tensor, "local"],
        chosen: Bool[Tensor, "local"],
        labels: Int64[Tensor, "local"],
        *,
        cache: KeyCache,
        partition: AnyPartition | None = None,
        context_group: dist.ProcessGroup | None = None,
    ) -> Float64[Tensor, "3 chosen"]:
        """For each of the ``chosen`` tokens the likeliest next one, and of its label the nll in nats and whether it is
        a likeliest one; the cache keeps the keys of all tokens."""
        hidden: Float[Tensor, "1 local width"] = backbone_of(self.causal)(
            input_ids=tokens[None],
            position_ids=positions[None],
            attention_mask=make_empty_mask(tokens.device),
            use_cache=False,
            partition=partition,
            context_group=context_group,
            key_cache=cache,
        ).last_hidden_state
        # [chosen, width] and [chosen] -> [at most 256, width] and [at most 256] of each part
        parts = zip(hidden[0][chosen].split(_SCORED_TOKENS), labels[chosen].split(_SCORED_TOKENS), strict=True)
        # each [3, some] -> [3, chosen]
        return torch.cat([self._judge(*part) for part in parts] or [hidden.new_zeros(3, 0).double()], dim=1)

    def _judge(self, hidden: Float[Tensor, "some width"], labels: Int64[Tensor, "some"]) -> Float64[Tensor, "3 some"]:
        scores = (hidden @ head_of(self.causal).T).float()
        scale, cap = logit_rules(self.causal)
        # A scale above 0 and a cap do not change which token is the likeliest.
        assert scale > 0
        wanted = scores.gather(1, labels[:, None])[:, 0]  # [some, vocabulary] at [some, 1] -> [some]
        most = scores.amax(-1)
        logits = scores * scale if cap is None else cap * torch.tanh(scores * scale / cap)
        nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        correct = wanted >= most
        return torch.stack((scores.argmax(-1).double(), nll.double(), correct.double()))  # thrice [some] -> [3, some]


def write_greedily(
    learner: GreedyWriter,
    prompts: Sequence[Tokens],
    *,
    most_tokens: int,
    finished: Finished,
    drafts: Sequence[Tokens] | None = None,
) -> list[Written]:
    """Up to ``most_tokens`` tokens after each prompt, the same on every rank. Every rank calls it.

    The tokens of the prompts are cut over all ranks. ``drafts`` are read with the prompts: as far as a draft is what
    the model would write, its tokens are not computed again. What is written is the same without them.
    """
    drafts = drafts if drafts is not None else [prompt[:0] for prompt in prompts]
    lengths = np.array([len(prompt) for prompt in prompts])
    # As in evaluate/items.py: FSDP reuses its buffers in later passes, and long tiles of bfloat16 need inference mode.
    with torch.no_grad() if is_sharded(learner) else torch.inference_mode():
        cache, found = _read_drafts(learner, prompts, drafts)
        written: list[list[int]] = []
        alive = []
        for number, (draft, (likeliest, *_)) in enumerate(zip(drafts, found, strict=True)):
            tokens = _accept(number, draft, likeliest.astype(int).tolist(), most_tokens=most_tokens, finished=finished)
            written.append(tokens)
            if len(tokens) < most_tokens and not finished(number, tokens):
                alive.append(number)
                cache.forget(number, int(lengths[number]) + len(tokens) - 1)
        device = next(learner.parameters()).device
        while alive:
            new = torch.tensor([written[number][-1] for number in alive], device=device)
            places = torch.tensor([int(lengths[number]) + len(written[number]) - 1 for number in alive], device=device)
            cache.begin_step(torch.tensor(alive, device=device), places)
            everyone = torch.ones_like(new, dtype=torch.bool)
            likeliest = learner(new, places, everyone, torch.zeros_like(new), cache=cache)[0].long()
            for number, token in zip(alive, likeliest.tolist(), strict=True):
                written[number].append(token)
            alive = [
                number
                for number in alive
                if len(written[number]) < most_tokens and not finished(number, written[number])
            ]
    return [
        Written(tokens, nll[: len(draft)], correct[: len(draft)] > 0)
        for tokens, draft, (_, nll, correct) in zip(written, drafts, found, strict=True)
    ]


def _accept(number: int, draft: Tokens, likeliest: list[int], *, most_tokens: int, finished: Finished) -> list[int]:
    """The written tokens that follow from the first reading: the draft's as long as they are the likeliest, and one."""
    written: list[int] = []
    for token, drafted in zip(likeliest, [*draft.tolist(), None], strict=True):
        written.append(token)
        if token != drafted or len(written) == most_tokens or finished(number, written):
            break
    return written


def _read_drafts(
    learner: GreedyWriter, prompts: Sequence[Tokens], drafts: Sequence[Tokens]
) -> tuple[KeyCache, list[Float64[np.ndarray, "3 _"]]]:
    """The cache after one reading; for each prompt, (likeliest, nll, correct) after its last token and each of its
    draft's. The nll and correct of the last column, which has no label, mean nothing."""
    rank, ranks = rank_and_ranks()
    group = dist.group.WORLD if ranks > 1 else None
    device = next(learner.parameters()).device
    # [_] + [_] -> [_] of each prompt
    texts = [np.concatenate(each) for each in zip(prompts, drafts, strict=True)]
    lengths = [len(text) for text in texts]
    nothing = np.zeros(-sum(lengths) % ranks, dtype=np.int64)
    # each prompt's places in the table of what is asked; -1 where nothing is asked
    asked = [np.arange(len(text)) - len(prompt) + 1 for text, prompt in zip(texts, prompts, strict=True)]
    firsts = np.cumsum([0, *(len(draft) + 1 for draft in drafts)])
    places = [np.where(own >= 0, own + first, -1) for own, first in zip(asked, firsts.tolist(), strict=False)]
    # each [_] + [padding] -> [tokens]
    fields = (
        np.concatenate([*texts, nothing]),
        np.concatenate([*map(np.arange, lengths), nothing]),
        np.repeat(np.array([*range(len(texts)), -1]), [*lengths, len(nothing)]),
        np.concatenate([*(np.append(text[1:], 0) for text in texts), nothing]),
        np.concatenate([*places, nothing - 1]),
    )
    partition = partition_tokens(fields[2].astype(np.int32)[None], ranks=ranks)
    tokens, positions, documents, labels, place = (
        torch.from_numpy(local_shard(partition, rank, field[None])).long().to(device) for field in fields
    )
    cache = KeyCache(documents, positions, group=group)
    chosen = place >= 0
    judged = learner(tokens, positions, chosen, labels, cache=cache, partition=partition, context_group=group)
    table = torch.zeros(3, int(firsts[-1]), dtype=torch.float64, device=device)
    table[:, place[chosen]] = judged
    found = sum_over_ranks(table).cpu().numpy()
    return cache, np.split(found, firsts[1:-1], axis=1)  # [3, asked of all] -> [3, _] of each prompt
