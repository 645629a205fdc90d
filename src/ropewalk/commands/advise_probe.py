"""Measures every candidate without training, on the model itself: with the same text and the same prompts.

Nothing is trained and nothing is kept. A candidate's model is extended in a temporary folder with linked weights. It is
measured like any model, and removed before the next one. The number of texts and answers limits the amount of reading.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.quantity import format_amount, format_length
from ropewalk.core.record import Document, Score
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer
from ropewalk.probe.key_value import KeyValue
from ropewalk.recipe.advice import AdviceSpec
from ropewalk.rope.scaling import Rope

Text = Int64[np.ndarray, "_"]


def probe_candidates(
    base: Path, methods: Mapping[str, Rope], spec: AdviceSpec, *, text: Path, base_tokens: int
) -> list[Score]:
    """Loss by position on ``text`` and key-value retrieval of each method, by its name. Every rank calls it.

    A large model is sharded over the ranks; the first one writes the candidates.

    Raises UserError for a target below twice ``base_tokens``, for a missing text, and for a text without a document as
    long as the target.
    """
    from ropewalk.evaluate.evaluate import Measurement, measure_model
    from ropewalk.evaluate.loss_by_position import PositionLoss
    from ropewalk.evaluate.retrieval import plan_retrieval
    from ropewalk.model.extend import extend
    from ropewalk.parallel.collective import rank_and_ranks
    from ropewalk.parallel.rank_zero import first_does, scratch_folder

    multiple = spec.context_length // base_tokens
    if multiple < 2:
        raise UserError(
            "the target is too near for a probe",
            where="context_length",
            why=f"loss by position goes in multiples of the base's {format_length(base_tokens)} tokens",
            fix=f"ask for {format_length(2 * base_tokens)} or more, or leave --probe out",
        )
    tokenizer = load_tokenizer(base)
    texts = read_probe_texts(text, tokenizer, tokens=multiple * base_tokens, documents=spec.documents)
    lengths = sorted({base_tokens, base_tokens << (multiple.bit_length() // 2), multiple * base_tokens})
    retrieval = plan_retrieval(KeyValue(), tokenizer, lengths=lengths, answers=spec.answers, depths=1, seed=spec.seed)
    planned: list[Measurement] = [PositionLoss(texts, base_tokens, multiple)]
    planned += [retrieval] if retrieval else []
    tokens = sum(len(item.tokens) for each in planned for item in each.items)
    if rank_and_ranks()[0] == 0:
        say(f"probe: {len(methods)} candidates, each reads {format_amount(tokens)} tokens")
    scores: list[Score] = []
    for name, method in methods.items():
        with scratch_folder("ropewalk-probe-") as work:
            folder = work / "model"
            first_does(partial(extend, base, folder, rope=method, context_tokens=spec.context_length))
            found = measure_model(folder, planned, name=name, precision="float32")
        for each, sums in zip(planned, found, strict=True):
            scores += each.score(sums, model=name)
    return scores


def read_probe_texts(path: Path, tokenizer: Tokenizer, *, tokens: int, documents: int) -> list[Text]:
    """Up to ``documents`` texts of exactly ``tokens`` tokens.

    The first parts of all long documents come before any second part. Raises UserError where there is no such text.
    """
    source = Source(name="probe", path=str(path), role="general")
    read = (item for item in read_source(source, seed=0) if isinstance(item, Document))
    long: list[Text] = []
    longest = 0
    for ids, _ in tokenizer.encode_documents(read):
        longest = max(longest, len(ids))
        if len(ids) >= tokens:
            long.append(ids.astype(np.int64))
        if len(long) == documents:
            break
    if not long:
        raise UserError(
            "the text is too short for the probe",
            where=str(path),
            why=f"its longest document has {longest:,} tokens, and the target is {tokens:,}",
            fix="give a longer text, such as a book as one .txt, or a shorter context",
        )
    return list(islice(_take_turns(long, tokens), documents))


def _take_turns(long: list[Text], tokens: int) -> Iterator[Text]:
    most = max(len(ids) for ids in long) // tokens
    return chain.from_iterable(
        (ids[turn * tokens : (turn + 1) * tokens] for ids in long if len(ids) >= (turn + 1) * tokens)
        for turn in range(most)
    )
