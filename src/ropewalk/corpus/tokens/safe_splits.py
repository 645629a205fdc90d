"""Where a long text may be cut before it is encoded without changing an id: encoders take 470 bytes a token otherwise.

Proven for two kinds of tokenizer and done for no other. Where the pre-tokenizer's pattern is known, it splits right
after a line break before anything that is not white space. Where there is none (Llama 2 and its like), no merge reaches
over that place if no token of the vocabulary holds a line break before something else: either side then merges alone.
"""

from collections.abc import Iterator
from typing import Any

from ropewalk.corpus.tokens.train_tokenizer import SPLIT

_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# GPT-4, Llama 3, Qwen and ours. No match crosses from a line break to what is not white space, none looks back, and
# white space that ends in a line break is taken by `\s*[\r\n]+` up to that break: so a cut right there changes no id.
CUTTABLE = {SPLIT, _CL100K.replace("DIGITS", r"\p{N}{1,3}"), _CL100K.replace("DIGITS", r"\p{N}")}
_SPACE = "▁"


def may_cut(made_of: dict[str, Any]) -> bool:
    """Whether a tokenizer, as tokenizer.json has it, is of one of the two kinds, and nothing reaches over a cut."""
    safe = made_of["model"]["type"] == "BPE" and not any(
        not token["special"] and (token["lstrip"] or token["rstrip"] or "\n" in token["content"])
        for token in made_of["added_tokens"]
    )
    return safe and (split_pattern(made_of) is not None or _merges_apart(made_of))


def split_pattern(made_of: dict[str, Any]) -> str | None:
    """The pattern that parts a text into words, each encoded by itself, where it is one of those known here."""
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


def cut(text: str, longest: int) -> Iterator[str]:
    """``text`` in pieces of about ``longest`` characters, or longer where there is no place to cut."""
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
    """Whether all it does is to write spaces as a mark and put one in front."""
    if normalizer is None:
        return True
    if normalizer["type"] == "Sequence":
        return all(_only_marks_spaces(part) for part in normalizer["normalizers"])
    if normalizer["type"] == "Replace":
        return bool(normalizer["pattern"] == {"String": " "} and normalizer["content"] == _SPACE)
    return bool(normalizer["type"] == "Prepend" and normalizer["prepend"] == _SPACE)
