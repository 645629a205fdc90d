"""The verb ``ropewalk corpus inspect``: examples of dropped documents of a recipe's corpus."""

from pathlib import Path
from typing import Any

from ropewalk.commands.run_inputs import require
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.inspect.dropped import format_columns, format_reasons, inspect_corpus, read_columns
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.recipe.spec import Recipe


def inspect_recipe(recipe: Recipe) -> dict[str, Any]:
    """Twenty examples of each reason to drop a document. Raises UserError where the corpus is not built."""
    folder = require(RunFolder(Path(recipe.run)).corpus, verb="prepare")
    corpus = open_corpus(folder)
    corpus.require_current()
    reasons = inspect_corpus(corpus)
    columns = read_columns(corpus)
    told = [format_reasons(reasons, corpus.ledger), format_columns(columns)]
    return {
        "corpus": str(folder),
        "columns": columns,
        "reasons": [reason.to_json() for reason in reasons],
        "text": "\n".join(part for part in told if part),
    }
