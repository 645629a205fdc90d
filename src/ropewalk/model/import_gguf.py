"""Write a model folder from a GGUF file: its weights dequantised, its config and its tokenizer.

transformers reads weights and tokenizer, with the package gguf. Its config is corrected by the file's own keys
(gguf_config.py). The folder is accepted like any base: its weights are exactly the model's. They are not those that
were trained, but those that the quantisation left; the manifest says from which one.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from ropewalk.core.artifact import new_folder
from ropewalk.core.digest import digest_file
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.model.architectures import tied_names
from ropewalk.model.folder import check_tokenizer, write_config
from ropewalk.model.gguf_config import correct_config
from ropewalk.model.load import build_model, without_progress_bars
from ropewalk.model.read_gguf import GgufFile, read_gguf
from ropewalk.model.weights import check_stored
from ropewalk.model.write_weights import write_weights
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.layer_keys import spell_layers
from ropewalk.shape.read import read_shape

_OWN = ("_name_or_path", "_model_name_or_path", "transformers_version")


def import_gguf(source: Path, out: Path, *, dtype: Literal["float32", "bfloat16"]) -> None:
    """Write ``out``, finished: the model in the GGUF file ``source``, with dequantised weights as ``dtype``.

    The whole model is held in float32. Raises UserError for a file that cannot be read, for an architecture that is not
    supported, and for a file with more or other weights than the model.
    """
    file = read_gguf(source)
    facts: dict[str, Any] = {
        "context_tokens": file.model_keys.get("context_length"),
        "name": file.keys.get("general.name"),
        "license": file.keys.get("general.license"),
        "dequantised": file.quantisation is not None,
        "quantisation": file.quantisation,
        "values_by_type": dict(sorted(file.types.items())),
    }
    inputs = {"gguf": str(source), "digest": digest_file(source), "dtype": dtype}
    with new_folder(out, kind="model", inputs=inputs, facts=lambda: facts) as work, without_progress_bars():
        config = _write_config(file, work, dtype=dtype)
        model = _read_model(file, config)
        tied = tied_names(model)
        kept = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
        _check_count(file, {name: tensor.numel() for name, tensor in kept.items()})
        write_weights(kept, work, dtype=dtype, where=out)
        del model, kept
        AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(work)
        _check_tokenizer(file, work)
        build_model(work)
        check_stored(work)


def _write_config(file: GgufFile, work: Path, *, dtype: str) -> PreTrainedConfig:
    """Write config.json, and return it as transformers reads it. Refuses the model before a weight is read."""
    try:
        read = AutoConfig.from_pretrained(str(file.path.parent), gguf_file=file.path.name)
    except (ValueError, KeyError) as error:
        raise _refuse(file, " ".join(str(error).split())[:200]) from None
    names = [name for name, family in SUPPORTED.items() if family.model_type == read.model_type]
    if not names:
        raise _refuse(file, f"its class {type(read).__name__} is none of those that ropewalk trains")
    spelled_out = json.loads(read.to_json_string())
    told = correct_config(file, {key: value for key, value in spelled_out.items() if key not in _OWN})
    told |= {"architectures": names[:1]}
    write_config(work, told, dtype=dtype)
    shape = read_shape(work)  # what it cannot read is refused with its own reason
    spelled = spell_layers(told, shape.positions, context_tokens=shape.context_tokens)
    write_config(work, spelled.apply(told), dtype=dtype)
    return AutoConfig.from_pretrained(work, local_files_only=True)


def _read_model(file: GgufFile, config: PreTrainedConfig) -> PreTrainedModel:
    say(f"{file.path.name}: dequantising {sum(file.sizes.values()):,} values")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(file.path.parent),
            gguf_file=file.path.name,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (ValueError, KeyError, RuntimeError, NotImplementedError) as error:  # RuntimeError: shapes that do not fit
        raise _refuse(file, " ".join(str(error).split())[:200]) from None
    wrong = {what: sorted(map(str, names))[:3] for what, names in report.items() if names}
    if wrong:
        raise _refuse(file, f"transformers reports weights that do not fit: {wrong}")
    read: PreTrainedModel = model
    return read


def _check_count(file: GgufFile, sizes: dict[str, int]) -> None:
    """Refuse a file with values that the model does not have: transformers drops their tensors without a word."""
    stored, taken = sum(file.sizes.values()), sum(sizes.values())
    if stored != taken:
        others = [name for name in file.sizes if name.count(".") < 2 or not name.endswith(".weight")]
        raise _refuse(
            file,
            f"it has {stored:,} values and the model {taken:,}; unusual tensors: {', '.join(others[:5]) or 'none'}",
        )


def _check_tokenizer(file: GgufFile, work: Path) -> None:
    shape = read_shape(work)
    check_tokenizer(work, vocabulary=shape.vocabulary)
    made = json.loads((work / "tokenizer.json").read_text()).get("pre_tokenizer") or {}
    if file.pre_tokenizer and "pretokenizers" not in made:
        say(f"tokenizer: split {file.pre_tokenizer!r} is unknown to transformers, another is used; tokens may differ")
    found = load_tokenizer(work).vocabulary
    if found != file.tokens:
        raise _refuse(file, f"its tokenizer has {file.tokens:,} tokens, and {found:,} after transformers' conversion")


def _refuse(file: GgufFile, why: str) -> UserError:
    return UserError(
        "the GGUF file has a model that cannot be imported",
        where=f"{file.path}: general.architecture {file.architecture}",
        why=why,
        fix="take the model's original folder with config.json and safetensors",
    )
