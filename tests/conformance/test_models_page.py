"""The page of supported models is the one that the rows give."""

from conformance.models_page import BEGIN, END, PAGE, make_table


def test_the_page_has_the_table_of_the_rows() -> None:
    text = PAGE.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip() == make_table().strip(), "make conformance"
