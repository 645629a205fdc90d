"""Checks that token ids belong to a model, by the content of its tokenizer. Equal sizes prove nothing.

Two tokenizers of 32,000 entries give a meaning to each id, but not the same one. Compared are the digest of the parsed
tokenizer.json (so formatting does not count) and the tokens at document borders.
"""

from pathlib import Path

from ropewalk.core.artifact import is_finished, read_manifest
from ropewalk.core.error import UserError
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer

EXPORTED = "tokens for "
"""The ``kind`` of a folder that ``ropewalk corpus export`` wrote begins with this."""


def require_model(corpus: Corpus, model: Path) -> None:
    """Raise UserError unless the tokenizer in the folder ``model`` made the ids of the corpus.

    A corpus that names no tokenizer (made by hand, without ``build``) is accepted unchecked.
    """
    if corpus.tokenizer is not None:
        require_tokenizer(corpus, load_tokenizer(model), where=model)


def require_tokenizer(corpus: Corpus, tokenizer: Tokenizer, *, where: Path) -> None:
    """Raise UserError unless ``tokenizer`` (of the model in ``where``) made the ids of the corpus."""
    sizes = f"it has {corpus.vocabulary} tokens and the end-of-document token {corpus.eos_id}"
    if (corpus.vocabulary, corpus.eos_id) != (tokenizer.vocabulary, tokenizer.eos_id):
        why = f"{sizes}, the tokenizer of the model {tokenizer.vocabulary} and {tokenizer.eos_id}"
    elif corpus.tokenizer not in (None, tokenizer.digest):
        why = (
            f"{sizes}, as the tokenizer of the model, but its ids stand for other text: {corpus.tokenizer}, not "
            f"{tokenizer.digest}"
        )
    else:
        return
    raise UserError(
        "the corpus was made with another tokenizer",
        where=f"{corpus.folder}, for the model {where}",
        why=why,
        fix="prepare the corpus with this model in another run folder, or use the model that the corpus was prepared "
        "with",
    )


def require_exported(path: Path, tokenizer: Tokenizer) -> None:
    """Raise UserError where ``path`` is in a folder of exported ids whose manifest names another tokenizer."""
    for folder in (path, *path.absolute().parents):
        if not is_finished(folder) or not str((manifest := read_manifest(folder))["kind"]).startswith(EXPORTED):
            continue
        if manifest["inputs"].get("tokenizer", tokenizer.digest) != tokenizer.digest:
            raise UserError(
                "the token ids are another tokenizer's",
                where=str(path),
                why=f"{folder} was exported with {manifest['inputs']['tokenizer']}, the model has {tokenizer.digest}",
                fix="give the text instead of the ids, or use the model whose tokenizer made these ids",
            )
        return
