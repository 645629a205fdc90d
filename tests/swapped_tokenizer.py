"""A tokenizer of the same size and borders whose ids mean other text: two entries of its vocabulary change places."""

import json
from pathlib import Path


def swap_two_tokens(path: Path) -> None:
    """Rewrite a tokenizer.json: the two last single letters of its vocabulary have each other's id."""
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    one, other = sorted(token for token in vocabulary if len(token) == 1 and token.isalpha() and token.isascii())[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(content), encoding="utf-8")
