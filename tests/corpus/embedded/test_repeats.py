"""Documents of repeats: every span with a loss stands earlier in the document too, at distances that vary."""

import pytest

from ropewalk.core.error import UserError
from ropewalk.corpus.embedded.registry import embedded_documents

SHUFFLED = {"words": [16, 16], "run": [3, 12], "again": [12, 24], "shuffled": True}


@pytest.mark.parametrize("options", [{}, SHUFFLED], ids=["passages", "shuffled"])
def test_every_span_with_a_loss_continues_an_earlier_place(options: dict[str, object]) -> None:
    distances = set()
    for document in embedded_documents("repeats", seed=7, size_bytes=20_000, options=options):
        for begin, end in document.loss_spans or ():
            earlier = document.text.find(document.text[begin:end])
            assert earlier < begin
            distances.add(begin - earlier)
    assert len(distances) > 30, "a fixed distance would teach a position, not a search"


def test_shuffled_words_are_drawn_alike_however_frequent() -> None:
    share = {}
    for shuffled in (False, True):
        options = {"again": [2, 2], "shuffled": shuffled}
        text = "".join(d.text for d in embedded_documents("repeats", seed=7, size_bytes=20_000, options=options))
        share[shuffled] = text.count("，") / len(text)
    assert share[False] > 0.01 and share[True] < 0.002


@pytest.mark.parametrize("options", [{"again": [1, 2]}, {"run": [5, 4]}])
def test_ranges_that_cannot_be_drawn_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match="repeats cannot take these options"):
        next(embedded_documents("repeats", seed=7, size_bytes=1, options=options))
