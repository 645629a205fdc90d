"""A new model with random weights, as a normal model folder: the start of a run that has no base.

Each tensor is drawn from a stream named after it, so its values depend only on the seed and its own name and shape.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor
from transformers import AutoConfig

from ropewalk.core.artifact import new_folder
from ropewalk.core.seed import seed_for
from ropewalk.corpus.tokens.tokenizer import read_bpe
from ropewalk.model.architectures import class_of, tied_names
from ropewalk.model.folder import check_tokenizer, copy_tokenizer, read_token_ids, write_config
from ropewalk.model.lazy_weights import LazyWeights
from ropewalk.model.load import build_model
from ropewalk.model.write_weights import write_weights
from ropewalk.recipe.spec import Init
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.layer_keys import spell_layers

_MODEL_TYPES = {"LlamaForCausalLM": "llama"}
_EMBEDDING, _LAST_NORM = "model.embed_tokens.weight", "model.norm.weight"


def init_model(spec: Init, out: Path, *, tokenizer: Path, seed: int) -> None:
    """Write a model folder of this shape with random float32 weights and the tokenizer of folder ``tokenizer``.

    Matrices are normal with ``spec.deviation``, the embedding with its own; norms are 1, the last one
    ``spec.final_norm``; biases are 0.
    """
    vocabulary = read_bpe(tokenizer).get_vocab_size(with_added_tokens=True)
    config = _config(spec, vocabulary) | read_token_ids(tokenizer)
    check_tokenizer(tokenizer, vocabulary=vocabulary)
    with new_folder(out, kind="model", inputs={"init": spec.model_dump(mode="json"), "seed": seed}) as work:
        spelled = spell_layers(config, plain_layers(spec.layers, spec.theta), context_tokens=spec.context_length)
        write_config(work, spelled.apply(config), dtype="float32")
        copy_tokenizer(tokenizer, work, context_tokens=spec.context_length)
        with torch.device("meta"):
            skeleton = class_of(spec.architecture)(AutoConfig.from_pretrained(work, local_files_only=True))
        tied = tied_names(skeleton)
        shapes = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items() if name not in tied}
        drawn = LazyWeights(shapes, lambda name: _draw(name, shapes[name], spec, seed=seed))
        write_weights(drawn, work, dtype="float32", where=out)
        build_model(work)


def _draw(name: str, shape: tuple[int, ...], spec: Init, *, seed: int) -> Float32[Tensor, "..."]:
    if len(shape) == 1:
        first = 0.0 if name.endswith("bias") else spec.final_norm if name == _LAST_NORM else 1.0
        return torch.full(shape, first)
    own = spec.embedding_deviation if name == _EMBEDDING else None
    generator = torch.Generator().manual_seed(seed_for("init", name, seed))
    return torch.empty(shape).normal_(0, own or spec.deviation, generator=generator)


def _config(spec: Init, vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": [spec.architecture],
        "model_type": _MODEL_TYPES[spec.architecture],
        "vocab_size": vocabulary,
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "max_position_embeddings": spec.context_length,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "initializer_range": spec.deviation,
        "tie_word_embeddings": spec.tied,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "use_cache": True,
    }
