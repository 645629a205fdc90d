"""Check that the files of a model hold every part that is not trained, and tell what they carry.

Our loader reads the text model alone, so it would not see that a vision tower is missing. transformers would fill it
with random numbers, with a warning.
"""

import math
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.model.file_names import predicts_more, sort_names
from ropewalk.model.folder import read_config
from ropewalk.model.load import translate_errors
from ropewalk.model.weights import read_stored
from ropewalk.shape.wrappers import find_wrapper


def describe_carried(folder: Path, model: PreTrainedModel) -> dict[str, Any]:
    """What the files of ``folder`` hold beside the trained ``model``, as a fact for people; empty where nothing.

    Raises UserError where they hold less than the multimodal class that config.json names.
    """
    config, stored = read_config(folder), read_stored(folder)
    carried = sort_names(config, stored, folder).carried
    wrapper = find_wrapper(config)
    numbers = sum(math.prod(stored[name].shape) for name in carried)
    if wrapper is not None:
        _check_numbers(folder, wrapper, model, numbers)
        return {
            "carried": f"kept to the bit: {format_count(len(carried), 'tensor')} of {wrapper} beside its text model"
        }
    if not carried:
        return {}
    unknown, name = format_count(len(carried), "tensor"), type(model).__name__
    if not any(predicts_more(each, config) for each in carried):  # such as the causal masks of Pythia's files
        return {"carried": f"kept to the bit: {unknown} unknown to {name} ({carried[0]} ..)"}
    return {
        "carried": f"kept to the bit: {unknown} unknown to {name} ({carried[0]} ..); "
        "layers that predict several tokens (MTP) know the old positions only, so they are inexact for speculation only"
    }


def _check_numbers(folder: Path, wrapper: str, model: PreTrainedModel, found: int) -> None:
    """Compare counts and not names, because a class reads files with the names of several versions."""
    with translate_errors(folder), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        whole = getattr(transformers, wrapper)(config)
    expected = whole.num_parameters() - model.num_parameters()
    if found < expected:
        raise UserError(
            "a part of this multimodal model is missing",
            where=str(folder),
            why=f"beside its text model {wrapper} has {expected:,} numbers, and the files have {found:,}; transformers "
            "would fill the rest with random ones",
            fix="download the folder again, with all its weight files",
        )
