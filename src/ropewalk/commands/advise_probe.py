"""Measures every candidate without training, on the model itself: with the same text and the same prompts.

Nothing is trained and nothing is kept. A candidate's model is extended in a temporary folder with linked weights. It is
measured like any model, and removed before the next one. A budget in minutes limits the texts, then the candidates
(probe_budget.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from ropewalk.commands.probe_budget import BudgetClock, ReadingTime, fit_time, plan_probe
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.quantity import format_amount, format_count, format_seconds
from ropewalk.core.record import Document, Score
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer
from ropewalk.probe.key_value import KeyValue
from ropewalk.recipe.advice import AdviceSpec
from ropewalk.recipe.multiple import find_multiple
from ropewalk.rope.scaling import Rope

if TYPE_CHECKING:
    from ropewalk.evaluate.evaluate import Measurement
    from ropewalk.evaluate.items import Item, Sums
    from ropewalk.evaluate.loss_by_position import PositionLoss
    from ropewalk.evaluate.retrieval import Retrieval

_TIMED_TOKENS = 512
"""The shortest text that is timed, for a base of at least four times that."""
Text = Int64[np.ndarray, "_"]


@dataclass(frozen=True)
class Probe:
    """The scores of a probe, and lines that say what was read and left out."""

    scores: list[Score]
    told: list[str]


def probe_candidates(
    base: Path, methods: Mapping[str, Rope], spec: AdviceSpec, *, text: Path, base_tokens: int, minutes: float
) -> Probe:
    """Loss by position on ``text`` and key-value retrieval of each method, by its name. Every rank calls it.

    ``methods`` are in the order of their worth: the last ones are left out where ``minutes`` do not suffice. A large
    model is sharded over the ranks; the first one writes the candidates and decides.

    The target is longer than ``base_tokens``. Raises UserError for a missing text, for a text without a document as
    long as the target, and for a budget that is too small for two candidates.
    """
    from ropewalk.parallel.collective import rank_and_ranks, share_from_first
    from ropewalk.parallel.rank_zero import scratch_folder

    begun = monotonic()
    losses, answers = _plan_measurements(base, spec, text=text, base_tokens=base_tokens)
    rank, ranks = rank_and_ranks()
    rounds = [[len(item.tokens) for item in texts] for texts in _list_rounds(losses, answers)]
    with scratch_folder("ropewalk-probe-") as work:
        text_tokens = losses.documents[0][:base_tokens]
        timed = _time_model(base, work / "timed", methods, spec, text_tokens, most_seconds=minutes * 60 / 50)
    # Every rank plans with the first one's times, so all do the same.
    left, start, time = share_from_first((60 * minutes - (monotonic() - begun), *timed))
    plan = plan_probe(list(methods), rounds, time, start=start, ranks=ranks, budget=left)
    losses = replace(losses, documents=losses.documents[: plan.rounds])
    planned: list[Measurement] = [losses, *([] if answers is None else [answers.first(plan.rounds)])]
    tokens = sum(len(item.tokens) for each in planned for item in each.items)
    if rank == 0:
        say(
            f"probe: {len(plan.names)} of {len(methods)} candidates, each reads {format_amount(tokens)} tokens; "
            f"{format_seconds(plan.seconds)} of a budget of {format_seconds(60 * minutes)}"
        )
    clock, found = BudgetClock(left), dict[str, list["Sums"]]()
    for name in (*plan.names, *plan.left_out):
        if not share_from_first(clock.fits(planned=name in plan.names)):
            break
        since = monotonic()
        found[name] = _measure(base, name, methods[name], spec, planned)
        clock.taken.append(monotonic() - since)
    return Probe(
        [*_score(losses, planned, found)],
        _tell_reading(planned, spec, methods, found, seconds=monotonic() - begun, minutes=minutes),
    )


def _plan_measurements(
    base: Path, spec: AdviceSpec, *, text: Path, base_tokens: int
) -> tuple["PositionLoss", "Retrieval | None"]:
    from ropewalk.evaluate.loss_by_position import PositionLoss
    from ropewalk.evaluate.retrieval import plan_retrieval

    assert spec.context_length > base_tokens  # survey_candidates refuses others
    multiple = find_multiple(spec.context_length, base_tokens)
    tokenizer = load_tokenizer(base)
    texts = read_probe_texts(text, tokenizer, tokens=spec.context_length, documents=spec.documents)
    lengths = sorted({base_tokens, base_tokens << (int(multiple).bit_length() // 2), spec.context_length})
    retrieval = plan_retrieval(KeyValue(), tokenizer, lengths=lengths, answers=spec.answers, depths=1, seed=spec.seed)
    return PositionLoss(texts, base_tokens, multiple), retrieval


def _list_rounds(losses: "PositionLoss", answers: "Retrieval | None") -> list[list["Item"]]:
    """The texts of each round: a document, and the next prompt of each length, as long as there are any."""
    prompts = [] if answers is None else answers.by_length
    every = [losses.items, *prompts]
    return [[texts[number] for texts in every if number < len(texts)] for number in range(max(map(len, every)))]


def _time_model(
    base: Path, folder: Path, methods: Mapping[str, Rope], spec: AdviceSpec, text: Text, *, most_seconds: float
) -> tuple[float, ReadingTime]:
    """Seconds to make and load a candidate, and the time to read, from the beginnings of a text of the base's length.

    They double until one takes ``most_seconds``: short ones say little of long ones, and long ones cost the budget.
    """
    from ropewalk.evaluate.items import Item, measure
    from ropewalk.model.extend import extend
    from ropewalk.model.model_with_loss import ModelWithLoss
    from ropewalk.model.open_model import choose_reading_dtype, open_model
    from ropewalk.parallel.collective import share_from_first
    from ropewalk.parallel.rank_zero import first_does

    def read(tokens: int) -> float:
        begun = monotonic()
        measure(learner, [Item(text[:tokens], np.zeros(tokens, dtype=np.int64))], 1, name="probe: timing")
        return share_from_first(monotonic() - begun)

    begun = monotonic()
    first_does(partial(extend, base, folder, rope=next(iter(methods.values())), context_tokens=spec.context_length))
    learner = open_model(ModelWithLoss, folder, dtype=choose_reading_dtype("auto"))
    start = monotonic() - begun
    tokens = max(1, min(_TIMED_TOKENS, len(text) // 4))
    read(tokens)  # the first reading also allocates
    times = [(tokens, read(tokens))]
    while tokens < len(text) and (len(times) < 2 or times[-1][1] < most_seconds):
        tokens = min(2 * tokens, len(text))
        times.append((tokens, read(tokens)))
    return start, fit_time(times[-2], times[-1])


def _measure(base: Path, name: str, method: Rope, spec: AdviceSpec, planned: Sequence["Measurement"]) -> list["Sums"]:
    from ropewalk.evaluate.evaluate import measure_model
    from ropewalk.model.extend import extend
    from ropewalk.model.open_model import choose_reading_dtype
    from ropewalk.parallel.rank_zero import first_does, scratch_folder

    with scratch_folder("ropewalk-probe-") as work:
        folder = work / "model"
        first_does(partial(extend, base, folder, rope=method, context_tokens=spec.context_length))
        return measure_model(folder, planned, name=name, precision=choose_reading_dtype("auto"))


def _score(
    losses: "PositionLoss", planned: Sequence["Measurement"], found: Mapping[str, list["Sums"]]
) -> Iterator[Score]:
    """All scores, then the difference of each candidate from the one with the lowest loss at the target, in pairs."""
    far = {name: sums[0].nll.reshape(len(losses.items), -1)[:, -1].sum() for name, sums in found.items()}
    best = min(far, key=lambda name: far[name])
    for name, sums in found.items():
        for each, its in zip(planned, sums, strict=True):
            yield from each.score(its, model=name)
        if name != best:
            yield from losses.score_change(found[best][0], sums[0], than=best, model=name)


def _tell_reading(
    planned: Sequence["Measurement"],
    spec: AdviceSpec,
    methods: Mapping[str, Rope],
    found: Mapping[str, object],
    *,
    seconds: float,
    minutes: float,
) -> list[str]:
    documents = len(planned[0].items)
    lines = [
        f"Read in {format_seconds(seconds)} of {format_seconds(60 * minutes)}: {documents} of up to {spec.documents} "
        f"documents with each of {format_count(len(found), 'candidate')}"
    ]
    left_out = [name for name in methods if name not in found]
    if left_out:
        lines.append(f"Not read within the budget: {', '.join(left_out)}")
    return lines


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
