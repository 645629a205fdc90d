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


def score_recipe(recipe: Recipe, out: Path, *, model: str | None, truncated: str, sample: float) -> dict[str, Any]:
    """Score the corpus of ``recipe`` into the file ``out``; the text of the result shows the best and worst documents.

    ``sample`` is the share of the tokens of a whole reading that is read. Raises UserError where the corpus is not
    built, or where the model cannot read twice the truncated context.
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
            "the truncated context cannot be compared with the full context",
            where=f"--truncated {truncated}",
            why=f"it has 4 to {format_length(context_tokens // 2)} tokens, half of what the model reads",
            fix=f"--truncated {format_length(context_tokens // 4)}, or use a model with a longer context",
        )
    if not 0 < sample <= 1:
        raise UserError(
            "this is no share of a reading",
            where=f"--sample {sample:g}",
            why="it must be above 0 and at most 1",
            fix="--sample 0.1 reads a tenth, --sample 1 all",
        )
    found = on_ranks(
        score_lengths_on_rank,
        recipe.parallel.ranks,
        recipe,
        scorer,
        corpus,
        truncated_tokens,
        context_tokens,
        sample,
        out,
        setup=rank_setup(recipe, scorer),
    )
    tokenizer = load_tokenizer(scorer)
    read = "" if sample == 1 else f", {found['read']:.1%} of the tokens of a whole reading"
    lines = [f"{format_count(found['documents'], 'document')}{read}, {out}"]
    for end in ("best", "worst"):
        for row in found[end]:
            first = " ".join(tokenizer.decode(row.pop("first")).split())
            row["text"] = first
            within = f" [{row['low']:+.4f}, {row['high']:+.4f}]" if row.get("low") is not None else ""
            lines.append(f"{end}  {row['gain']:+.4f}{within}  {row['source']}: {row['id']}  | {first[:100]}")
    return {"file": str(out), **found, "text": "\n".join(lines)}


def score_lengths_on_rank(
    recipe: Recipe, model: Path, corpus: Path, truncated_tokens: int, context_tokens: int, sample: float, out: Path
) -> dict[str, Any]:
    """Write the gain from far context for each long document into a column file."""
    from ropewalk.evaluate.length_gain import score_lengths as score
    from ropewalk.model.open_model import choose_reading_dtype

    lengths = {"truncated_tokens": truncated_tokens, "context_tokens": context_tokens}
    precision = choose_reading_dtype(recipe.evaluate.precision)
    return score(model, open_corpus(corpus), precision=precision, out=out, share=sample, **lengths)
