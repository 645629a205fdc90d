"""Messages in Chinese: every message of the code has its translation, and what is printed is Chinese."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import message_templates
from invented_run import write_run
from message_templates import ZH, find_messages, read_entries
from ropewalk.cli.main import main
from ropewalk.core import readings
from ropewalk.core.catalogue import Catalogue, Template, cut_template, spell_plurals
from ropewalk.core.quantity import format_count
from ropewalk.core.translate import set_language, translate_all, translate_label, translate_lines, translate_text
from ropewalk.report import page
from ropewalk.report.page import summarise, write_report
from ropewalk.report.table import Table

HAN = re.compile("[\u3400-\u9fff]")
ENGLISH = re.compile(r"[a-z]+(?: [a-z]+){3,}")
"""Four English words in a row, which a Chinese message does not have outside of code."""
CODE = re.compile(r"`[^`]*`|'[^']*'|[\w./-]+=\S+")
TERMS = {"rank", "layers", "nats", "token", "s", "alpha", "beta", "gamma", "L", "c"}
"""Terms of the field that are the same in both languages."""
PROSE = ("the same text", "a file", "Instructions are not cut.", "nor on the names of files.", "by document.")
"""Sentences that end in the noun of a count."""
ODD = ("a.*(b", "", "第一行\n第二行", "{0}{x}", "/tmp/x-y.json")


@pytest.fixture(autouse=True)
def _speak_chinese() -> Iterator[None]:
    set_language("zh")
    yield
    set_language("en")


@cache
def entries() -> dict[str, str]:
    return read_entries() | json.loads((ZH / "others.json").read_text())


def test_no_message_lacks_its_translation_and_no_translation_its_message() -> None:
    found = message_templates.find_all()
    own = read_entries()
    lacking = {template: each.place for template, each in found.items() if not own.get(template)}
    assert lacking == {}, "PYTHONPATH=src:tests python -m message_templates --write, and fill in what is empty"
    assert {*own} == {*found}


def test_messages_are_found_wherever_they_stand() -> None:
    code = (
        '"""A docstring of the file."""\n'
        "def fail(path, count):\n"
        '    """A docstring."""\n'
        '    assert path, "an invariant of ours"\n'
        "    told = f\"{count} file{'s' * (count > 1)} of {path} cannot be read\""
        ' + (", and are left out" if count else "")\n'
        "    why = None or 'nothing is there'\n"
        '    raise UserError("it is gone", where=f"corpus.{path}", why=told, '
        'fix="give it again" if count else f"wait for it\\nor {path}")\n'
    )
    found = [template for template, _ in find_messages(code)]
    assert found == [
        "{0} file{s} of {1} cannot be read, and are left out",
        "{0} file{s} of {1} cannot be read",
        "nothing is there",
        "it is gone",
        "give it again",
        "wait for it",
    ]
    assert [template for template, _ in find_messages(code, errors_only=True)] == [
        "it is gone",
        "give it again",
        "wait for it",
    ]


def test_holes_agree() -> None:
    odd = {}
    for english, told in entries().items():
        holes = [sorted(name for name in cut_template(text)[1] if name != "s") for text in (english, told)]
        if holes[0] != holes[1] or holes[0] != [str(number) for number in range(len(holes[0]))]:
            odd[english] = told
    assert odd == {}


def test_translations_are_chinese() -> None:
    english = {
        source: told
        for source, told in entries().items()
        if not (HAN.search(told) or set(re.findall(r"[A-Za-z]+", told)) <= TERMS)
        or ENGLISH.search(CODE.sub("", told))
        or re.search(r"[\u3400-\u9fff][,;?!]", told)
    }
    assert english == {}


def test_values_stay_as_they_are() -> None:
    """Each message, with odd values in its holes, becomes its translation with the same values."""
    catalogue, wrong = Catalogue(), dict[str, object]()
    for english, told in entries().items():
        catalogue.add(english, told)
    for number, (english, with_labels) in enumerate(entries().items()):
        literals, told = spell_plurals(english)[-1], with_labels.replace(":label}", "}")
        values = [ODD[(number + place) % len(ODD)] for place in range(len(literals) - 1)]
        template = Template(literals, told)
        values = ["1,024"] * len(values) if template.is_unit or template.takes_figures else values
        text = "".join(part + value for part, value in zip(literals, [*values, ""], strict=True))
        expected = told.format(*values)
        found = [(each.told, each.told.format(*inside)) for each, inside in catalogue.find_all(text)]
        if len(literals) == 1:
            assert catalogue.whole[text] == expected
        elif (told, expected) not in found and told in dict(found):
            wrong[english] = found
    assert wrong == {}


def test_the_most_letters_win_and_faults_inside_are_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue()
    for english, told in {
        "{0} of {1} failed": "{1} 的 {0} 失败",
        "rank {0} of {1} failed": "共 {1} 个 rank，rank {0} 失败",
        "source {0}: {1}": "来源 {0}：{1}",
        "{0} file{s} failed": "{0} 个文件失败",
        "the step of {0} is largest": "最大的是{0:label}",
        "products": "矩阵乘法",
    }.items():
        catalogue.add(english, told)
    monkeypatch.setattr(readings, "read_catalogue", lambda language: catalogue)
    for english, told in {
        "rank 3 of 8 failed": "共 8 个 rank，rank 3 失败",
        "source a: rank 3 of 8 failed": "来源 a：共 8 个 rank，rank 3 失败",
        "source a: 3 of 8 failed": "来源 a：8 的 3 失败",
        "1 file failed": "1 个文件失败",
        "2 files failed": "2 个文件失败",
        "the step of products is largest": "最大的是矩阵乘法",
        "source products: 2 files failed": "来源 products：2 个文件失败",
        "nothing failed": "nothing failed",
    }.items():
        assert readings.read_messages(english, "a language of this test").told == told


def find_nouns() -> dict[str, str]:
    """The nouns of all counts in the source, each with its place; ``str`` of the expression where it is no literal."""
    found = dict[str, str]()
    for path in sorted(message_templates.SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "format_count":
                noun = node.args[1]
                arms = (noun.body, noun.orelse) if isinstance(noun, ast.IfExp) else (noun,)
                for arm in arms:
                    text = arm.value if isinstance(arm, ast.Constant) else ast.unparse(arm)
                    found.setdefault(str(text), f"{path.name}:{node.lineno}")
    return found


def test_every_count_has_its_noun() -> None:
    lacking = {
        noun: place
        for noun, place in find_nouns().items()
        for number in (1, 2048)
        if translate_text(told := format_count(number, noun)) == told
    }
    assert lacking == {}, "others.json has an entry for a noun: {0} step{s}"


def test_a_translation_is_set_like_chinese() -> None:
    """Blanks beside English words; a list of keys, and the two readings of a length."""
    for english, told in {
        "2 ranks cannot be divided among 5 machines": "2 个 rank 不能平均分给 5 台机器",
        "parallel.ranks and --nodes": "parallel.ranks 和 --nodes",
        "it is for k8s, kubeflow, sky": "它只用于 k8s, kubeflow, sky",
        "did you mean 16Ki (16,384) or 16000?": "是不是指 16Ki (16,384) 或 16000？",
        "Input should be 'a', 'b' or 'c' (given: 'd')": "必须是 'a', 'b' 或 'c'（给出的是 'd'）",
        "'yrn' is not one of 'linear', 'yarn'; did you mean yarn?": "'yrn' 不在 'linear', 'yarn' 之中；是不是指 yarn？",
        "  - the model keeps plain RoPE, which every engine supports": "  - 模型保持普通 RoPE，每个引擎都支持",
    }.items():
        assert translate_text(english) == told


def test_a_figure_stays_with_its_own_phrase() -> None:
    """A hole takes no clause of the message before, and no message after a number."""
    cut = "balanced over 2 ranks, needed_kv: work max/mean 1.50, 50% of a ring's keys sent"
    read = "balanced，2 个 rank，needed_kv：工作量最大/平均 1.50，发送环形交换的 key 的 50%"
    for english, told in {
        f"layout      {cut}": f"切分        {read}",
        f"layout      {cut}; Ulysses over 2 ranks would cost 2.93 times as much": f"切分        {read}；"
        "2 个 rank 上的 Ulysses 的开销会是 2.93 倍",
        "work max/mean 1.50, 50% of a ring's keys sent": "工作量最大/平均 1.50，发送环形交换的 key 的 50%",
        "text        own: 2 files, about 9K tokens; 13 of 15 documents have 2Ki, 100% of the text": "文本        "
        "own：2 个文件，约 9K 个 token；15 个文档中有 13 个达到 2Ki，占文本的 100%",
        "  gbk.txt, line 1, byte 4: invalid start byte: 0xb5": "  gbk.txt，第 1 行，第 4 字节：无效的起始字节：0xb5",
        "loss, step 0        2.016  0.0e+00  pass, <= 1e-05": "损失，第 0 步       2.016  0.0e+00  通过，<= 1e-05",
        "  a.jsonl, line 13, byte 165,907: 'text' must contain the text; found a int": "  a.jsonl，第 13 行，"
        "第 165,907 字节：'text' 必须含有文本；得到的是 int",
    }.items():
        assert translate_text(english) == told


def test_reasons_and_heads_of_the_ledger_are_chinese() -> None:
    for english, told in {
        "no text in source own": "来源 own：没有文本",
        "error: corpus.sources.1: no text in source own: 'text' must contain the text; found a int (a.jsonl, line 2, "
        "byte 57,257)": "错误：corpus.sources.1：来源 own：没有文本：'text' 必须含有文本；得到的是 int"
        "（a.jsonl，第 2 行，第 57,257 字节）",
        "invalid UTF-8 in source own": "来源 own：无效的 UTF-8",
        "== own: no text, 1 of 1,016 documents (0.10%)": "== own：没有文本，1,016 个文档中的 1 个（0.10%）",
        "  - no text                        1         0 B          ": "  - 没有文本                       1         0 B"
        "          ",
        "1 no text": "1 no text",  # no number stands before the noun
        "2,048 random sequences": "2,048 个随机序列",
        "source                     documents       bytes    tokens": "来源                            文档        字节"
        "  token 数",
        "own: 0 MB of text in 0.2 s": "own：0 MB 文本，用时 0.2 s",
        "  a.md: 49.6% letters, below 60%": "  a.md: 49.6% 是字母，低于 60%",
        "  a.jsonl:15: 99.7% in passages seen before, above 40%": "  a.jsonl:15: 99.7% 在前面出现过的段落里，高于 40%",
        "1 characters, fewer than 20": "1 个字符，少于 20",
        "repeated passages": "重复的段落",
        "too short": "太短",
    }.items():
        assert translate_text(english) == told


def test_every_reason_of_cleaning_is_chinese() -> None:
    """Each threshold of quality.py, with what it says; the word mojibake is a term."""
    checks = re.findall(r'^ +\(?"([a-zA-Z ]+)",', (message_templates.SRC / "corpus/clean/quality.py").read_text(), re.M)
    reasons = [each for each in checks if " " in each]
    assert len(reasons) >= 7 and [each for each in reasons if not HAN.search(translate_text(each))] == []
    for why in ("12.00% U+FFFD, above 1.00%", "1.0% of letters in Han, below 20%", "4 characters a line, above 3"):
        assert HAN.search(translate_text(why)) and "above" not in translate_text(why)


def test_what_is_no_message_stays() -> None:
    for text in (
        "/data/the file",
        "tiny-base",
        "",
        "x = 3; y = 4",
        "no entry has these words, not one of them",
        *PROSE,
    ):
        assert translate_text(text) == text
    assert translate_all({"model": ["base", 3, None], "what": "tokens"}) == {
        "model": ["base", 3, None],
        "what": "tokens",
    }
    document = "Wrong input: the disk of 3 files is full, rank 0 waits"
    told = {"why": "kept because the disk is full", "text": document, "begins": document}
    assert translate_all(told)["text"] == document == translate_all(told)["begins"]
    table = Table(["source", "text"], [["a", document]], "lw")
    assert table.translated().cells[0][1].text != document
    assert replace(table, quoted=1).translated().cells[0][1].text == document
    assert translate_label("tokens") != "tokens"
    set_language("en")
    assert translate_label("tokens") == "tokens"


def run_main(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr("sys.argv", ["ropewalk", *arguments])
    with pytest.raises(SystemExit):
        main()
    captured = capsys.readouterr()
    return captured.out + captured.err


FAULTS: dict[str, list[str]] = {
    "no such recipe": ["check", "nowhere.yaml"],
    "no such verb": ["chekc", "quickstart"],
    "no such option": ["check", "quickstart", "--seed", "3"],
    "no verb": ["quickstart.yaml"],
    "a key with a fault": ["check", "quickstart", "stages.0.learning_rate=3"],
    "a value with a fault": ["check", "quickstart", "stages.0.lr=fast"],
    "no folder": ["extend", "nowhere", "context_length=16Ki"],
    "not a run": ["report", "nowhere"],
    "no such embedded source": ["check", "quickstart", "corpus.sources.0.embedded=poems"],
    "no model": ["advise", "nowhere/at-all", "context_length=16Ki"],
}


def find_english(said: str) -> list[str]:
    """The lines that are not in Chinese, or only in part."""
    lines = [line for line in said.splitlines() if re.search("[A-Za-z]{2}", line)]
    return [line for line in lines if not HAN.search(line) or ENGLISH.search(CODE.sub("", line))]


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_are_chinese(
    fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run_main([*FAULTS[fault], "--lang", "zh"], monkeypatch, capsys)
    assert find_english(said) == [] and said.strip()


def test_what_the_user_typed_and_the_words_of_a_library_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Colons, commas and the word tokens of an override are no part of a message."""
    typed = "stages.7={context_length: 4Ki, tokens: 16Ki}"
    assert f"'{typed}'" in run_main(["check", "quickstart", typed, "--lang", "zh"], monkeypatch, capsys)
    assert f"check quickstart {typed} --josn" in run_main(
        ["check", "quickstart", typed, "--josn", "--lang", "zh"], monkeypatch, capsys
    )
    said = run_main(["check", "quickstart", "stages.0={lr: 1, tokens: 16Ki", "--lang", "zh"], monkeypatch, capsys)
    assert "stages.0={lr: 1, tokens: 16Ki，第 1 行，第 " in said and "补上后括号" in said
    assert "expected ',' or '}', but got '<stream end>'" in said


def test_check_is_chinese(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    faults = ("stages.0.tokens=160Ki", "corpus.mix={general: 1, domain: 9}", "evaluate.lengths=[1, 2]")
    said = run_main(["--lang=zh", "check", "quickstart", *faults], monkeypatch, capsys)
    assert find_english(said) == [] and "警告：stages.0.tokens：" in said and "序列        2Ki" in said
    told = run_main(["check", "quickstart", *faults, "--json", "--lang", "zh"], monkeypatch, capsys)
    found = json.loads(told.splitlines()[0])
    assert {finding["level"] for finding in found["findings"]} == {"warning"}  # keys and single words stay
    assert all(HAN.search(finding["message"]) for finding in found["findings"])


def test_a_report_is_chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many_pictures = (page.make_positions, page.make_training, page.make_retrieval, page.make_speed)
    monkeypatch.setattr(page, "_SECTIONS", [make for make in page._SECTIONS if make not in many_pictures])
    run = write_run(tmp_path / "run")
    shown = re.sub(r"<(style|pre).*?</\1>", "", write_report(run).read_text(), flags=re.DOTALL)
    assert '<html lang="zh">' in shown
    texts = [text for text in re.findall(r">([^<]+)<", shown) if re.search("[a-z]{3,} [a-z]{3,}", text)]
    assert find_english("\n".join(texts)) == []
    lines = translate_lines(summarise(run)["text"]).splitlines()
    assert [line for line in lines if line and not set(line) <= {"-", " "} and not HAN.search(line)] == []
    assert "全部 10 个目标都达到。" in lines and "通过, ≥ 95 %" in "".join(lines)


def test_another_language_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    set_language("en")
    assert "no messages in the language fr" in run_main(["check", "quickstart", "--lang", "fr"], monkeypatch, capsys)
    assert "--lang" in run_main(["check", "quickstart", "--lang"], monkeypatch, capsys)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")  # the environment is not read
    assert not HAN.search(run_main(["check", "nowhere.yaml"], monkeypatch, capsys))
