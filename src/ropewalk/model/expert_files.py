"""The weights of experts under the names and shapes of the files, and under those of the classes of transformers.

A file has a matrix for each expert, such as ``mlp.experts.0.up_proj.weight``. The class has one tensor for all experts
of a layer, [experts, rows, width], in which matrices that read the same input lie one below the other. The rules below
say which of them belong together, and they are read both ways. So a rank reads whole experts from the files straight
into its shard, and an export has the names and shapes of the base's own files (lazy_weights.py). In memory, names are
always the class's. The convolution of a recurrent layer may lie in parts as well.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.model.read_rows import AnyStored, JoinedTensor, StackedTensor, StoredTensor


@dataclass(frozen=True, slots=True)
class ExpertRule:
    """A tensor of a class, and its parts in the files in their order; ``*`` is the number of the expert.

    Both are names below the path of a layer. A single part without ``*`` is the same tensor under another name; several
    without it hold the rows of one tensor.
    """

    name: str
    parts: tuple[str, ...]


CHOICE_BIAS = "e_score_correction_bias"
"""The name of the number per expert that is added to the router's scores where experts are chosen. It has no gradient,
and its classes keep it in float32: a choice between near scores depends on its last bits."""

EXPERT_RULES = (
    ExpertRule("mlp.experts.gate_up_proj", ("mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight")),
    ExpertRule("mlp.experts.down_proj", ("mlp.experts.*.down_proj.weight",)),
    # ERNIE
    ExpertRule("mlp.gate.moe_statics.e_score_correction_bias", ("mlp.moe_statics.e_score_correction_bias",)),
    # Mixtral, MiniMax
    ExpertRule(
        "mlp.experts.gate_up_proj", ("block_sparse_moe.experts.*.w1.weight", "block_sparse_moe.experts.*.w3.weight")
    ),
    ExpertRule("mlp.experts.down_proj", ("block_sparse_moe.experts.*.w2.weight",)),
    ExpertRule("mlp.gate.weight", ("block_sparse_moe.gate.weight",)),
    ExpertRule("mlp.e_score_correction_bias", ("block_sparse_moe.e_score_correction_bias",)),
    # Granite
    ExpertRule("block_sparse_moe.experts.gate_up_proj", ("block_sparse_moe.input_linear.weight",)),
    ExpertRule("block_sparse_moe.experts.down_proj", ("block_sparse_moe.output_linear.weight",)),
    ExpertRule("block_sparse_moe.router.weight", ("block_sparse_moe.router.layer.weight",)),
    # Nemotron-H, whose experts have no gate
    ExpertRule("mixer.experts.up_proj", ("mixer.experts.*.up_proj.weight",)),
    ExpertRule("mixer.experts.down_proj", ("mixer.experts.*.down_proj.weight",)),
    # Kimi Linear
    ExpertRule("self_attn.conv1d.weight", tuple(f"self_attn.{each}_conv1d.weight" for each in "qkv")),
    *(
        ExpertRule(f"self_attn.forget_gate.{each}", (f"self_attn.{each}",))
        for each in ("f_a_proj.weight", "f_b_proj.weight", "dt_bias", "A_log")
    ),
    ExpertRule(f"mlp.gate.{CHOICE_BIAS}", (f"block_sparse_moe.gate.{CHOICE_BIAS}",)),
    *(
        ExpertRule(f"mlp.{path}{each}.weight", (f"block_sparse_moe.{path}{each}.weight",))
        for path in ("shared_experts.", "")  # transformers saves a dense MLP so as well
        for each in ("gate_proj", "up_proj", "down_proj")
    ),
    # OLMo hybrid
    ExpertRule("linear_attn.conv1d.weight", tuple(f"linear_attn.{each}_conv1d.weight" for each in "qkv")),
    ExpertRule("input_layernorm.weight", ("attention_layer_norm.weight",)),
    ExpertRule("post_attention_layernorm.weight", ("feedforward_layer_norm.weight",)),
)


@dataclass(frozen=True, slots=True)
class ExpertPlace:
    """The place of a stored tensor in a tensor of the class. ``expert`` is None where it is all of that tensor."""

    name: str
    expert: int | None
    part: int
    siblings: tuple[str, ...]
    """The names of all parts of this expert, or of this tensor, in the files."""

    def cut(self, shape: tuple[int, ...], stored: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """The shape in the file, from that in the class; parts of an expert are alike, others are as ``stored``."""
        if self.expert is not None:
            return (shape[1] // len(self.siblings), *shape[2:])
        if self.part < len(self.siblings) - 1:
            return (stored[self.siblings[self.part]][0], *shape[1:])
        others = sum(stored[name][0] for name in self.siblings[:-1])
        return (shape[0] - others, *shape[1:]) if others else shape


_LAYER = r"(?P<layer>.*\blayers\.\d+\.)"
_PATTERNS = tuple(
    (re.compile(_LAYER + re.escape(part).replace(r"\*", r"(?P<expert>\d+)")), rule, number)
    for rule in EXPERT_RULES
    for number, part in enumerate(rule.parts)
)


def find_place(stored_name: str) -> ExpertPlace | None:
    """Return the place of a tensor in the class; None where files and class have the same name for it."""
    for pattern, rule, number in _PATTERNS:
        found = pattern.fullmatch(stored_name)
        if found is not None:
            fields = found.groupdict()
            expert = fields.get("expert")
            siblings = tuple(fields["layer"] + part.replace("*", expert or "") for part in rule.parts)
            return ExpertPlace(fields["layer"] + rule.name, None if expert is None else int(expert), number, siblings)
    return None


def join_experts(stored: Mapping[str, StoredTensor]) -> dict[str, AnyStored]:
    """Return the stored tensors under the names of the class. Those of experts are joined, and none is read.

    Raises UserError where a part of an expert or a tensor is missing, or those of one layer differ in shape or type.
    """
    joined: dict[str, AnyStored] = {}
    experts: dict[str, dict[int, tuple[str, ...]]] = {}
    for name, tensor in stored.items():
        place = find_place(name)
        if place is None:
            joined[name] = tensor
        elif place.expert is None:
            joined[place.name] = tensor if len(place.siblings) == 1 else _stack(place, stored)
        else:
            joined.setdefault(place.name, tensor)  # keeps the order of the file; replaced below
            experts.setdefault(place.name, {})[place.expert] = place.siblings
    for name, numbered in experts.items():
        some = next(iter(numbered.values()))
        wanted = [numbered.get(number) or _rename(some, number) for number in range(max(numbered) + 1)]
        missing = [part for parts in wanted for part in parts if part not in stored]
        if missing:
            raise _refusal(joined[name].file, f"missing tensors: {len(missing)} ({', '.join(missing[:3])})")
        parts = tuple(tuple(stored[part] for part in siblings) for siblings in wanted)
        kinds = {tuple((part.shape, part.dtype) for part in each) for each in parts}
        if len(kinds) > 1 or len({part.shape[1:] for part in parts[0]}) > 1:
            raise _refusal(joined[name].file, f"the parts of {name} differ in shape or type")
        joined[name] = JoinedTensor(parts)
    return joined


def _stack(place: ExpertPlace, stored: Mapping[str, StoredTensor]) -> StackedTensor:
    """A tensor of the class from the parts that hold its rows."""
    found = [stored[part] for part in place.siblings if part in stored]
    if missing := [part for part in place.siblings if part not in stored]:
        raise _refusal(found[0].file, f"it lacks {format_count(len(missing), 'part')} ({', '.join(missing)})")
    if len({(part.shape[1:], part.dtype) for part in found}) > 1:
        raise _refusal(found[0].file, f"the parts of {place.name} differ in shape or type")
    return StackedTensor(tuple(found))


def _rename(siblings: tuple[str, ...], expert: int) -> tuple[str, ...]:
    return tuple(re.sub(r"(\.experts\.)\d+(?=\.)", rf"\g<1>{expert}", name) for name in siblings)


def _refusal(file: Path, why: str) -> UserError:
    return UserError(
        "the tensors of a layer are not complete",
        where=str(file),
        why=why,
        fix="download the weights again; all files of the model must be there",
    )
