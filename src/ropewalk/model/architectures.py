"""The supported model classes of transformers, and the places of their parts.

All of them have Llama's structure: an embedding, blocks of attention and MLP with rotary positions, a last norm, a
head. Names and paths come from the families' data (shape/family.py); a class is imported when it is first asked for.
"""

from typing import Any

import transformers
from jaxtyping import Float
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ropewalk.shape.families import SUPPORTED, row_of
from ropewalk.shape.family import Family, Parts
from ropewalk.shape.guessed import GUESSED


def class_of(architecture: str) -> type[PreTrainedModel]:
    """The class of transformers with the name ``architecture``, which is a supported one."""
    kind = find_class(architecture)
    assert kind is not None and row_of(architecture), architecture
    return kind


def find_class(name: str) -> type[PreTrainedModel] | None:
    """The class of a causal language model: one of transformers, or the last that a program registered with it."""
    kind = getattr(transformers, name, None) or _find_registered(name)
    return kind if isinstance(kind, type) and issubclass(kind, PreTrainedModel) else None


def is_registered(name: str) -> bool:
    """Whether a program registered a causal language model of this name, which transformers lacks."""
    return _find_registered(name) is not None and not hasattr(transformers, name)


def _find_registered(name: str) -> type[PreTrainedModel] | None:
    registered = reversed(MODEL_FOR_CAUSAL_LM_MAPPING._extra_content.values())
    return next((each for each in registered if each.__name__ == name), None)


def is_causal(kind: type[PreTrainedModel]) -> bool:
    """Whether ``kind`` is a causal language model of transformers, or one that a program registered with it.

    The same as ``kind in MODEL_FOR_CAUSAL_LM_MAPPING.values()``, which imports all 200 models, for seconds.
    """
    name = kind.__name__
    theirs = name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and getattr(transformers, name, None) is kind
    return theirs or kind in MODEL_FOR_CAUSAL_LM_MAPPING._extra_content.values()


def family_of(model: Any) -> Family | None:
    """The family of a model of transformers, also of a class that is derived from a supported one; None for others."""
    for kind in type(model).__mro__:
        if kind.__name__ in GUESSED and kind is find_class(kind.__name__):
            return GUESSED[kind.__name__]
        if kind.__module__.startswith("transformers.") and kind.__name__ in SUPPORTED:
            return SUPPORTED[kind.__name__]
    return None


def parts_of(model: Any) -> Parts:
    """The paths of a model's parts; those of Llama for a class outside the families."""
    family = family_of(model)
    return family.parts if family else Parts()


def backbone_of(model: Any) -> nn.Module:
    """The model without its head: its forward returns the head's input."""
    backbone: nn.Module = getattr(model, parts_of(model).backbone)
    return backbone


def blocks_of(model: Any) -> nn.ModuleList:
    """The repeated blocks, first to last."""
    blocks: nn.ModuleList = getattr(backbone_of(model), parts_of(model).layers)
    return blocks


def attention_of(model: Any, block: nn.Module) -> nn.Module:
    """The attention of one block of ``model``, or what it has in its place: a recurrent layer, or an MLP alone."""
    parts = parts_of(model)
    return block.get_submodule(parts.attention if attends(model, block) else parts.recurrent)


def attends(model: Any, block: nn.Module) -> bool:
    """Whether one block of ``model`` has attention, alone or beside a recurrent layer."""
    parts = parts_of(model)
    mixer, recurrent = getattr(block, parts.attention, None), recurrent_of(model, block)
    if parts.attention_mark:
        return hasattr(mixer, parts.attention_mark)
    return recurrent is None or mixer not in (None, recurrent)


def recurrent_of(model: Any, block: nn.Module) -> nn.Module | None:
    """The recurrent layer of one block of ``model``, in place of attention or beside it; None for a block without."""
    parts = parts_of(model)
    layer = getattr(block, parts.recurrent, None) if parts.recurrent else None
    return layer if layer is not None and (not parts.recurrent_mark or hasattr(layer, parts.recurrent_mark)) else None


def has_mlp(model: Any, block: nn.Module) -> bool:
    """Whether one block of ``model`` has an MLP or a mixture: not where it is attention or a recurrence alone."""
    if parts_of(model).mlp != parts_of(model).attention:
        return True
    return recurrent_of(model, block) is None and not attends(model, block)


def mlp_of(model: Any, block: nn.Module) -> nn.Module:
    """The MLP, or the mixture of experts, of one block of ``model`` that has one."""
    return block.get_submodule(parts_of(model).mlp)


def rotary_of(model: Any) -> Any:
    """The module that computes cosines and sines for all blocks; None where no layer turns."""
    path = parts_of(model).rotary
    return getattr(backbone_of(model), path, None) if path else None


def head_of(model: Any) -> Float[Tensor, "vocabulary width"]:
    """The head's weight [vocabulary, width]; the embedding's own weight where the two are tied."""
    head = model.get_output_embeddings()
    assert head.bias is None
    weight: Tensor = head.weight
    return weight


def logit_rules(model: Any) -> tuple[float, float | None]:
    """What follows the head: a factor of the logits, and their cap c in c tanh(x / c), or None."""
    family, config = family_of(model), model.config
    if family is None:
        return 1.0, None
    scale, cap = 1.0, None
    if family.logit_scale is not None:
        scale = float(getattr(config, family.logit_scale[0]))
        scale = 1 / scale if family.logit_divides else scale
        scale = scale / config.hidden_size if family.logit_by_width else scale
    if family.logit_cap is not None and getattr(config, family.logit_cap[0], None) is not None:
        cap = float(getattr(config, family.logit_cap[0]))
    return scale, cap


def logits_of(model: Any, hidden: Float[Tensor, "*places width"]) -> Float[Tensor, "*places vocabulary"]:
    """The logits of head inputs, with the class's factor and cap."""
    scale, cap = logit_rules(model)
    # [places, width] x [width, vocabulary] -> [places, vocabulary]
    logits = (hidden * scale if scale != 1 else hidden) @ head_of(model).T
    capped: Tensor = logits if cap is None else cap * (logits / cap).tanh()
    return capped


def is_embedding(name: str) -> bool:
    """Whether a parameter with this name is the embedding."""
    return name.endswith(
        tuple(f".{family.parts.embedding}.weight" for family in (*SUPPORTED.values(), *GUESSED.values()))
    )


def tied_names(model: PreTrainedModel) -> dict[str, str]:
    """Parameters that are the same tensor as another one: ``{name: name of the other}``."""
    return dict(model.all_tied_weights_keys) if model.config.tie_word_embeddings else {}
