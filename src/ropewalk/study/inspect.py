"""What ``ropewalk corpus inspect`` shows of a recipe's corpus."""

from pathlib import Path
from typing import Any

from ropewalk.corpus.folder import open_corpus
from ropewalk.corpus.inspect import format_reasons, inspect_corpus
from ropewalk.recipe.spec import Recipe
from ropewalk.study.folder import RunFolder, require


def inspect_recipe(recipe: Recipe) -> dict[str, Any]:
    """Twenty examples of each reason to drop a document. Raises UserError where the corpus is not built."""
    folder = require(RunFolder(Path(recipe.run)).corpus, verb="prepare")
    corpus = open_corpus(folder)
    reasons = inspect_corpus(corpus)
    return {
        "corpus": str(folder),
        "reasons": [reason.to_json() for reason in reasons],
        "text": format_reasons(reasons, corpus.ledger),
    }
