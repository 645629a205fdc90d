"""Every file that a source's path means is read as what it is, refused by name, or told with a reason and a count."""

import csv
import gzip
import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.prepare.ledger import format_ledger
from ropewalk.corpus.read.source import Reject, read_source, source_files
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from shared_folder import SHARED

CASES = SHARED / "cases" / "files"
TEXTS = [sentence(1, 30), han(2, 60), 'with "quotes", commas;\nand a line']


def source(path: Path | str, **keys: Any) -> Source:
    return Source.model_validate({"name": "source", "path": str(path), "role": "general", **keys})


def read(path: Path | str, **keys: Any) -> list[Document | Reject]:
    return list(read_source(source(path, **keys), seed=0))


def texts_of(path: Path | str, **keys: Any) -> list[str]:
    return [item.text if isinstance(item, Document) else item.reason for item in read(path, **keys)]


def lines(texts: list[str]) -> str:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def table(rows: list[list[str]], **keys: Any) -> str:
    made = io.StringIO()
    csv.writer(made, **keys).writerows(rows)
    return made.getvalue()


def unread(path: Path | str, **keys: Any) -> dict[str, int]:
    found = source_files(source(path, **keys)).unread
    assert all(each.why for each in found)
    return dict(sum((Counter({each.sort: each.files}) for each in found), Counter()))


@pytest.mark.parametrize("name", ["a.ndjson", "a.jl", "a.NDJSON.gz", "a.jsonl.zstd", "part-00000", "part-00000.gz"])
def test_json_lines_by_any_name(tmp_path: Path, name: str) -> None:
    data = lines(TEXTS).encode()
    packed = gzip.compress(data) if name.endswith("gz") else zstandard.compress(data) if "zstd" in name else data
    (tmp_path / name).write_bytes(packed)
    assert texts_of(tmp_path / name) == TEXTS == texts_of(tmp_path)
    assert read(tmp_path / name)[1].id == f"{name}:2"


@pytest.mark.parametrize(
    ("name", "keys", "mark"),
    [
        ("a.csv", {}, ""),
        ("a.csv", {"delimiter": ";", "lineterminator": "\n"}, "\ufeff"),
        ("a.tsv", {"delimiter": "\t"}, ""),
        ("a.csv.gz", {"quoting": csv.QUOTE_ALL}, ""),
    ],
)
def test_a_table_is_records_by_its_first_row(tmp_path: Path, name: str, keys: dict[str, Any], mark: str) -> None:
    data = (mark + table([["id", "text"], *([f"n{at}", text] for at, text in enumerate(TEXTS))], **keys)).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    found = read(tmp_path / name)
    assert [(item.id, item.text) for item in found if isinstance(item, Document)] == [
        (f"n{at}", text) for at, text in enumerate(TEXTS)
    ]
    with pytest.raises(UserError, match="'body' must contain the text; found keys id, text"):
        read(tmp_path / name, text_key="body")


def test_a_field_may_be_a_book(tmp_path: Path) -> None:
    book = "\n".join(sentence(number, 200) for number in range(300))
    (tmp_path / "a.csv").write_text(table([["text"], [book], ["short"]]))
    assert texts_of(tmp_path / "a.csv") == [book, "short"]


@pytest.mark.parametrize(
    ("content", "what", "line"),
    [
        (b"text,id\ngood,1\nbad,2,3\ngood,4\n", "broken table row", 3),
        (b'text,id\ngood,1\n"bad" quote,2\ngood,4\n', "broken table row", 3),
        (b"text,id\ngood,1\nb\xffd,2\ngood,4\n", "invalid UTF-8", 3),
        (b'text,id\ngood,1\ngood,4\n"never\nended,2\n', "broken table row", 4),
        (b"text,text\ngood,1\n", "broken table head", 1),
    ],
)
def test_a_broken_table_is_told_with_its_line(tmp_path: Path, content: bytes, what: str, line: int) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=what) as caught:
        read(tmp_path / "a.csv")
    assert f"{tmp_path}/a.csv, line {line}," in caught.value.where
    if what != "broken table head":
        assert sorted(texts_of(tmp_path / "a.csv", faults="skip")) == sorted(["good", "good", what])


def test_a_table_whose_head_cannot_be_decoded_has_no_records(tmp_path: Path) -> None:
    """Else the first record would name the keys of the others."""
    (tmp_path / "a.csv").write_bytes(b"text,caf\xe9\none,a\ntext,b\nthree,c\n")
    (tmp_path / "b.csv").write_text("text\ngood\n")
    assert texts_of(tmp_path, faults="skip") == ["invalid UTF-8", "good"]


@pytest.mark.parametrize(
    ("head", "separator"), [("id|a title, short|text", "'|'"), ("id;a title, short;text", "';'"), ("id,text", "")]
)
def test_a_table_with_another_separator_is_told_as_such(tmp_path: Path, head: str, separator: str) -> None:
    (tmp_path / "a.csv").write_text(f"{head}\n1|one, two|three;four, five, six\n")
    with pytest.raises(UserError, match="broken table row") as caught:
        read(tmp_path / "a.csv")
    assert ("separates the fields" in caught.value.why) == bool(separator) and separator in caught.value.why


@pytest.mark.parametrize(("name", "head"), [("a.csv", "id|text"), ("a.tsv", "id,text"), ("a.tsv", "id;text")])
def test_a_table_of_one_key_is_not_offered_its_head_as_a_key(tmp_path: Path, name: str, head: str) -> None:
    (tmp_path / name).write_text(f"{head}\n{head.replace('id', '1')} of a book\n")
    with pytest.raises(UserError, match="broken table head") as caught:
        read(tmp_path / name)
    assert f"the first row has one key, '{head}'; if {head[2]!r} separates" in caught.value.why
    assert texts_of(tmp_path / name, text_key=head) == [f"{head.replace('id', '1')} of a book"]


def test_json_lines_that_are_called_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(lines(TEXTS))
    assert texts_of(tmp_path / "a.json") == TEXTS
    (tmp_path / "b.json").write_text(json.dumps({"text": "one", "more": {"a": [1]}}, indent=1))
    (tmp_path / "c.json").write_text(json.dumps({"text": "two"}) + "\n")
    assert [*texts_of(tmp_path / "b.json"), *texts_of(tmp_path / "c.json")] == ["one", "two"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    whole = {"a.jsonl": lines(TEXTS), "a.json": json.dumps([{"text": text} for text in TEXTS], ensure_ascii=False)}
    whole |= {"a.csv": table([["text"], *([text] for text in TEXTS)]), "a.txt": TEXTS[1]}
    (tmp_path / name).write_bytes(whole[name].encode(encoding))
    assert texts_of(tmp_path / name) == (TEXTS if name != "a.txt" else TEXTS[1:2])


JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 9
ENCODED = [
    (JAPANESE, "shift_jis"),
    (JAPANESE, "euc_jp"),
    ("为了惩罚犯罪，保护人民，根据宪法，制定本法。" * 9, "gb18030"),
    ("為了懲罰犯罪，保護人民，根據憲法，制定本法。" * 9, "big5"),
    ("모든 국민은 법 앞에 평등하다. 누구든지 차별을 받지 아니한다. " * 9, "euc_kr"),
    ("Все люди рождаются свободными и равными. " * 9, "cp1251"),
    ("The café was shut until noon. " * 9, "cp1252"),
    ("Il était déjà près de l'été où naît la forêt. " * 9, "cp1252"),
    ("Die Würde des Menschen ist unantastbar, für große und für kleine. " * 9, "cp1252"),
    ("no mark before it, but a zero in every letter " * 9, "utf-16-le"),
]


@pytest.mark.parametrize(("text", "encoding"), ENCODED)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_another_encoding_is_named_in_the_error_and_read_when_asked(
    tmp_path: Path, name: str, text: str, encoding: str
) -> None:
    content = lines([text]) if name == "a.jsonl" else text
    (tmp_path / name).write_bytes(content.encode(encoding))
    if name == "a.jsonl" or encoding != "utf-16-le":
        with pytest.raises(UserError, match=rf"encoding: {encoding}\b"):
            read(tmp_path / name)
    assert texts_of(tmp_path / name, options={"encoding": encoding}) == [text]


def test_half_a_character_of_utf16_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(TEXTS).encode("utf-16") + b"x")
    with pytest.raises(UserError, match="invalid utf-16"):
        read(tmp_path / "a.jsonl")
    assert texts_of(tmp_path / "a.jsonl", faults="skip") == [*TEXTS, "invalid utf-16-le"]


def test_a_long_window_is_read_and_a_larger_one_is_told_from_a_tear(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = packer.compress(lines(TEXTS).encode()) + packer.flush()
    assert zstandard.get_frame_parameters(data).window_size == 1 << 28
    (tmp_path / "a.jsonl.zst").write_bytes(data)
    assert texts_of(tmp_path / "a.jsonl.zst") == TEXTS
    (tmp_path / "a.jsonl.zst").write_bytes(data[:-9])
    with pytest.raises(UserError, match="an archive is incomplete or damaged"):
        read(tmp_path / "a.jsonl.zst")
    # The byte after the magic and the flags says 2**41.
    (tmp_path / "a.jsonl.zst").write_bytes(data[:5] + bytes([31 << 3]) + data[6:])
    with pytest.raises(UserError, match="needs more memory than is allowed"):
        read(tmp_path / "a.jsonl.zst")
    (tmp_path / "a.jsonl.zst").write_bytes(gzip.compress(lines(TEXTS).encode()))
    with pytest.raises(UserError, match=r"begins like a \.gz"):
        read(tmp_path / "a.jsonl.zst")
    (tmp_path / "a.jsonl.zst").write_bytes(b"")
    with pytest.raises(UserError, match="the file is empty"):
        read(tmp_path / "a.jsonl.zst")


@pytest.mark.parametrize(
    "name", ["a.wat", "a.wat.gz", "a.arc", "a.txz", "a.7z", "a.rar", "a.zip.gz", "a.epub", "a.bin", "a.py"]
)
def test_what_is_not_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"WARC/1.0\r\n")
    with pytest.raises(UserError, match="are not read") as caught:
        read(tmp_path / name)
    suffix = name[1:]
    assert suffix in caught.value.what and caught.value.fix
    for path in (tmp_path, tmp_path / "*"):  # nothing else is there
        with pytest.raises(UserError, match="has no files") as caught:
            read(path)
        assert suffix in caught.value.why


@pytest.mark.parametrize(
    ("path", "library"), [("s3://bucket/a.jsonl", "s3fs"), ("gs://b/*.parquet", "gcsfs"), ("https://h/a.gz", "aiohttp")]
)
def test_an_address_says_which_library_it_needs(monkeypatch: pytest.MonkeyPatch, path: str, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, "fsspec.implementations.http", None)
    with pytest.raises(UserError, match="a network address needs another library") as caught:
        read(path)
    assert "install" in caught.value.fix


def write_mixed(root: Path) -> None:
    for name, text in {
        "a.jsonl": lines(TEXTS[:1]),
        "b.ndjson": lines(TEXTS[1:2]),
        "c.rar": "x",
        "d.rar": "x",
        "e.wat.gz": "x",
        "log.7": "x",
        "log.08": "x",
        "README": "words",
        "part-00001": lines(TEXTS[2:]),
        ".hidden.jsonl": "x",
        ".git/HEAD": "x",
        "node_modules/a.txt": "x",
        "sub/tool.py": "x",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


UNREAD = {".rar": 2, ".wat.gz": 1, ".0": 2, "(no suffix)": 1, "(hidden)": 2, "(in node_modules)": 1, ".py": 1}


def test_what_a_folder_holds_beside_its_text_is_counted(tmp_path: Path) -> None:
    write_mixed(tmp_path)
    assert texts_of(tmp_path) == TEXTS
    assert unread(tmp_path) == UNREAD
    found = unread(tmp_path / "*")
    assert found == {key: UNREAD[key] for key in UNREAD if key != ".py"} | {"(folder)": 1}


def test_what_is_not_read_stands_in_the_ledger(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_mixed(tmp_path / "text")
    spec = CorpusSpec.model_validate(
        {
            "store": str(tmp_path / "store"),
            "sources": [{"name": "web", "path": str(tmp_path / "text"), "role": "general", "profile": "markup"}],
            "mix": {"web": 1},
        }
    )
    corpus = open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))
    assert {each["sort"]: each["files"] for each in corpus.ledger["web"]["not_read"]} == UNREAD
    assert "not read: 2 .rar (an archive of files" in format_ledger(corpus.ledger)


def test_links_are_followed_once(tmp_path: Path) -> None:
    text, other = tmp_path / "text", tmp_path / "other"
    for name in ("a/one.txt", "b/two.txt"):
        (text / name).parent.mkdir(parents=True)
        (text / name).write_text(name)
    (other / "deep").mkdir(parents=True)
    (other / "three.txt").write_text("three")
    (other / "deep" / "four.txt").write_text("four")
    (text / "0-again").symlink_to(text / "b")  # sorts before what it leads to
    (text / "a" / "up").symlink_to("..")
    (text / "above").symlink_to(tmp_path)
    (text / "linked").symlink_to(other)
    (text / "linked-too").symlink_to(other / "deep")
    (text / "file.txt").symlink_to(other / "deep" / "four.txt")
    (text / "one-again.txt").symlink_to(text / "a" / "one.txt")
    (text / "gone.txt").symlink_to("nowhere")
    assert texts_of(text) == ["a/one.txt", "b/two.txt", "four", "three"]
    assert unread(text) == {"(link)": 7}
    assert sorted(texts_of(text / "**" / "*.txt")) == sorted(["a/one.txt", "b/two.txt", "four", "three"])


def test_of_a_code_tree_data_is_not_code(tmp_path: Path) -> None:
    for name in ("a.py", "data.jsonl", "config.json", "table.csv", "notes.md", "julia.jl"):
        (tmp_path / name).write_text(name)
    assert texts_of(tmp_path, profile="code") == ["a.py", "julia.jl"]
    assert unread(tmp_path, profile="code") == {".jsonl": 1, ".json": 1, ".csv": 1, ".md": 1}
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "shard.jsonl").write_text(lines(TEXTS))
    (alone / "README.md").write_text("about")
    assert texts_of(alone, profile="code") == TEXTS  # of a folder of records alone, these are the programs


def move(write: Callable[[Path], None], tmp_path: Path) -> tuple[Path, Path]:
    first, second = tmp_path / "first" / "text", tmp_path / "second" / "place" / "moved"
    write(first)
    shutil.copytree(first, second, symlinks=True)
    return first, second


def write_tree(root: Path) -> None:
    for name in ("one/a.py", "one/b.py", "two/a.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("\n".join(sentence(line, 12) for line in range(len(name), 40)))


@pytest.mark.parametrize("glob", ["", "*.json*", "*/*.py", "b.ndjson"])
def test_where_text_lies_is_not_what_it_says(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glob: str
) -> None:
    """Moved, named by another glob's way or from another folder: the same store, and nothing is tokenised again."""
    first, second = move(write_tree if "py" in glob else write_mixed, tmp_path)
    monkeypatch.chdir(second.parent)
    places = [str(first / glob), str(second / glob), str(Path("moved") / glob), f"../place/moved/{glob}"]
    keys = {"role": "general", "profile": "code", "join": {"by": "repository"}} if "py" in glob else {}
    digests, folder = set(), tmp_path / "corpus"
    for number, path in enumerate(places):
        spec = CorpusSpec.model_validate(
            {
                "store": str(tmp_path / "store"),
                "sources": [{"name": "s", "path": path, "role": "general", "profile": "markup", **keys}],
                "mix": {"s": 1},
            }
        )
        corpus = open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=folder.with_name(f"corpus-{number}")))
        assert build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus-0")  # the same corpus, too
        digests.add((corpus.digest, corpus.store("s")))
        monkeypatch.setattr(Tokenizer, "encode_documents", lambda *_: pytest.fail("tokenised again"))
    assert len(digests) == 1
    stored = b"".join(path.read_bytes() for path in corpus.store("s").iterdir())
    assert str(tmp_path).encode() not in stored and b"moved" not in stored


def test_other_text_at_another_place_is_another_corpus(tokenizer: Tokenizer, tmp_path: Path) -> None:
    first, second = move(write_mixed, tmp_path)
    (second / "b.ndjson").write_text(lines(["other words of another text " * 9]))
    for path, refused in ((first, False), (second, True)):
        spec = CorpusSpec.model_validate(
            {
                "store": str(tmp_path / "store"),
                "sources": [{"name": "s", "path": str(path), "role": "general", "profile": "markup"}],
                "mix": {"s": 1},
            }
        )
        if refused:
            with pytest.raises(UserError, match="holds another corpus"):
                build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
        else:
            build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")


def test_files_of_one_name_in_two_folders_have_two_ids(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text(lines([name * 30]))
    assert [item.id for item in read(tmp_path)] == ["a/x.jsonl:1", "b/x.jsonl:1"]
    assert [item.id for item in read(tmp_path / "*" / "x.jsonl")] == ["a/x.jsonl:1", "b/x.jsonl:1"]


@pytest.mark.skipif(not CASES.exists(), reason="made beside the project")
def test_the_cases_that_were_found() -> None:
    assert len(read(CASES / "records.ndjson")) == len(read(CASES / "long_window.jsonl.zst")) == 10
    with pytest.raises(UserError, match="broken table row"):  # it ends within quotes
        read(CASES / "table.csv")
    page = read(CASES / "page.warc.wet.gz")[0]
    assert isinstance(page, Document) and page.text.startswith("# 人体损伤程度鉴定标准")
