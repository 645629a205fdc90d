"""Takes a batch of transformers' ``DataCollatorWithFlattening`` as it is: documents one after another in one sequence.

Where its documents begin stands in up to three fields, of which one is enough. Its length is whatever the documents
have together, so it is filled up with padding to a multiple of the context ranks; padding is in no document and has no
label.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from ropewalk.core.error import UserError
from ropewalk.model.hf_batch import IGNORED

_TAKEN = ("input_ids", "labels", "position_ids", "document_ids", "attention_mask")
_BORDERS = ("seq_idx", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
"""Other names of where documents begin."""


def take_flattened(
    inputs: Mapping[str, Shaped[Tensor, "..."] | int], *, ranks: int
) -> dict[str, Shaped[Tensor, "..."]]:
    """The arguments of ``cut`` for a batch of any collator, filled up to a multiple of ``ranks`` where it is one row.

    Raises UserError for a field that ``cut`` does not know.
    """
    unknown = sorted(inputs.keys() - {*_TAKEN, *_BORDERS})
    if unknown:
        raise UserError(
            f"the batch has {', '.join(unknown)}",
            where="data_collator",
            why=f"sequences are cut with {', '.join(_TAKEN)}; other fields would be whole on every rank",
            fix="leave these fields out in the collator or the dataset (remove_unused_columns=True)",
        )
    fields = {name: field for name in _TAKEN if isinstance(field := inputs.get(name), Tensor)}
    rows, tokens = fields["input_ids"].shape
    if "document_ids" not in fields and (document := _read_borders(inputs, tokens)) is not None:
        fields["document_ids"] = document.expand(rows, tokens)
    missing = -tokens % ranks
    if rows != 1 or missing == 0:
        return fields
    if "document_ids" not in fields and "attention_mask" not in fields:
        positions = fields.get("position_ids")
        begins = torch.zeros_like(fields["input_ids"]) if positions is None else positions.reshape(1, tokens) == 0
        fields["document_ids"] = begins.long().cumsum(1)
    filling = {"labels": IGNORED, "document_ids": -1}

    def fill(name: str, field: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        padding = field.new_full((*field.shape[:-1], missing), filling.get(name, 0))
        return torch.cat([field, padding], dim=-1)  # [rows, tokens] -> [rows, filled]

    return {name: fill(name, field) for name, field in fields.items()}


def _read_borders(inputs: Mapping[str, Shaped[Tensor, "..."] | int], tokens: int) -> Int64[Tensor, "1 tokens"] | None:
    """The documents that ``seq_idx`` or FlashAttention's borders tell; None where positions tell them, or nothing."""
    numbers, ends = inputs.get("seq_idx"), inputs.get("cu_seq_lens_q")
    if inputs.get("position_ids") is not None:
        return None
    if isinstance(numbers, Tensor):
        return numbers.reshape(1, tokens).long()
    if isinstance(ends, Tensor):
        return torch.bucketize(torch.arange(tokens), ends.reshape(-1).cpu()[1:], right=True)[None].to(ends.device)
    return None
