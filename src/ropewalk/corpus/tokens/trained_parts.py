"""The parts of a document that are encoded separately, so that no token crosses a border of its loss spans."""

from collections.abc import Iterator

from ropewalk.core.record import Document


def split_document(document: Document) -> Iterator[tuple[str, bool, bool]]:
    """(text, trained on, inside) between the borders of the loss spans."""
    inside = False
    for text, trained in _split_at_spans(document):
        yield text, trained, inside
        inside = True


def _split_at_spans(document: Document) -> Iterator[tuple[str, bool]]:
    """(text, trained on) between the borders of the loss spans."""
    if document.loss_spans is None:
        yield document.text, True
        return
    done = 0
    for start, end in document.loss_spans:
        assert done <= start <= end <= len(document.text), f"{document.id}: loss spans out of order"
        for text, trained in ((document.text[done:start], False), (document.text[start:end], True)):
            if text:
                yield text, trained
        done = end
    if done < len(document.text):
        yield document.text[done:], False


def trains_end(document: Document) -> bool:
    spans = document.loss_spans
    return spans is None or (len(spans) > 0 and not document.text[spans[-1][1] :].strip())
