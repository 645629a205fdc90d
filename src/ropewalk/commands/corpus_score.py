"""The verb ``ropewalk corpus score``: the gain from context for each long document of a recipe's corpus."""

from pathlib import Path
from typing import Any

from ropewalk.commands.on_ranks import on_ranks
from ropewalk.commands.run_inputs import base_model, rank_setup, require
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count, format_length, parse_count
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.recipe.spec import Recipe
from ropewalk.shape.find import find_model
from ropewalk.shape.read import read_shape


def score_recipe(recipe: Recipe, out: Path, *, model: str | None, truncated: str) -> dict[str, Any]:
    """Score the corpus of ``recipe`` into the file ``out``; the text of the result shows the best and worst documents.

    Raises UserError where the corpus is not built, or where the model cannot read twice the truncated context.
    """
    folder = RunFolder(Path(recipe.run))
    corpus = require(folder.corpus, verb="prepare")
    scorer = base_model(folder, recipe) if model is None else find_model(model)
    context_tokens = read_shape(scorer).context_tokens
    try:
        truncated_tokens = parse_count(truncated)
    except ValueError as error:
        raise UserError("this is not a length", where="--truncated", why=str(error), fix="--truncated 4Ki") from None
    if not 4 <= truncated_tokens <= context_tokens // 2:
        raise UserError(
            "the truncated context is not shorter than the full context",
            where=f"--truncated {truncated}",
            why=f"the model reads {format_length(context_tokens)} tokens",
            fix=f"--truncated {format_length(context_tokens // 4)}, or use a model with a longer context",
        )
    found = on_ranks(
        score_lengths_on_rank,
        recipe.parallel.ranks,
        recipe,
        scorer,
        corpus,
        truncated_tokens,
        context_tokens,
        out,
        setup=rank_setup(recipe, scorer),
    )
    tokenizer = load_tokenizer(scorer)
    lines = [f"{format_count(found['documents'], 'document')}, {out}"]
    for end in ("best", "worst"):
        for row in found[end]:
            first = " ".join(tokenizer.decode(row.pop("first")).split())
            row["text"] = first
            lines.append(f"{end}  {row['gain']:+.4f}  {row['source']}: {row['id']}  | {first[:100]}")
    return {"file": str(out), **found, "text": "\n".join(lines)}


def score_lengths_on_rank(
    recipe: Recipe, model: Path, corpus: Path, truncated_tokens: int, context_tokens: int, out: Path
) -> dict[str, Any]:
    """Write the gain from far context for each long document into a column file."""
    from ropewalk.evaluate.length_gain import score_lengths as score

    lengths = {"truncated_tokens": truncated_tokens, "context_tokens": context_tokens}
    return score(model, open_corpus(corpus), precision=recipe.evaluate.precision, out=out, **lengths)
