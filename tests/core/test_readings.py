"""Messages with awkward values, lists of messages, and tables: values stay, and every part is translated."""

import json
import re
from collections.abc import Iterator

import pytest

from message_templates import SRC, ZH, read_entries
from ropewalk.core.catalogue import Template, spell_plurals
from ropewalk.core.columns import count_columns
from ropewalk.core.translate import keep, set_language, translate_label, translate_lines, translate_text
from ropewalk.report.table import Table

AWKWARD, PLAIN = "./a{}.b (c), d: e", "./a{}.b(c),d:e.py"
"""A value with the marks that stand between messages; and one without them, for messages that such marks divide."""
KIN = {
    "== {0}, above {1}", "== {0}, below {1}", "message {0}'s content", "percentile {0}", "source {0}", "stage {0}",
    "it is {0}", "it lacks {0} ({1})", "here it is {0} ({1})", "source {0}, profile {1}",
    "{0} in source {1}", "{0}, line {1}, byte {2}", "{0} (given: {1})", "stage {0}, layers {1}", "{0}, digest {1}",
    "{0} to {1} tokens ({2}x)", "no {0}, no {1}", "no text in source {0}", "{0} at {1} tokens: {2}", "stage{s} {0}",
    "{0}, {1} to {2} tokens ({3}x)",
}  # fmt: skip
"""Messages that are another message, or the beginning of one, where a mark in a value divides them."""
ADJACENT = {"{0} is not a count such as 4096, 16Ki, 20B or 1e6 (units: {1}){2}"}
"""Messages whose last hole has no mark before it, since its value has one: ``; did you mean 4Ki?``."""
SAMPLE = 15
"""Of so many messages, one is joined to a list."""


@pytest.fixture(autouse=True)
def _speak_chinese() -> Iterator[None]:
    set_language("zh")
    yield
    set_language("en")


def list_templates() -> dict[str, Template]:
    """Each message that has a hole, in its plural, by its English text."""
    entries = read_entries() | json.loads((ZH / "others.json").read_text())
    spelled = {english: spell_plurals(english)[-1] for english in entries}
    return {
        english: Template(literals, entries[english].replace(":label}", "}"))
        for english, literals in spelled.items()
        if len(literals) > 1
    }


def fill(template: Template, form: str) -> tuple[str, list[str]]:
    """The English text of a message with values, and the values."""
    count = len(template.literals) - 1
    values = (
        ["1,024"] * count
        if template.is_unit or template.takes_figures
        else [form.format(number) for number in range(count)]
    )
    return "".join(literal + value for literal, value in zip(template.literals, [*values, ""], strict=True)), values


def test_awkward_values_stay_in_every_message() -> None:
    """Blanks between Chinese and English may differ, nothing else."""
    wrong, templates = {}, list_templates()
    assert templates.keys() >= KIN
    for english, template in templates.items():
        divided = english in KIN or any(literal in AWKWARD for literal in template.literals[1:-1])
        text, values = fill(template, PLAIN if divided else AWKWARD)
        told, expected = translate_text(text), template.told.format(*values)
        if told.replace(" ", "") != expected.replace(" ", "") and english not in ADJACENT:
            wrong[english] = told
    assert wrong == {}


def test_each_part_of_a_list_is_translated_alone() -> None:
    odd = {}
    for english, template in [*list_templates().items()][::SAMPLE]:
        if english not in KIN and not template.is_frame and " " in "".join(template.literals).strip():
            parts = [fill(template, f"./{name}{{}}.b")[0].strip(" .;:,") for name in ("x", "y", "z")]
            told = translate_text("; ".join(parts))
            if told.replace("; ", "；") != "；".join(map(translate_text, parts)):  # between two values it may stay
                odd[parts[0]] = told
    assert odd == {}


def test_nested_messages_are_read_as_what_they_are() -> None:
    missing = "{}: no such file or folder, seen from /tmp/x"
    lost = "：没有这个文件或文件夹（从 /tmp/x 看）"
    for english, told in {
        "; ".join(
            map(missing.format, ("./bse", "data/a, b.txt", "c (d)"))
        ): f"./bse{lost}；data/a, b.txt{lost}；c (d){lost}",
        "rank 1 of 2 failed: it was ended by SIGKILL; the operating system does this when memory runs out": (
            "rank 1（共 2 个）失败：它被 SIGKILL 结束；内存耗尽时操作系统会这样做"
        ),
        "stage 0: 4 of the 5 sequences of own (80.0%) have no label, so the model learns nothing from them; "
        "long_documents of this source is split": (
            "阶段 0：own 的 5 个序列中有 4 个（80.0%）没有标签，模型从中学不到东西；这个来源的 long_documents 是 split"
        ),
        "Missed: retrieval at 4x (2Ki), extended; retrieval at 8x (4Ki, never trained), base.": (
            "未达到：4x（2Ki）处的检索，训练后；8x（4Ki，从未训练）处的检索，基座。"
        ),
        "starting the ranks again from step 24: attempt 1 of 3 from this step": (
            "从第 24 步起重新启动各 rank：从这一步起的第 1 次尝试，最多 3 次"
        ),
        "shapes are shipped for qwen3-8b ... (docs/bases.md lists all)": (
            "自带这些结构：qwen3-8b ... (docs/bases.md 列出全部)"
        ),
        "error: parallel: 3 ranks cannot be divided among 2 machines (arithmetic)": (
            "错误：parallel：3 个 rank 不能平均分给 2 台机器（算术）"
        ),
        "limits      products, 41% of the training": "瓶颈        矩阵乘法，占训练的 41%",
    }.items():
        assert translate_text(english) == told


def test_names_and_paths_alone_stay() -> None:
    for text in (
        "./bse",
        ".",
        "..",
        "./a and b/c.txt",
        "a, b: c (d)",
        "./a.b (c), d: e",
        "x: ./y; z",
        "1.5, 2: 3",
        "a;b.c",
    ):
        assert translate_text(text) == text


def test_progress_is_chinese() -> None:
    for english, told in {
        "stage 0: 4 of 30 steps, 36 s left  loss 2.339  MFU 6.52% of 0.942 TFLOP/s measured": (
            "阶段 0：第 4 步，共 30 步，剩余 36 s  损失 2.339  MFU 6.52%（实测峰值 0.942 TFLOP/s）"
        ),
        "stage 0: 32 steps in 35.3 s": "阶段 0：32 步，用时 35.3 s",
        "base: ruler/vt at 1,024 tokens: 0.0%": "基座：ruler/vt，1,024 个 token：0.0%",
        "base: short context: 9 of 10 tokens, 0 s left": "基座：短上下文：10 个 token 中的 9 个，剩余 0 s",
        "3 sources: 0 of 3 MB of text": "3 个来源：3 MB 文本中的 0 MB",
        "  loss by source: own 3.837  text 2.382": "  按来源的损失：own 3.837  text 2.382",
        "  loss by role: domain 2.996": "  按角色的损失：domain 2.996",
    }.items():
        assert translate_text(english) == told


def test_columns_stay_below_each_other() -> None:
    """Ledgers are made as English text; a Chinese letter takes two columns."""
    rows = {
        "  - trimmed             ": "  - 截去                ",
        "  - near duplicate      ": "  - 近似重复            ",
        "  = held out            ": "  = 留出                ",
    }
    for english, told in rows.items():
        assert count_columns(told) == len(english)
        assert translate_text(f"{english}{2:>12}    5.99 KiB") == f"{told}{2:>12}    5.99 KiB"


def test_what_is_kept_stays_and_loses_its_marks() -> None:
    assert translate_text(f"loss by source: {keep('stage 3.2  text 1.0')}") == "按来源的损失：stage 3.2  text 1.0"
    assert translate_text("stage 3.2") == "阶段 3.2" and translate_text(keep("stage 3.2")) == "stage 3.2"
    assert translate_label(keep("tokens")) == "tokens"
    assert translate_lines(f"{keep('memory      3')}\nmemory      3 GiB") == "memory      3\n内存        3 GiB"
    set_language("en")
    assert keep("stage 3.2") == "stage 3.2"


def test_names_in_a_table_are_not_translated_with_the_text_around_it() -> None:
    """A source may be named like a label of ``check``."""
    names = ["text", "memory", "total", "stage", "held out"]
    shown = Table(["source", "loss"], [[name, "3.25"] for name in names], "lr").to_text()
    rows = translate_lines(f"Nothing has been measured yet.\n{shown}").splitlines()[3:]
    assert [re.split(r"\s{2,}", row)[0] for row in rows[:4]] == names[:4]


SPEAKERS = {
    "corpus/prepare/workers.py": "get_language()",
    "parallel/ray_worker.py": "*arguments",  # of the command line of the job, which has its --lang
    "commands/sweep_on_ray.py": '"--json"',  # its errors are translated by the parent
    "model/export_parity.py": "capture_output=True",  # its figures are read by the parent
}
"""Files that start a Python process of their own, with what they have of the language."""


def test_a_process_of_its_own_speaks_the_language_of_its_parent() -> None:
    started = {
        path.relative_to(SRC).as_posix(): path.read_text()
        for path in SRC.rglob("*.py")
        if "[sys.executable" in path.read_text()
    }
    assert {*started} == {*SPEAKERS}
    assert all(SPEAKERS[name] in source for name, source in started.items())
