"""Which language a text is in: whole, cut short, mixed with code and names, or too short to tell."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
import zstandard
from pydantic import ValidationError

from ropewalk.core.record import Document
from ropewalk.corpus.clean.document import clean_document
from ropewalk.corpus.clean.quality import measure_text
from ropewalk.corpus.mix.strata import Stratum, split_source
from ropewalk.corpus.prepare.tokenized import settle_parts
from ropewalk.corpus.spec import MixRules, Source
from ropewalk.corpus.text.language import judge_language, language_kind, script_of, settle_languages
from ropewalk.corpus.text.language_words import language_words
from ropewalk.corpus.text.profile import PROFILES
from ropewalk.corpus.text.reject import Reject
from ropewalk.corpus.tokens.store import StoredDocuments
from shared_folder import SHARED

DATA = SHARED / "data"


def settled(text: str) -> str:
    """The language in a source of which nothing is sure."""
    language = judge_language(text)
    return settle_languages({language: 1}).get(language, language)


CHINESE = [
    "本节介绍如何在服务器上安装并启动服务。",
    "修改配置以后需要重新加载，否则旧的值仍然生效。",
    "如果端口已经被占用，请先停掉原来的进程。",
    "这个函数返回一个列表，其中每个元素都是字符串。",
    "为了避免重复计算，结果会缓存到内存中。",
    "每次提交之前都应当运行全部测试。",
    "当请求失败时，客户端会自动重试三次。",
]
WITH_NAMES = [
    "使用 {a} 部署 {b}，并通过 `{c}` 查看日志。",
    "在 {a} 中调用 {c} 接口即可得到结果",
    "将 {a} 升级到 v3.12，同时更新 {b} 的依赖",
    "参考 [{a} 官方文档](https://docs.example.com/{b}/getting-started.html)，先执行 {c}。",
    "打开 http://localhost:8080/index.html 就能看到 {a} 的界面",
]
NAMES = ["Docker", "Kubernetes", "PostgreSQL", "React Native", "Nginx", "Redis Cluster", "VS Code", "Spring Boot"]
IDENTIFIERS = ["getUserInfo()", "kubectl get pods", "max_retry_count", "npm run build", "os.path.join", "--no-cache"]
CODE = [
    "```python\nimport os\n\ndef load(path):\n    # return the content of the file as a string\n"
    "    with open(path) as handle:\n        return handle.read()\n```",
    "```bash\nsudo apt-get install -y build-essential\ngit clone https://github.com/example/project.git\n"
    "cd project && make install\n```",
    "```js\nconst app = express();\napp.get('/', (req, res) => res.send('hello from the small server'));\n```",
    "~~~sql\nSELECT name, count(*) FROM orders WHERE created_at > now() GROUP BY name ORDER BY 2 DESC;\n~~~",
]
SHELL = ["$ npm install --save-dev webpack", "docker compose up -d --build", "pip install -r requirements.txt"]
PROGRAM = "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result"


def technical(seed: int) -> str:
    """A Chinese page about software, of which most letters are Latin."""
    rng = random.Random(seed)

    def fill(line: str) -> str:
        return line.format(a=rng.choice(NAMES), b=rng.choice(NAMES), c=rng.choice(IDENTIFIERS))

    parts = [fill(rng.choice(["# {a} Quick Start", "## 安装 {a}", "## Installation", "# {a} API"]))]
    said = rng.sample([*CHINESE, *WITH_NAMES], 4)
    shown = rng.sample([*CODE, *SHELL, PROGRAM, "- {a}\n- {b}"], len(said) + 2)
    for number in range(rng.randint(1, len(said))):
        parts.append(fill(said[number]) if "{a}" in said[number] else said[number])
        parts += [fill(shown[number]) if "{b}" in shown[number] else shown[number]]
    parts += shown[len(said) :]
    return "\n\n".join(parts)


def test_chinese_technical_texts_are_chinese_and_kept() -> None:
    texts = [technical(seed) for seed in range(200)]
    latin = sum(sum(c.isascii() and c.isalpha() for c in text) > sum("一" <= c <= "鿿" for c in text) for text in texts)
    assert latin > 150  # by its letters alone most of each is Latin
    assert sum(settled(text) == "zh" for text in texts) >= 198
    profile = Source(name="a", path="a", role="general").cleaning("zh")
    kept = [clean_document(Document(text, "a", "general", "zh", "1"), profile).outcome for text in texts]
    assert [text.reason for text in kept if isinstance(text, Reject)] == []


@pytest.mark.parametrize(
    "text",
    [
        f"请解释下面这个函数做了什么：\n{PROGRAM}",
        f"编写一个函数，计算列表中所有数字的和。\n{PROGRAM}\n{PROGRAM}",
        "```python\n# 计算列表中所有数字的和\ndef total(values):\n    return sum(values)\n```",
        "把“早上好”翻译成英文。\nGood morning",
        "请用 Python 写一个 HTTP server",
    ],
)
def test_a_chinese_request_for_code_is_chinese(text: str) -> None:
    assert settled(text) == "zh"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The city of Beijing (北京) was called Beiping (北平) for some years, and it has grown ever since.", "en"),
        (f"# Usage\n\nRun the program on a file, and it prints the sum.\n\n{CODE[0]}\n\n[中文](README.zh-CN.md)", "en"),
        ("In Chinese a rope is 绳子, and a ropewalk is the long lane in which it was made by hand.", "en"),
        (f"{CODE[0]}\n\n関数はファイルの中身を文字列として返します。\n\n{CODE[1]}\n\n次に Docker を起動します。", "ja"),
        (f"{CODE[0]}\n\n이 함수는 파일의 내용을 문자열로 돌려준다.\n\n{CODE[1]}\n\nDocker를 먼저 시작한다.", "ko"),
        (f"{CODE[0]}\n\nЭта функция возвращает содержимое файла как строку.\n\n{CODE[1]}", "ru"),
        (f"{CODE[0]}\n\nΗ συνάρτηση επιστρέφει το περιεχόμενο του αρχείου.\n\n{CODE[1]}", "el"),
        ("L’angle α vaut la somme des angles β et γ, comme on le voit sur la figure de gauche.", "fr"),
        ("ＡＰＩ の使い方を説明します", "ja"),
    ],
)
def test_mixtures_of_other_languages(text: str, language: str) -> None:
    assert judge_language(text) == language


ENGLISH = """The old mill stood by the river for two hundred years. | She opened the letter and read it twice.
Most of the cost is in the first mile of the road. | We could not see the far side of the valley. | He had
never asked why the gate was kept shut. | A rope is only as strong as the hemp that it is made of. | They
walked backwards all day, and the rope grew before them. | Nobody in the village remembered the last flood. | Please
send me the report before the end of the week. | The second half of the book is better than the first."""
JAPANESE = """古い水車は二百年の間川のそばに立っていた。 | 彼女は手紙を開いて二度読んだ。
谷の向こう側は見えなかった。 | カメラのバッテリーを充電する。 | 門がなぜ閉まっているのか誰も聞かなかった。
東京都の人口は千四百万人を超えている。 | この本は後半のほうが面白い。 | コンピュータを再起動してください。
報告書は週末までに送ってください。 | 明日は雨が降るでしょう。"""
KOREAN = """오래된 물레방아는 이백 년 동안 강가에 서 있었다. | 그녀는 편지를 열어 두 번 읽었다.
골짜기 건너편은 보이지 않았다. | 이 책은 뒷부분이 더 재미있다. | 내일은 비가 올 것이다.
주말까지 보고서를 보내 주세요. | 컴퓨터를 다시 시작하세요. | 밧줄은 삼으로 만든다.
아무도 마지막 홍수를 기억하지 못했다. | 문이 왜 닫혀 있는지 묻지 않았다."""


@pytest.mark.parametrize(("sentences", "language"), [(ENGLISH, "en"), (JAPANESE, "ja"), (KOREAN, "ko")])
def test_single_sentences(sentences: str, language: str) -> None:
    stop = "。" if language == "ja" else "."
    found = [
        judge_language(" ".join(sentence.split())) for sentence in sentences.replace(f"{stop}\n", f"{stop}|").split("|")
    ]
    assert found == [language] * len(found)


OTHERS = {
    "bo": "བོད་ནི་རི་མཐོ་ས་གཙང་གི་ཡུལ་ཞིག་ཡིན། ཆུ་བོ་མང་པོ་འདི་ནས་འབབ།",
    "mn": "ᠮᠣᠩᠭᠣᠯ ᠬᠡᠯᠡ ᠪᠢᠴᠢᠭ ᠦᠨ ᠲᠤᠬᠠᠢ ᠦᠭᠦᠯᠡᠯ ᠃",
    "ta": "பழைய ஆலை ஆற்றின் கரையில் இருநூறு ஆண்டுகள் நின்றது. அவள் கடிதத்தைத் திறந்து இருமுறை படித்தாள்.",
    "bn": "পুরোনো কলটি দুইশ বছর ধরে নদীর ধারে দাঁড়িয়ে ছিল। সে চিঠি খুলে দুবার পড়ল।",
    "ka": "ძველი წისქვილი მდინარის პირას ორასი წელი იდგა. მან წერილი გახსნა და ორჯერ წაიკითხა.",
    "th": "โรงสีเก่าตั้งอยู่ริมแม่น้ำมาสองร้อยปี เธอเปิดจดหมายแล้วอ่านสองครั้ง",
    "ar": "وقفت الطاحونة القديمة على ضفة النهر مئتي عام. فَتَحَتِ الرِّسالَةَ وَقَرَأَتْها مَرَّتَيْنِ.",
    "hi": "पुरानी चक्की दो सौ साल तक नदी के किनारे खड़ी रही। उसने चिट्ठी खोली और दो बार पढ़ी।",
    "km": "ម៉ាស៊ីនកិនស្រូវចាស់បានឈរនៅមាត់ទន្លេអស់ពីររយឆ្នាំ។ នាងបើកសំបុត្រហើយអានពីរដង។",
    "my": "စက်ဟောင်းသည် မြစ်ကမ်းတွင် နှစ်ပေါင်းနှစ်ရာ ရပ်နေခဲ့သည်။ သူမ စာကိုဖွင့်ပြီး နှစ်ခါဖတ်ခဲ့သည်။",
    "he": "הַטַּחֲנָה הַיְשָׁנָה עָמְדָה עַל גְּדַת הַנָּהָר מָאתַיִם שָׁנָה. היא פתחה את המכתב.",
    "lo": "ໂຮງສີເກົ່າຕັ້ງຢູ່ແຄມແມ່ນ້ຳມາສອງຮ້ອຍປີ",
    "am": "አሮጌው ወፍጮ በወንዙ ዳር ለሁለት መቶ ዓመት ቆሟል።",
    "te": "పాత మర నది ఒడ్డున రెండు వందల ఏళ్ళు నిలిచింది.",
    "si": "පැරණි මෝල ගඟ අසල අවුරුදු දෙසීයක් තිබුණි.",
}


@pytest.mark.parametrize("language", OTHERS)
def test_every_script_is_known_and_made_of_letters(language: str) -> None:
    text = OTHERS[language]
    assert judge_language(text) == language
    assert measure_text(text).letters > 0.75  # vowel signs and points count
    lines = "\n".join(f"{text[number:]} {text}" for number in range(14))
    profile = PROFILES["prose_en"].model_copy(update={"max_repeated_passages": 1.0})
    outcome = clean_document(Document(lines, "a", "general", language, "1"), profile).outcome
    assert not isinstance(outcome, Reject), outcome.why


@pytest.mark.parametrize(
    ("text", "unsure"),
    [
        ("Hello.", "latin"),
        ("OK", "latin"),
        ("x = f(y)", "latin"),
        ("好的。", "han"),
        ("東京都", "han"),
        ("42!", "none"),
    ],
)
def test_a_short_text_takes_its_sources_language(text: str, unsure: str) -> None:
    assert judge_language(text) == unsure
    most = {"latin": ("de", "en"), "han": ("ja", "zh"), "none": ("ja", "en")}[unsure]
    assert settle_languages({unsure: 1, most[0]: 9, most[1]: 2, "ru": 20 * (unsure != "none")})[unsure] == most[0]
    assert settle_languages({unsure: 5}) == {unsure: {"han": "zh"}.get(unsure, unsure)}


def test_what_is_unsure_is_settled_by_all_parts_of_a_source(tmp_path: Path) -> None:
    parts = []
    for number, spoken in enumerate((["latin", "latin", "zh"], ["de", "de", "en", "none"])):
        names = sorted(set(spoken))
        parts.append(tmp_path / str(number))
        parts[-1].mkdir()
        np.save(parts[-1] / "language.npy", np.array([names.index(name) for name in spoken]))
        (parts[-1] / "manifest.json").write_text(
            json.dumps({"kind": "", "inputs": {}, "facts": {"languages": names}, "files": {}})
        )
    assert settle_parts(parts) == [["de", "zh"], ["de", "en", "de"]]


def test_kinds_of_chinese_are_chinese_for_profiles_and_weights() -> None:
    for code in ("zh", "zh-Hant", "zh_CN", "yue", "wuu", "lzh", "cmn", "nan-TW"):
        assert language_kind(code) == "zh" and script_of(code) == "han"
        assert Source(name="a", path="a", role="general", language=code).cleaning() == PROFILES["prose_zh"]
    assert language_kind("en-GB") == "en" and script_of("en-GB") == "latin" and script_of("uk") == "cyrillic"
    whole = Stratum("a", None, None, StoredDocuments((), np.arange(4)), np.array([5, 6, 7, 8]))
    rules = MixRules(languages={"zh": 2, "yue": 1, "other": 1})
    names = ["en-US", "wuu", "yue", "zh"]
    parts = list(split_source(whole, rules, names=names, language=np.arange(4)))
    assert {part.language: part.lengths.tolist() for part in parts} == {"other": [5], "yue": [7], "zh": [6, 8]}


def test_a_name_of_a_language_is_no_code() -> None:
    for given in ("en", "zh-Hant", "zh_TW", "EN-gb", "yue", "code", "none"):
        assert Source(name="s", path="s", role="general", language=given).language == given
    for given, meant in (("english", "en"), ("Chinese", "zh"), ("cn", "zh"), ("jp", "ja"), ("en,zh", "en"), ("", "en")):
        with pytest.raises(ValidationError, match=f"the code of a language, such as {meant}, and not '{given}'"):
            Source(name="s", path="s", role="general", language=given)


def test_code_links_and_names_do_not_say_a_language() -> None:
    text = "运行 `docker run` 以后打开 <a href='x'>Grafana</a> 面板\n```\nany words in a fence\n```\nkubectl apply -f x"
    assert language_words(text).split() == ["运行", "以后打开", "面板"]
    fenced = language_words("说明\n```\nmany plain words in here\n```\n", in_code=True)
    assert fenced.split() == ["说明", "many", "plain", "words", "in", "here"]
    mixed = language_words("第一步：use the old cable\n见 https://example.com/some/words。")
    assert mixed.split() == ["第一步：", "use", "the", "old", "cable", "见", "。"]


def read_texts(name: str) -> Iterator[str]:
    with (DATA / f"{name}.jsonl.zst").open("rb") as file:
        for line in TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            yield json.loads(line)["text"]


@pytest.mark.skipif(not DATA.is_dir(), reason="the texts are not here")
@pytest.mark.parametrize("name", ["books_zh", "law_zh", "poems_zh", "books_en"])
def test_real_texts_cut_short(name: str) -> None:
    texts = [text for _, text in zip(range(2000), read_texts(name), strict=False)]
    if name.startswith("books"):
        texts = [text[at : at + 200] for text in texts for at in range(4000, len(text), 5000)]
    found = Counter(judge_language(text[:200]) for text in texts)
    assert found[name[-2:]] >= 0.99 * len(texts), found
