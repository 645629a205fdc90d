"""Write weights into a model folder that any engine loads: the extended model's folder with these weights.

All files except the weights come from the folder that was trained, so no file can be left out. Where its weight files
hold more than the trained model (a vision tower), the weights go into copies of them (carry.py).
"""

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Shaped
from torch import Tensor

from ropewalk.core.artifact import is_finished, new_folder, read_manifest
from ropewalk.model.architectures import is_embedding
from ropewalk.model.carry import write_into_copies
from ropewalk.model.engines import LOADER, is_native
from ropewalk.model.expert_files import join_experts
from ropewalk.model.file_names import FileNames
from ropewalk.model.folder import copy_tokenizer, read_config, write_config
from ropewalk.model.lazy_weights import LazyWeights, read_weights, shapes_of, split_experts
from ropewalk.model.weights import Dtype, check_tensor_names, check_weights, read_file_names, read_headers
from ropewalk.model.write_weights import write_weights
from ropewalk.parallel.verify_folder import require_intact
from ropewalk.shape.read import read_shape

_LOADING = f"""No class of transformers has this model's positions: config.json tells them under `ropewalk`, layer by
layer. Other programs refuse the folder, so they do not silently run another model. It loads with

    from pathlib import Path
    from {LOADER.replace(":", " import ")}

    model = load_model(Path("this folder"))
"""


def export(
    weights: Mapping[str, Shaped[Tensor, "..."]] | Path, like: Path, out: Path, *, dtype: Dtype, card: str = ""
) -> None:
    """Write ``out``, finished: config and tokenizer of the model folder ``like``, with ``weights`` as ``dtype``.

    ``card`` is the text of its README.md; with none, the folder has no README.md.

    ``weights`` are whole tensors under transformers' names, or a model folder that has them. Each is read once, and
    only one is held at a time if they are a folder or LazyWeights. The files get the names and shapes of those in
    ``like``, where experts may lie apart. Raises UserError where names or shapes differ from those of ``like``, a value
    is not finite, or a folder does not match its manifest.
    """
    require_intact(like)
    shape = read_shape(like)
    tensors = read_weights(weights) if isinstance(weights, Path) else weights
    stored = read_headers(like)
    expected = {name: each.shape for name, each in join_experts(stored).items()}
    # A tied head that was stored twice is stored once: no engine needs the copy.
    embedding = next(name for name in expected if is_embedding(name))
    tied = {"lm_head.weight": embedding} if shape.tied else {}
    shapes = {name: sizes for name, sizes in shapes_of(tensors).items() if name not in tied}
    parts = {name: each.shape for name, each in stored.items()}
    kept = split_experts(LazyWeights(shapes, tensors.__getitem__), parts)
    names = read_file_names(like)
    facts = read_manifest(like)["facts"] if is_finished(like) else {"context_tokens": shape.context_tokens}
    with new_folder(out, kind="model", inputs={"like": str(like), "dtype": dtype}, facts=lambda: facts) as work:
        write_config(work, read_config(like), dtype=dtype)
        if names.differ:
            check_tensor_names(out, shapes, expected, tied=tied)
            write_into_copies(_with_tied(kept, names, tied), like, work, names=names, dtype=dtype, where=out)
        else:
            write_weights(kept, work, dtype=dtype, where=out)
        check_weights(work, expected, tied=tied)
        copy_tokenizer(like, work, context_tokens=facts["context_tokens"])
        if card:
            (work / "README.md").write_text(card, encoding="utf-8")
        if not is_native(work):
            (work / "LOADING.md").write_text(_LOADING)


def _with_tied(weights: LazyWeights, names: FileNames, tied: Mapping[str, str]) -> LazyWeights:
    """``weights`` with each tied name that the files hold as well."""
    twice = {name: source for name, source in tied.items() if name in names.trained}
    shapes = {**weights.shapes, **{name: weights.shapes[source] for name, source in twice.items()}}
    return LazyWeights(shapes, lambda name: weights[twice.get(name, name)])
