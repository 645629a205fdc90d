"""Load a model strictly: every tensor, shape and value and every layer's position is checked, or a UserError is raised.

Of seventeen broken folders, eleven load in transformers 5.23, five of them without a warning; this loader refuses all
of them. The loaded model attends through ropewalk, which without a partition is plain causal attention. Some folders
have layers that no class of transformers can describe. Such a folder is built as its inner class, and hooks give each
layer its positions. ``load_model`` reads all weights. Ranks use ``build_model``, which reads none, and then read
their shards (load_shards.py).
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ropewalk.attention.flex import require_gpu
from ropewalk.core.error import UserError
from ropewalk.model.architectures import class_of, tied_names
from ropewalk.model.attention_interface import NAME
from ropewalk.model.biases import with_biases
from ropewalk.model.check_rope import check_positions
from ropewalk.model.expert_balance import hold_choice_biases
from ropewalk.model.expert_files import join_experts
from ropewalk.model.folder import read_config
from ropewalk.model.latent_attention import exchange_latents
from ropewalk.model.load_shards import load_shards, read_buffers
from ropewalk.model.null_entries import drop_nulls
from ropewalk.model.recurrent_layers import mix_documents
from ropewalk.model.rope_hooks import direct_positions
from ropewalk.model.weights import Dtype, check_finite, check_weights, read_file_names, read_headers, refuse_bad
from ropewalk.parallel.device import rank_device
from ropewalk.rope.layers import LayerPosition
from ropewalk.shape.families import OWN_TYPE, require_row, row_of
from ropewalk.shape.layer_keys import STALE_KEYS
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import read_shape
from ropewalk.shape.wrappers import read_text_config


def load_model(
    folder: Path, *, dtype: Dtype = "float32", former: Sequence[LayerPosition] | None = None
) -> PreTrainedModel:
    """The causal language model in ``folder``, on the CPU, in evaluation mode.

    ``former`` are the positions that it had before it was extended, where they are to be interpolated. Raises UserError
    for an unsupported architecture, for files that do not hold exactly the model's tensors with finite values, and
    where a live layer differs from config.json.
    """
    shape = read_shape(folder)
    if read_file_names(folder).differ:  # transformers would load nothing into the text model, with a warning
        model = build_model(folder, dtype=dtype, former=former)
        load_shards(model, folder, device=torch.device("cpu"), alone=True)
        return model
    config, skeleton = _examine(folder, shape, dtype)
    with without_progress_bars():
        model, report = type(skeleton).from_pretrained(
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
    hold_choice_biases(model)
    stored = join_experts(read_headers(folder))
    for name, bad in read_buffers(model, stored).items():  # transformers may have rounded them
        refuse_bad(folder, name, bad=bad, values=math.prod(stored[name].shape))
    return _give_positions(model, folder, shape, former)


def build_model(
    folder: Path, *, dtype: Dtype = "float32", former: Sequence[LayerPosition] | None = None
) -> PreTrainedModel:
    """Return the same model as ``load_model``, with parameters that have shapes and no memory (torch's meta device).

    The buffers are computed. ``load_shards`` reads the weights, after the model is sharded. Raises UserError as
    ``load_model`` does, except for values that are not finite, which are not read here.
    """
    shape = read_shape(folder)
    _, model = _examine(folder, shape, dtype)
    hold_choice_biases(model)
    _compute_buffers(model)
    return _give_positions(model, folder, shape, former)


def _examine(folder: Path, shape: ModelShape, dtype: Dtype) -> tuple[PreTrainedConfig, PreTrainedModel]:
    """The config and the model without memory, after all checks that need no weight's values."""
    config, skeleton = _build_empty(folder, shape, dtype)
    if dropout := getattr(skeleton.config, "attention_dropout", 0):
        raise UserError(
            "attention dropout is not supported",
            where=f"{folder / 'config.json'}: attention_dropout",
            why=f"it is {dropout}, and dropout cannot be drawn identically on all context ranks",
            fix="set it to 0",
        )
    if any(position.bias for position in shape.positions):
        require_gpu(rank_device())
    expected = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    check_weights(folder, expected, tied=tied_names(skeleton))
    return config, skeleton


def _give_positions(
    model: PreTrainedModel, folder: Path, shape: ModelShape, former: Sequence[LayerPosition] | None
) -> PreTrainedModel:
    exchange_latents(model, NAME)
    mix_documents(model)
    native = OWN_TYPE not in read_config(folder)
    direct_positions(model, shape.positions, head_dim=shape.rotary_dims, native=native, former=former)
    check_positions(model, shape.positions, head_dim=shape.rotary_dims, context_tokens=shape.context_tokens)
    ready: PreTrainedModel = model.eval()
    return ready


@torch.no_grad()
def _compute_buffers(model: PreTrainedModel) -> None:
    """Replace the buffers on the meta device by real ones; those that no file holds get the values of the class.

    transformers computes them in the same way after it has read a file: frequencies, and a scale of embeddings. Those
    of a file are in float32, as their classes keep them: biases of a router, constants of an activation.
    """
    computed = set()
    for path, module in list(model.named_modules()):
        for name, buffer in dict(module.named_buffers(recurse=False)).items():
            stored = name not in module._non_persistent_buffers_set
            kind = torch.promote_types(buffer.dtype, torch.float32) if stored else buffer.dtype
            module.register_buffer(name, torch.empty_like(buffer, device="cpu", dtype=kind), persistent=stored)
            if not stored:  # a module above may compute it, as Falcon-H1's backbone does
                computed |= {path.rsplit(".", cut)[0] for cut in range(path.count(".") + 1)} | {""}
    for path, module in reversed(list(model.named_modules())):  # as transformers does, a module after what it holds
        if path in computed:
            model._init_weights(module)  # its parameters stay on the meta device, where this does nothing


def _build_empty(folder: Path, shape: ModelShape, dtype: Dtype) -> tuple[PreTrainedConfig, PreTrainedModel]:
    """The config, and the model without memory. Raises UserError for errors that transformers itself raises."""
    kind = with_biases(class_of(shape.architecture), shape.positions)
    with translate_errors(folder):
        config = _build_config(folder)
        for key in require_row(shape.architecture).no_dropout:
            setattr(config, key, 0.0)
        built = copy.deepcopy(config)  # building changes it; from_pretrained copies it too
        built._attn_implementation, built.dtype = NAME, getattr(torch, dtype)
        with torch.device("meta"), _default_dtype(getattr(torch, dtype)):
            return config, kind(built)


@contextmanager
def translate_errors(folder: Path) -> Iterator[None]:
    """Raise UserError, which names the config.json of ``folder``, where transformers cannot build a model."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError, StrictDataclassError) as error:
        raise UserError(
            "transformers cannot build this model",
            where=str(folder / "config.json"),
            why=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            fix="correct the key that it names",
        ) from error


def _build_config(folder: Path) -> PreTrainedConfig:
    """transformers' config of a folder; for our own format that of the inner class, for a wrapper its text part."""
    whole = read_config(folder)
    text = read_text_config(whole, str(folder / "config.json"))
    raw = {key: value for key, value in drop_nulls(text).items() if key not in STALE_KEYS}
    architecture = str((raw.get("architectures") or [""])[0])
    if family := row_of(architecture):  # a file may name a type of its own for its class, as Kimi K2's does
        raw["model_type"] = family.model_type
    if OWN_TYPE not in raw and raw == whole:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if OWN_TYPE not in raw:
        made: PreTrainedConfig = class_of(raw["architectures"][0]).config_class.from_dict(raw)
        return made
    inner = raw.pop(OWN_TYPE)
    settings = raw | {"architectures": [inner["architecture"]]}
    return AutoConfig.for_model(inner["model_type"], **{k: v for k, v in settings.items() if k != "model_type"})


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the progress bars: each rank would show one for a load of a second."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
