"""``ropewalk import``: a model folder from a GGUF file, for models that are published only as quantised files."""

from pathlib import Path
from typing import Any, Literal

from ropewalk.commands.on_ranks import on_ranks
from ropewalk.commands.run_inputs import require_new
from ropewalk.core.artifact import read_manifest
from ropewalk.recipe.load import parse_import


def import_model(source: Path, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Write the model folder ``out`` from the GGUF file ``source``; ``overrides`` may set the dtype of its weights.

    Raises UserError for a file that cannot be imported, and for an ``out`` that exists.
    """
    asked = parse_import(overrides)
    require_new(out)
    on_ranks(import_on_rank, 1, source.resolve(), out, asked.dtype)
    facts = read_manifest(out)["facts"]
    origin = f"dequantised from {facts['quantisation']}" if facts["dequantised"] else "not quantised"
    text = f"{out}\n{facts['name'] or source.name}: {origin}, stored as {asked.dtype}"
    return {"model": str(out), "dtype": asked.dtype, **facts, "text": text}


def import_on_rank(source: Path, out: Path, dtype: Literal["float32", "bfloat16"]) -> None:
    """Write the folder, on a rank of its own: it needs torch."""
    from ropewalk.model.import_gguf import import_gguf

    import_gguf(source, out, dtype=dtype)
