"""Load a model strictly: every tensor, every shape, every value finite, or a UserError.

Eleven of seventeen broken folders load in transformers 5.23, five of them without a word; here none does. The loaded
model attends through ropewalk, which without a partition is plain causal attention.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from ropewalk.core.error import UserError
from ropewalk.model.attend import NAME
from ropewalk.model.family import CLASSES, tied_names
from ropewalk.model.weights import Dtype, check_finite, check_weights
from ropewalk.shape.read import read_shape


def load_model(folder: Path, *, dtype: Dtype = "float32") -> PreTrainedModel:
    """The causal language model in ``folder``, on the CPU, in evaluation mode.

    Raises UserError for an unsupported architecture, and unless the files hold exactly the model's tensors, finite.
    """
    shape = read_shape(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if getattr(config, "attention_dropout", 0):
        raise UserError(
            "attention dropout is not supported",
            where=f"{folder / 'config.json'}: attention_dropout",
            why=f"it is {config.attention_dropout}, and a dropped weight cannot be drawn alike on all context ranks",
            fix="set it to 0",
        )
    with torch.device("meta"):
        skeleton = CLASSES[shape.architecture](config)
    tied = tied_names(skeleton)
    check_weights(folder, {name: tuple(t.shape) for name, t in skeleton.state_dict().items()}, tied=tied)
    with _quietly():
        model, report = CLASSES[shape.architecture].from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation=NAME,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    assert not any(report.values()), report
    check_finite(folder, dict(model.named_parameters()))
    loaded: PreTrainedModel = model.eval()
    return loaded


@contextmanager
def _quietly() -> Iterator[None]:
    """No bar per rank for a load of a second."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
