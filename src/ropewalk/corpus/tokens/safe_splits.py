"""Where a long text may be cut before encoding so that no id changes. Uncut, an encoder takes 470 bytes a token.

This is proven for two kinds of tokenizer and used for no other. (1) The pattern of the pre-tokenizer is known: it
always splits after a line break that is followed by something other than white space. (2) There is no pattern (Llama 2
and similar): if no token of the vocabulary holds a line break before another character, no merge crosses that place,
and both sides merge independently.
"""

from collections.abc import Iterator
from typing import Any

from ropewalk.corpus.tokens.train_tokenizer import SPLIT

_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The patterns of GPT-4, Llama 3, Qwen and ropewalk. No match crosses from a line break to a character other than white
# space, and no match looks back. White space that ends in a line break is matched by `\s*[\r\n]+` up to that break. So
# a cut right after the break changes no id.
CUTTABLE = {SPLIT, _CL100K.replace("DIGITS", r"\p{N}{1,3}"), _CL100K.replace("DIGITS", r"\p{N}")}
_SPACE = "▁"


def may_cut(made_of: dict[str, Any]) -> bool:
    """Whether a tokenizer (the content of tokenizer.json) is of one of the two kinds and no token crosses a cut."""
    safe = made_of["model"]["type"] == "BPE" and not any(
        not token["special"] and (token["lstrip"] or token["rstrip"] or "\n" in token["content"])
        for token in made_of["added_tokens"]
    )
    return safe and (split_pattern(made_of) is not None or _merges_apart(made_of))


def split_pattern(made_of: dict[str, Any]) -> str | None:
    """The pattern that splits a text into separately encoded words, or None where the pattern is not a known one."""
    split, *rest = (made_of["pre_tokenizer"] or {}).get("pretokenizers") or [{}]
    pattern = split.get("pattern", {}).get("Regex")
    is_known = (
        made_of["normalizer"] in (None, {"type": "NFC"})
        and pattern in CUTTABLE
        and split.get("behavior") == "Isolated"
        and not split.get("invert")
        and [part["type"] for part in rest] == ["ByteLevel"]
        and not rest[0]["use_regex"]
        and not rest[0]["add_prefix_space"]
    )
    return pattern if is_known else None


def cut_text(text: str, longest: int) -> Iterator[str]:
    """Yield ``text`` in chunks of about ``longest`` characters. A chunk is longer where no safe cut exists."""
    start = 0
    while len(text) - start > longest:
        end = text.find("\n", start + longest) + 1
        while 0 < end < len(text) and text[end].isspace():
            end = text.find("\n", end) + 1
        if not 0 < end < len(text):
            break
        yield text[start:end]
        start = end
    yield text[start:]


def _merges_apart(made_of: dict[str, Any]) -> bool:
    model, pre_tokenizer = made_of["model"], made_of["pre_tokenizer"]
    return (
        _only_marks_spaces(made_of["normalizer"])
        and (pre_tokenizer is None or pre_tokenizer["type"] == "Metaspace")
        and not (model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("dropout"))
        and not any("\n" in token.rstrip("\n") for token in model["vocab"])
    )


def _only_marks_spaces(normalizer: dict[str, Any] | None) -> bool:
    """Whether the normalizer only replaces spaces by a mark and puts one mark in front."""
    if normalizer is None:
        return True
    if normalizer["type"] == "Sequence":
        return all(_only_marks_spaces(part) for part in normalizer["normalizers"])
    if normalizer["type"] == "Replace":
        return bool(normalizer["pattern"] == {"String": " "} and normalizer["content"] == _SPACE)
    return bool(normalizer["type"] == "Prepend" and normalizer["prepend"] == _SPACE)
