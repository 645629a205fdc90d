"""The row of data of a class that has none, read off the class itself, and the proofs that it is right.

A tiny model of the class is tried first (trial.py): packed documents are each alone, and two context ranks are one.
Then its modules, keys and defaults are read, each by its effect. At last the row must give what the class has: the
number of parameters, windows, frequencies, how queries are turned, and the logits. What fails is refused by name.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from ropewalk.core.error import UserError
from ropewalk.model.guess_keys import (
    REFUSALS,
    Changes,
    Kind,
    guess_biases,
    guess_defaults,
    guess_logit_rules,
    guess_rope,
)
from ropewalk.model.guess_layers import BOTH_KINDS, SHORT_WINDOW, check_queries, guess_nope, guess_windows
from ropewalk.model.guess_parts import (
    FoundMatrices,
    FoundParts,
    count_norms,
    find_layout,
    find_matrices,
    find_norm,
    find_parts,
)
from ropewalk.model.trial import LENGTHS, refuse_class, run_watched, try_twin
from ropewalk.model.twin import HEADS, LAYERS, make_config, make_empty, make_twin
from ropewalk.model.watch_attention import Watch
from ropewalk.shape.family import Family

NOT_GUESSED = (
    *("kin", "assumes_more", "kept_rope_keys", "file_names", "required", "fixed", "layer_word"),
    *("experts", "latent", "drops_arguments"),
)
"""Fields of a row that a class cannot be asked for; a class that needs one of them is refused by a proof."""


def guess_row(kind: Kind, changes: Changes | None = None) -> Family:
    """The family of ``kind``, a causal language model of transformers without a row.

    ``changes`` are keys of the tiny config that differ from twin.py's. Raises UserError, with the reason, for a class
    that mixes tokens outside of attention or that no row can describe.
    """
    changes = dict(changes or {})
    try:
        model, watch = _try_with_windows(kind, changes)
        found = find_parts(model, watch)
        matrices = find_matrices(kind.__name__, found)
        if watch.calls[0].key.shape[0] == HEADS:
            changes["num_key_value_heads"] = ...  # the class has a key head for each query head
        family = _read_row(kind, changes, found, matrices)
    except REFUSALS as error:
        if isinstance(error, UserError):
            raise
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise refuse_class(kind.__name__, f"a tiny model of it cannot be built or run: {why}") from error
    return family


def _try_with_windows(kind: Kind, changes: Changes) -> tuple[PreTrainedModel, Watch]:
    """The trial, with a window in every second layer where the class can have that."""
    try:
        model = make_twin(kind, {**changes, **SHORT_WINDOW, "layer_types": BOTH_KINDS})
        run_watched(model, torch.arange(sum(LENGTHS))[None])
    except REFUSALS:
        model = make_twin(kind, {**changes, **SHORT_WINDOW})
    return model, try_twin(model)


def _read_row(kind: Kind, changes: Changes, found: FoundParts, matrices: FoundMatrices) -> Family:
    windows = guess_windows(kind, changes)
    asked: dict[str, Any] = {
        **guess_biases(kind, changes, found, matrices),
        **guess_defaults(kind, changes),
        **guess_rope(kind, changes, found),
        **windows,
        **guess_nope(kind, changes, found, matrices, windows["windows"]),
        **guess_logit_rules(kind, changes, found.parts.backbone),
    }
    return Family(
        str(kind.config_class.model_type),
        norm=find_norm(kind.__name__, found.backbone.get_submodule(found.parts.norm)),
        block_norms=count_norms(found),
        mlp="gated" if matrices.gated else "plain",
        projections=matrices.projections,
        cos_sin=find_layout(kind.__name__, found),
        score_cap="attn_logit_softcapping" in make_config(kind, changes).to_dict(),
        sinks=any(name.endswith("sinks") for name, _ in found.attention.named_parameters()),
        mlp_width_key=_find_mlp_width_key(kind, changes, found, matrices),
        parts=found.parts,
        **asked,
    )


def _find_mlp_width_key(kind: Kind, changes: Changes, found: FoundParts, matrices: FoundMatrices) -> str:
    return "intermediate_size"
