"""Which models of transformers our attention supports: known obstacles are refused by name, unknown classes are tried.

A class that loads and runs may still mix tokens outside the partition: in a recurrence, a convolution, a latent cache,
or a router's balance. Known cases are refused by name. An unknown class runs a trial: two short documents packed,
compared with each of them alone. A class that mixes tokens elsewhere cannot pass it.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ropewalk.core.error import UserError
from ropewalk.core.progress import is_untold
from ropewalk.model.architectures import family_of
from ropewalk.model.attention_interface import NAME, count_calls
from ropewalk.model.trial import REFUSALS, tell_error, try_short_windows
from ropewalk.model.twin import FEW_EXPERTS
from ropewalk.partition import partition_tokens
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.family import MLP_ALONE

_LAYERS = ("full_attention", "sliding_attention")
_KEYS = {
    "is_encoder_decoder": "it has an encoder, which attends to later tokens",
    "use_bidirectional_attention": "its queries attend to later tokens",
    "index_topk": "an indexer chooses the keys of each query (DSA)",
    "output_router_logits": "the balance of its experts is measured over all tokens of a batch, but a rank has only "
    "its own tokens",
    "attention_dropout": "it has attention dropout, which cannot be drawn identically on all context ranks",
    "attn_pdrop": "it has attention dropout, which cannot be drawn identically on all context ranks",
    "attention_probs_dropout_prob": "it has attention dropout, which cannot be drawn identically on all context ranks",
}
"""Keys of a config that must be absent, false or 0."""

_BALANCE = "output_router_logits"
_ARGUMENTS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    _BALANCE: (bool, _KEYS[_BALANCE]),
    "output_attentions": (bool, "attention weights are never computed as a matrix"),
    "use_cache": (bool, "a cache of keys would have only the tokens of this rank"),
    "past_key_values": (lambda given: given is not None, "a cache of keys would have only the tokens of this rank"),
    "attention_mask": (
        lambda given: given is not None,
        "the partition defines the attention, and a mask would be ignored; give the mask to cut",
    ),
    "logits_to_keep": (
        lambda given: isinstance(given, Tensor) or bool(given),
        "the last tokens of a rank are not the last tokens of the sequences",
    ),
}
"""Arguments of a forward over a partition that must be absent or false, and why."""
_NEEDED = {
    "position_ids": "without them the tokens of a rank would have positions 0, 1, 2 ...",
    "shift_labels": "labels are shifted before the sequences are divided; within a rank the model would use wrong "
    "labels",
    "num_items_in_batch": "the loss of a rank is only a part of the mean over the labels of all ranks",
}
"""Arguments that ``cut`` returns and that a call must pass; all but the first go with labels."""

_LONGEST_TRIED = 256
"""Windows up to this length are tried on the model itself."""
_BARS = {torch.float64: 1e-5, torch.float32: 1e-4}
_COARSE_BAR = 0.05


def refuse_unsupported(model: Any) -> None:
    """Raise UserError for a model whose tokens interact other than in plain causal attention."""
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            "this is not a model of transformers",
            where="ropewalk.parallelize",
            why=f"it is a {type(model).__name__}",
            fix="give the causal language model itself, before it is wrapped (DDP, PEFT, compile)",
        )
    reasons = list(_find_reasons(model))
    if reasons:
        raise _refusal(model, "; ".join(reasons))


def try_unknown(model: PreTrainedModel) -> None:
    """Run an unknown class on two short documents. If weights are sharded, every rank must call it.

    The second is longer than the longest window; for a long one a tiny model of the class is tried as well (trial.py).
    Warns where the class has no tiny model, because then no trial has seen its window. Raises UserError where packed
    documents give other results than each alone, or where attention does not call ours.
    """
    if family_of(model) is not None and type(model).__name__ in SUPPORTED:
        return
    longest = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    if longest > _LONGEST_TRIED:
        _try_long_window(type(model), longest)
        longest = 0
    first = next(model.parameters())
    if first.is_meta:
        raise UserError(
            f"{type(model).__name__} has no weights yet",
            where="ropewalk.parallelize",
            why="a class that ropewalk does not know is first tested on two short documents",
            fix="call parallelize after the weights are loaded",
        )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), count_calls() as calls:
            difference = _try(model, first.device, (5, longest + 8))
    except (AttributeError, TypeError) as error:
        raise _refusal(
            model, f"it does not accept the arguments that context-parallel attention needs: {error}"
        ) from error
    finally:
        model.train(was_training)
    if not calls:
        raise _refusal(model, "its attention does not go through transformers' AttentionInterface")
    if not difference <= _BARS.get(first.dtype, _COARSE_BAR):
        raise _refusal(
            model,
            f"two packed documents differ by {difference:.1e} of their norm from the same documents alone, so "
            "information also passes between tokens outside of attention, or attention is not causal",
        )


def _try_long_window(kind: type[PreTrainedModel], window_tokens: int) -> None:
    try:
        try_short_windows(kind, FEW_EXPERTS)
    except REFUSALS as error:
        text = (
            f"{kind.__name__} is tried on texts shorter than its window of {window_tokens} tokens: a tiny model of it, "
            f"with a short window, cannot be built or run ({tell_error(error)})"
        )
        if is_untold(text):
            warnings.warn(text, stacklevel=4)


_RANKS = "_ropewalk_ranks"
"""The attribute of a model with the number of its context ranks, for the warning."""


def watch_arguments(model: PreTrainedModel, *, ranks: int) -> None:
    """From now on raise UserError, on every rank, for a forward over a partition with unsupported arguments.

    A forward without a partition may have any arguments; the first one in training, where ``ranks`` above 1 share
    sequences, is warned of.
    """
    setattr(model, _RANKS, ranks)
    if _refuse_arguments not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_refuse_arguments, with_kwargs=True)


def _refuse_arguments(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if kwargs.get("partition") is None:
        if model.training and getattr(model, _RANKS, 1) > 1:
            setattr(model, _RANKS, 1)  # it is told once
            warnings.warn(
                f"{type(model).__name__} trains without the arguments of cut, so each of the context ranks reads whole "
                "sequences alone: model(**share.cut(input_ids, labels, position_ids))",
                stacklevel=2,
            )
        return
    assert isinstance(model, PreTrainedModel)
    given = dict(zip(("input_ids", "attention_mask"), args, strict=False)) | kwargs
    if given.get(_BALANCE) is None:  # the class then reads its config, which may have changed
        given[_BALANCE] = getattr(model.config.get_text_config(), _BALANCE, None)
    wrong = [f"{name}: {why}" for name, (asks, why) in _ARGUMENTS.items() if name in given and asks(given[name])]
    needed = _NEEDED if given.get("labels") is not None else {"position_ids": _NEEDED["position_ids"]}
    wrong += [f"no {name}: {why}" for name, why in needed.items() if given.get(name) is None]
    if wrong:
        raise UserError(
            "this forward cannot run over a partition",
            where=f"the arguments of {type(model).__name__}'s forward",
            why="; ".join(wrong),
            fix="call it only with the arguments that cut returned; others change the loss or the attention",
        )


def _find_reasons(model: PreTrainedModel) -> Iterator[str]:
    config = model.config.get_text_config()
    for key, why in _KEYS.items():
        if getattr(config, key, None) not in (None, False, 0, "vision"):  # Gemma 4: only the tokens of a picture
            yield f"{why} ({key}: {getattr(config, key)})"
    family = family_of(model)
    ours: set[str] = set()
    if family is not None and family.recurrent is not None:
        usual = "hybrid" if family.recurrent.beside else "linear_attention"
        ours = {*family.recurrent.words, usual, *(MLP_ALONE if family.single else ())}
    others = sorted(set(getattr(config, "layer_types", None) or ()) - set(_LAYERS) - ours)
    if others:
        yield f"some of its layers are of another kind ({', '.join(others)})"
    elif model._is_stateful and family is None:  # Granite 4's class can be a hybrid
        yield "it has linear or recurrent attention"
    if any(getattr(module, "is_causal", True) is False for module in model.modules()):
        yield "its queries attend to later tokens (is_causal: False)"
    if not model.is_backend_compatible() and family is None:
        yield "its attention does not go through transformers' AttentionInterface"


def _try(model: PreTrainedModel, device: torch.device, lengths: tuple[int, ...]) -> float:
    vocabulary = model.get_input_embeddings().num_embeddings
    tokens = torch.arange(sum(lengths), device=device)[None] % (vocabulary - 3) + 3
    document = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[None]
    # texts x [text_tokens] -> [1, tokens]
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])[None]
    partition = partition_tokens(document, ranks=1)
    packed = model(tokens, position_ids=positions, use_cache=False, partition=partition).logits[0].double()
    model.set_attn_implementation("eager")  # its authors' own definition of its attention
    # [1, tokens] -> texts x [1, text_tokens] -> texts x [text_tokens, vocabulary] -> [tokens, vocabulary]
    alone = torch.cat([model(part, use_cache=False).logits[0] for part in tokens.split(lengths, dim=1)]).double()
    model.set_attn_implementation(NAME)
    return float((packed - alone).norm() / alone.norm())


def _refusal(model: nn.Module, why: str) -> UserError:
    return UserError(
        f"{type(model).__name__} cannot be divided over context ranks",
        where=f"ropewalk.parallelize (attention {NAME!r})",
        why=why,
        fix="choose a model with plain causal attention, such as one of docs/models.md",
    )
