"""Drawings: what is left of matplotlib's SVG, and that thinning loses nothing."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from ropewalk.core.translate import set_language
from ropewalk.report.figure import draw_picture, smooth, thin_out


def test_styles_become_attributes_and_ids_without_use_go() -> None:
    def paint(figure: Any) -> None:
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color="#123456", linestyle="--", marker="o")
        axis.set_title("$x & <y>")

    picture = draw_picture(paint, size=(4, 2), caption="c", alt='a "b" <c>')
    root = ET.fromstring(picture.svg)
    elements = list(root.iter())
    assert not [element for element in elements if "style" in element.attrib]
    assert {element.tag.rpartition("}")[2] for element in elements} <= {"svg", "g", "defs", "path", "use", "text", "clipPath", "rect"}  # fmt: skip # noqa: E501
    used = {value[1:] for element in elements for key, value in element.attrib.items() if key.endswith("href")}
    used |= {element.attrib["clip-path"][5:-1] for element in elements if "clip-path" in element.attrib}
    assert {element.attrib["id"] for element in elements if "id" in element.attrib} == used
    assert "$x & <y>" in [element.text for element in elements]
    assert root.get("aria-label") == 'a "b" <c>'
    assert any(element.get("stroke") == "#123456" and element.get("stroke-dasharray") for element in elements)
    assert [e.get("font-weight") for e in elements if e.text == "$x & <y>"] == ["700"]


def test_our_own_labels_are_translated_and_names_from_outside_are_not() -> None:
    def paint(figure: Any) -> None:
        axis = figure.subplots()
        axis.set_title("documents")
        axis.set_xlabel("step")

    set_language("zh")
    try:
        svgs = [
            draw_picture(paint, size=(4, 2), caption="c", alt="a", names=given).svg for given in (["documents"], [])
        ]
    finally:
        set_language("en")
    named, ours = ({element.text for element in ET.fromstring(svg).iter()} for svg in svgs)
    assert {"documents", "步"} <= named and {"文档", "步"} <= ours


@pytest.mark.parametrize("count", [0, 1, 399, 400, 401, 5000])
def test_thinning_keeps_the_mean(count: int) -> None:
    steps, values = list(range(count)), [float(step % 7) for step in range(count)]
    thin_steps, thin_values = thin_out(steps, values)
    assert len(thin_steps) == len(thin_values) <= 400
    run = -(-count // 400) or 1
    sizes = [len(values[at : at + run]) for at in range(0, count, run)]
    assert sum(size * value for size, value in zip(sizes, thin_values, strict=True)) == pytest.approx(sum(values))


def test_running_means_begin_with_what_there_is() -> None:
    assert smooth([2.0, 4.0, 6.0, 8.0], 2) == pytest.approx([2.0, 3.0, 5.0, 7.0])
    assert smooth([], 3) == []
