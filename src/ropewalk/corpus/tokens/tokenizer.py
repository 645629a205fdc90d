"""Text to token ids and back, by the base model's own tokenizer.json.

A special token in a text is ordinary text and never becomes a border. A long text is cut before encoding only where it
is proven that the cut changes no id (safe_splits.py). A faster library is used only after a check (gigatoken.py).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, Integer, UInt8, UInt32
from tokenizers import Tokenizer as Bpe
from tokenizers import models

from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.read.chat import MARKED, ChatTemplate
from ropewalk.corpus.tokens.byte_decoder import Decoder
from ropewalk.corpus.tokens.chat_tokens import ChatIds
from ropewalk.corpus.tokens.gigatoken import Fast
from ropewalk.corpus.tokens.safe_splits import cut_text, may_cut
from ropewalk.corpus.tokens.tokenizer_files import added_bos, read_json_object, read_names, read_template, token_id
from ropewalk.corpus.tokens.tokenizer_files import read_bpe as read_bpe
from ropewalk.corpus.tokens.trained_parts import split_document, trains_end
from ropewalk.shape.wrappers import read_text_config

Ids = UInt32[np.ndarray, "_"]
Encoded = tuple[Ids, UInt8[np.ndarray, "_"]]  # ids and mask of equal length, for one document; each owns its memory
_CUT_CHARACTERS = 1 << 10
"""The fastest of 256 to 64Ki: a tokenizer keeps four numbers for each character of a text that it encodes at once."""
_FAST_CUT_CHARACTERS = 1 << 16
_KEPT_WORDS = 1 << 17
_BATCH_CHARACTERS = 1 << 20
_BATCH_TEXTS = 256
_FEW_TEXTS = 2


class Tokenizer:
    """A base model's tokenizer, with the ids at the borders of documents."""

    def __init__(
        self,
        bpe: Bpe,
        *,
        bos_id: int | None,
        eos_id: int,
        chat_template: str | None = None,
        tool_template: str | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        """``tool_template`` is the template for conversations with tools, where the model has a separate one.

        ``names`` are the names that templates use for special tokens. Without it only BOS and EOS have names.
        """
        bpe.encode_special_tokens = True  # special tokens in a text are encoded as ordinary text
        bpe.no_truncation()
        bpe.no_padding()
        if isinstance(bpe.model, models.BPE):
            bpe.model._resize_cache(_KEPT_WORDS)  # the default cache of 10,000 merged words is too small for a book
        self._bpe, self._decoder = bpe, Decoder(bpe)
        self.bos_id, self.eos_id = bos_id, eos_id
        self.chat_template, self.tool_template = chat_template, tool_template
        self.vocabulary: int = bpe.get_vocab_size()
        made_of = json.loads(bpe.to_str())
        borders = {"bos_token": bos_id, "eos_token": eos_id}
        self.names = {key: str(bpe.id_to_token(number)) for key, number in borders.items() if number is not None}
        self.names |= names or {}
        self.digest = digest_value([made_of, bos_id, eos_id])
        self._cuttable = may_cut(made_of)
        self._made_of = made_of
        self._newline = self._encode_all(["\n"])[0]
        # SentencePiece-like tokenizers put a space before each text, also in the middle of a document.
        self._prepends = len(self._encode_all(["\nx"])[0]) < sum(map(len, self._encode_all(["\n", "x"])))

    def to_json(self) -> dict[str, Any]:
        """All data that another process needs to make this tokenizer again."""
        kept = ("bos_id", "eos_id", "chat_template", "tool_template", "names")
        return {"tokenizer": self._bpe.to_str(), **{key: getattr(self, key) for key in kept}}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Tokenizer":
        """The inverse of ``to_json``."""
        return cls(Bpe.from_str(entry["tokenizer"]), **{key: entry[key] for key in entry if key != "tokenizer"})

    def chat(self, *, plain: bool) -> ChatTemplate:
        """The chat template of the model. Raises UserError where it has none and ``plain`` is false."""
        if not plain and self.chat_template is None:
            raise UserError(
                "the model has no chat template",
                where="template: chat",
                why="neither chat_template.jinja nor the tokenizer's config has one; base models often do not",
                fix="copy it from the model's chat version into the model folder, or use template: plain",
            )
        added = self._made_of["added_tokens"]
        special = tuple(token["content"] for token in added if token["special"])
        tags = tuple(token["content"] for token in added if not token["special"])
        return ChatTemplate(None if plain else self.chat_template, self.tool_template, special, tags, self.names)

    def encode(self, text: str) -> Int64[np.ndarray, "tokens"]:
        """Ids of ``text`` without border tokens."""
        return np.concatenate(self._own(self._encode_all(list(self._cut(text))), inside=False)).astype(np.int64)

    def encode_inside(self, text: str) -> Int64[np.ndarray, "tokens"]:
        """Ids of ``text`` that follows other text of a document."""
        return self.encode_all_inside([text])[0]

    def encode_all_inside(self, texts: Sequence[str]) -> list[Int64[np.ndarray, "_"]]:
        """``encode_inside`` of each, in one call: of the cache of words, if text was encoded and made it trusted."""
        cut = [[*self._cut(text, True)] for text in texts]
        pieces = [piece for own in cut for piece in own]
        # One of them is encoded by both, so a few are not worth it.
        is_fast = len(pieces) > _FEW_TEXTS and "fast" in vars(self) and self.fast.trusted
        ids = iter(self.fast.encode(pieces) if is_fast else self._encode_all(pieces))
        owned = (self._own([*islice(ids, len(own))], inside=True) for own in cut)
        return [np.concatenate(own).astype(np.int64) for own in owned]

    def find_id(self, token: str) -> int | None:
        """The id of a token of this spelling, special or not."""
        found: int | None = self._bpe.token_to_id(token)
        return found

    def is_ordinary(self, token: int) -> bool:
        """Whether text without special tokens can have this id: the tokens of words, of blanks and of single bytes."""
        added = self._bpe.get_added_tokens_decoder().get(token)
        text = self.decode([token])
        if added is not None:
            return not added.special and not text.strip()
        made = (self.encode(text), self.encode_inside(text))
        return "\ufffd" in text or any(token in ids for ids in made)  # or a byte of a character

    def decode(self, tokens: Sequence[int] | Integer[np.ndarray, "tokens"]) -> str:
        """The text of ``tokens``, border tokens included."""
        return self._decoder.decode(tokens)

    def encode_document(self, document: Document) -> tuple[Int64[np.ndarray, "tokens"], UInt8[np.ndarray, "tokens"]]:
        """``[BOS if the base adds one] text EOS``, and a mask that is 1 where a token is trained on.

        The texts between the borders of ``loss_spans`` are encoded separately, so that no token crosses a border. EOS
        is trained on if the last span ends with the text.
        """
        ids, mask = next(self.encode_documents([document]))
        return ids.astype(np.int64), mask

    def encode_documents(self, documents: Iterable[Document]) -> Iterator[Encoded]:
        """``encode_document`` of each, with stored types. Takes a megabyte of text at a time so that all cores work."""
        batch: list[Document] = []
        characters = 0
        for document in documents:
            batch.append(document)
            characters += len(document.text)
            del document
            if characters >= _BATCH_CHARACTERS:
                yield from self._encode_batch(batch)
                batch, characters = [], 0
        yield from self._encode_batch(batch)

    def _encode_batch(self, documents: list[Document]) -> Iterator[Encoded]:
        """Encode and empty ``documents``: once the text is in chunks, the whole text is freed."""
        if not documents:
            return
        longest = _FAST_CUT_CHARACTERS if self.fast.trusted else _CUT_CHARACTERS
        chunks: list[str] = []
        plans: list[list[_Part] | Encoded] = []
        chats = [(each.text, each.loss_spans or ()) for each in documents if each.metadata.get(MARKED)]
        written = self._chat_ids.encode(chats) if chats else iter(())
        for document in documents:
            if document.metadata.get(MARKED):
                plans.append(self._border(*next(written), trains_end=trains_end(document)))
            else:
                plans.append(self._plan(document, chunks, longest))
        documents.clear()
        del document, chats, written
        ids = self._encode_chunks(chunks)
        del chunks
        # The first token is never a label, so its mask has no effect.
        start = [] if self.bos_id is None else [_Part(0, True, False, self.bos_id)]
        for plan in plans:
            if isinstance(plan, tuple):
                yield plan
                continue
            pieces = [(tokens, part.trained) for part in (*start, *plan) for tokens in self._take(part, ids)]
            tokens = np.concatenate([tokens for tokens, _ in pieces])
            if all(trained for _, trained in pieces):
                yield tokens, np.ones(len(tokens), dtype=np.uint8)
            else:
                flags = np.array([trained for _, trained in pieces], dtype=np.uint8)
                yield tokens, np.repeat(flags, [len(tokens) for tokens, _ in pieces])

    def _plan(self, document: Document, chunks: list[str], longest: int) -> list["_Part"]:
        """Add the chunks of a document to ``chunks`` and return the parts that they form."""
        parts = []
        for text, trained, inside in split_document(document):
            own = list(self._cut(text, inside, longest=longest))
            chunks += own
            parts.append(_Part(len(own), trained, inside, None))
        return [*parts, _Part(0, trains_end(document), True, self.eos_id)]

    def _border(self, ids: Ids, mask: UInt8[np.ndarray, "_"], *, trains_end: bool) -> Encoded:
        """Add BOS and EOS to the ids of a conversation, where its template has not written them."""
        starts = self.bos_id is not None and ids[:1].tolist() != [self.bos_id]
        ends = ids[-1:].tolist() != [self.eos_id]
        ids = np.concatenate([[self.bos_id] if starts else [], ids, [self.eos_id] if ends else []]).astype(np.uint32)
        mask = np.concatenate([[1] if starts else [], mask, [trains_end] if ends else []]).astype(np.uint8)
        mask[0] |= self.bos_id is not None  # as in every document; the first token is never a label
        return ids, mask

    def _take(self, part: "_Part", ids: Iterator[Ids]) -> list[Ids]:
        if part.token is not None:
            return [np.array([part.token], dtype=np.uint32)]
        return self._own([*islice(ids, part.chunks)], inside=part.inside)

    def _encode_chunks(self, chunks: Iterable[str]) -> Iterator[Ids]:
        """Encode a megabyte at a time, also within one document: the fast path is compared once for each group."""
        group: list[str] = []
        characters = 0
        for chunk in chunks:
            group.append(chunk)
            characters += len(chunk)
            if characters >= _BATCH_CHARACTERS:
                yield from self.fast.encode(group)
                group, characters = [], 0
        yield from self.fast.encode(group)

    @cached_property
    def _chat_ids(self) -> ChatIds:
        return ChatIds(Bpe.from_str(self._bpe.to_str()), self._encode_all, cuts=self._cuttable)

    @cached_property
    def fast(self) -> Fast:
        """The fastest encoder with the same ids; the first use tells which encoders cannot be used."""
        return Fast(self._made_of, self._encode_all)

    def _cut(self, text: str, inside: bool = False, *, longest: int = _CUT_CHARACTERS) -> Iterator[str]:
        """``text`` in chunks to encode. A chunk inside a document begins with an added line break."""
        for number, piece in enumerate(cut_text(text, longest) if self._cuttable else [text]):
            yield "\n" + piece if self._prepends and (inside or number) else piece

    def _own(self, ids: list[Ids], *, inside: bool) -> list[Ids]:
        """The ids of a cut text, without those of the added line breaks."""
        added = len(self._newline) if self._prepends else 0
        return [tokens[added:] if inside or number else tokens for number, tokens in enumerate(ids)]

    def _encode_all(self, texts: list[str]) -> list[Ids]:
        if len(texts) <= _FEW_TEXTS:  # a question: threads would cost more than its letters
            each = (self._bpe.encode(text, add_special_tokens=False) for text in texts)
            return [np.array(encoding.ids, dtype=np.uint32) for encoding in each]
        ids = []
        for start in range(0, len(texts), _BATCH_TEXTS):  # an encoding takes 100 bytes a token, an array 4
            encodings = self._bpe.encode_batch_fast(texts[start : start + _BATCH_TEXTS], add_special_tokens=False)
            ids += [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
        return ids


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder: tokenizer.json, with border tokens from tokenizer_config.json.

    Raises UserError if there is no tokenizer.json, if it cannot be read, or if no end-of-document token is named.
    """
    bpe = read_bpe(folder)
    config = read_text_config(read_json_object(folder / "config.json"), str(folder / "config.json"))
    settings = {**config, **read_json_object(folder / "tokenizer_config.json")}
    eos_id = token_id(bpe, settings, "eos")
    if eos_id is None:
        named = read_names(settings).get("eos_token")
        raise UserError(
            "the tokenizer has no end-of-document token",
            where=str(folder / "tokenizer_config.json"),
            why="documents are separated by the base's end token, but neither eos_token nor eos_token_id is given"
            if named is None
            else f"its eos_token is {named}, which tokenizer.json does not have",
            fix="add the eos_token that the model was trained with",
        )
    return Tokenizer(
        bpe,
        bos_id=added_bos(bpe, settings),
        eos_id=eos_id,
        chat_template=read_template(folder, settings),
        tool_template=read_template(folder, settings, "tool_use"),
        names=read_names({**read_json_object(folder / "special_tokens_map.json"), **settings}),
    )


class _Part(NamedTuple):
    """A part of a document that is encoded separately: ``chunks`` chunks of text, or one token.

    ``inside``: the part is not at the start of the document.
    """

    chunks: int
    trained: bool
    inside: bool
    token: int | None
