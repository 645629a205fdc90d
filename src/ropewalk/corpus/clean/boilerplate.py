"""Removes text around the content of pages, sites and e-books: chapter markers, adverts, menus, notices, page numbers.

Only whole lines are removed. Page numbers are removed only where they count up through the document, and are marked as
pages or break sentences off. So a sentence about a next chapter stays, and so do a table of numbers and the numbers of
verses, chapters and clauses. The frame of Project Gutenberg is cut at its own marks.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby, pairwise

from ropewalk.corpus.clean.quality import SENTENCE_ENDS
from ropewalk.corpus.text.blocks import cut_again
from ropewalk.corpus.text.profile import Boilerplate


def _any(*parts: str) -> str:
    return "|".join(parts)


_CHAPTERS = _any(
    r"[（(【\[](?:本章(?:未完|已?完|结束)|未完待续|全[书文]完|完本)[^）)】\]]{0,24}[）)】\]]",
    r"(?:本章(?:已?完|未完|结束)|未完待续|全[书文]完)[。.!！…]*",
    r"本章未完[，,].{0,30}",
    r"[=\-]*the end[=\-]*",
)
_ADVERTS = _any(
    r".{0,30}(?:手机用户请(?:浏览|访问)|天才一秒记住|一秒记住|请记住本[站书]|最新章节请|无弹窗|免费小说阅读|笔趣阁).{0,40}",
    r"[^。]{0,10}求(?:推荐票|月票|收藏|订阅)[^。]{0,40}",
    r".{0,30}(?:加入书签|章节错误.{0,4}举报|百度搜索.{0,20}阅读|更多(?:精彩|好看的?)小说).{0,40}",
    r".{0,30}(?:关注.{0,6}公众号|扫(?:描|码).{0,6}二维码|点击(?:此处|这里)下载).{0,40}",
    r"(?:免责声明|版权声明)[:：].{0,120}(?:转载|网友上传|侵权).{0,60}",
    r"(?:advertisement|sponsored(?: content| links?)?|(?:subscribe to|sign up for) our newsletter)[.!:]?",
    r"click here to (?:subscribe|download|read more)[.!:]?",
)
_MENU = _any(
    r"上一[章页篇节回]|下一[章页篇节回]|目录|章节目录|返回(?:目录|书页|首页|顶部)|首页|尾页|书签|打印本?页|关闭(?:本页|窗口)",
    r"prev(?:ious)?(?: page| chapter)?|next(?: page| chapter)?|table of contents|home|back to top|top|menu",
    r"skip to (?:main )?content|log ?in|sign (?:in|up)|register|contact us|share|print",
    r"privacy policy|terms of (?:use|service)|cookie policy",
)
_PARTED = r"[\s|/·•»«›‹←→>＞<＜\-—\[\]【】()（）,，、]"
_NAVIGATION = _any(
    # The line must have two or more different menu words: one word again and again is a refrain.
    rf"(?!{_PARTED}*(?P<word>{_MENU})(?:{_PARTED}+(?P=word))+{_PARTED}*$){_PARTED}*(?:(?:{_MENU}){_PARTED}+)+(?:{_MENU}){_PARTED}*",
    rf"{_PARTED}*(?:上一[章页]|下一[章页]|返回目录|back to top){_PARTED}*",
    r"(?:当前|您(?:现在)?(?:的|所在)?)位置[:：].{0,80}",
    r"(?:copyright )?(?:©|\(c\)) ?\d{4}.{0,60}all rights reserved\.?",
    r"(?:we use|this (?:web)?site uses) cookies.{0,120}",
)
_EBOOK = _any(
    r"\[?(?:transcriber's note|e-?text prepared by|produced by .{3,80}(?:proofread|gutenberg)).{0,120}\]?",
    r"(?:ISBN|书号)[:： ]?[\d -]{10,20}X?",
)
_PAGES_OF = r"第\s?\d{1,4}\s?页\s?[,，/]?\s?共\s?\d{1,4}\s?页|page \d{1,4} of \d{1,4}"
_LINES: dict[Boilerplate, str] = {
    "chapter_markers": _CHAPTERS,
    "site_adverts": _ADVERTS,
    "navigation": _NAVIGATION,
    "ebook_notices": _EBOOK,
    "page_numbers": _PAGES_OF,
}
# A text or line without any of these words is skipped, because the expressions would cost a second for 4 MB.
_SIGNS: dict[Boilerplate, tuple[str, ...]] = {
    "chapter_markers": ("本章", "未完", "全书", "全文", "完本", "the end"),
    "site_adverts": (
        *(
            "用户请",
            "秒记住",
            "请记住",
            "最新章节",
            "弹窗",
            "免费小说",
            "笔趣",
            "求推荐",
            "求月票",
            "求收藏",
            "求订阅",
            "书签",
        ),
        *(
            "举报",
            "百度搜索",
            "小说",
            "公众号",
            "二维码",
            "点击",
            "声明",
            "advertis",
            "sponsor",
            "newsletter",
            "click here",
        ),
    ),
    "navigation": (
        *(
            "上一",
            "下一",
            "目录",
            "返回",
            "首页",
            "尾页",
            "打印",
            "位置",
            "prev",
            "next",
            "table of contents",
            "back to top",
        ),
        *("skip to", "log in", "login", "sign ", "policy", "terms of", "contact us", "rights reserved", "cookies"),
    ),
    "ebook_notices": ("transcriber", "prepared by", "produced by", "isbn", "书号"),
    "page_numbers": ("共", "page "),
}
_NUMBER_LINE = r"[ \t\u3000]*([-–—·~\[(（]{0,2})[ \t]?(\d{1,4})[ \t]?([-–—·~\])）]{0,2})[ \t\u3000]*$"
_NUMBER, _LATER_NUMBER = (re.compile(begin + _NUMBER_LINE, re.MULTILINE) for begin in ("^", r"\n"))
_NUMBER_CHARACTERS = 10
"""The longest number with its marks, without white space around it."""
_PAGE_MARKS = frozenset("-–—·~")
_COMMENT = re.compile(r"<!--[\s\S]{0,2000}?-->[ \t]*\n?")
_COMMENT_CHARACTERS = 2006  # the longest comment: one that began further up cannot end any more
_FRAME_START = re.compile(r"^\*{3} ?START OF (?:THE|THIS) PROJECT GUTENBERG EBOOK.*$", re.MULTILINE | re.IGNORECASE)
_FRAME_END = re.compile(r"^\*{3} ?END OF (?:THE|THIS) PROJECT GUTENBERG EBOOK.*$", re.MULTILINE | re.IGNORECASE)
_FEWEST_PAGES = 3
_COUNTED_UP = 0.8
_PAGE_CHARACTERS = 300
"""A page has more characters than this. Verses that end without a mark have fewer between their numbers."""
_BROKEN_OFF = 0.5
"""Bare numbers are pages where at least this share of them stands within a sentence."""
_BEFORE_CHARACTERS = 400
_LONGEST_LINE = 200


def remove_boilerplate(
    parts: list[str], kinds: Sequence[Boilerplate], *, further_lines: Sequence[str] = ()
) -> list[str]:
    """Remove from a text, given in blocks of lines, the lines of ``kinds`` and those that match ``further_lines``."""
    if "ebook_notices" in kinds:
        parts = _take_from_frame(parts)
    if "comments" in kinds and any("<!--" in part for part in parts):
        parts = list(cut_again(_without_comments(parts)))
    if "page_numbers" in kinds:
        parts = _remove_page_numbers(parts)
    expression = _expression(tuple(kinds), tuple(further_lines))
    if expression is None:
        return parts
    return [_keep_lines(part, kinds, expression, all_lines=bool(further_lines)) for part in parts]


def _keep_lines(part: str, kinds: Sequence[Boilerplate], expression: re.Pattern[str], *, all_lines: bool) -> str:
    lowered = part.lower()
    if all_lines or len(lowered) != len(part):  # places in a longer text are others
        lines = part.split("\n")
        kept = [line for line in lines if not _is_boilerplate(line, expression)]
        return part if len(kept) == len(lines) else "\n".join(kept)
    pieces, at = [], 0
    for start, end in sorted({line for sign in _any_sign(tuple(kinds)) for line in _lines_with(sign, lowered)}):
        if _is_boilerplate(part[start:end], expression):
            pieces.append(part[at:start])
            at = end + 1
    if not at:
        return part
    # The break before a removed last line goes, too.
    return "".join([*pieces, part[at:]]) if at <= len(part) else "".join(pieces)[:-1]


def _lines_with(sign: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    """The start and the end of each line of ``text`` that holds a ``sign``."""
    found = sign.search(text)
    while found:
        end = text.find("\n", found.end())
        end = len(text) if end < 0 else end
        yield text.rfind("\n", 0, found.start()) + 1, end
        found = sign.search(text, end)


def _is_boilerplate(line: str, expression: re.Pattern[str]) -> bool:
    if not line or len(line) > _LONGEST_LINE:
        return False
    return expression.fullmatch(line.strip()) is not None


@lru_cache(maxsize=64)
def _any_sign(kinds: tuple[Boilerplate, ...]) -> tuple[re.Pattern[str], ...]:
    """The signs of all ``kinds`` in two expressions, ASCII and others: a fifth of the time of a search for each sign.

    In one expression the others would be tried at every second letter of English text.
    """
    signs = sorted((sign for kind in kinds for sign in _SIGNS.get(kind, ())), key=str.isascii)
    return tuple(re.compile("|".join(map(re.escape, same))) for _, same in groupby(signs, key=str.isascii))


@lru_cache(maxsize=64)
def _expression(kinds: tuple[Boilerplate, ...], further: tuple[str, ...]) -> re.Pattern[str] | None:
    parts = [_LINES[kind] for kind in kinds if kind in _LINES] + list(further)
    return re.compile("|".join(f"(?:{part})" for part in parts), re.IGNORECASE) if parts else None


def _take_from_frame(parts: list[str]) -> list[str]:
    """The text between the marks of Project Gutenberg."""
    if not any("PROJECT GUTENBERG" in part or "Project Gutenberg" in part for part in parts):
        return parts
    first, start = _find_first(_FRAME_START, parts)
    last, end = _find_first(_FRAME_END, parts)
    inside = [*parts[:last], parts[last][: end.start()]] if end else list(parts)
    if start is None:
        return inside
    if len(inside) <= first:  # the end mark stands before the start mark
        return [""]
    return [inside[first][start.end() :], *inside[first + 1 :]]


def _find_first(expression: re.Pattern[str], parts: Sequence[str]) -> tuple[int, re.Match[str] | None]:
    """The first match of an expression that stays within a line: number of the block, and match."""
    found = ((number, expression.search(part)) for number, part in enumerate(parts))
    return next(((number, match) for number, match in found if match), (0, None))


def _without_comments(parts: Sequence[str]) -> Iterator[str]:
    """Yield the text without comments. A comment that is open at the end of a block is read with the next block."""
    open_comment = ""
    for number, part in enumerate(parts, start=1):
        text, at = open_comment + part, 0
        for match in _COMMENT.finditer(text):
            yield text[at : match.start()]
            at = match.end()
        begin = text.find("<!--", max(at, len(text) - _COMMENT_CHARACTERS)) if number < len(parts) else -1
        end = begin if begin >= 0 else len(text)
        yield text[at:end]
        open_comment = text[end:]


def _remove_page_numbers(parts: list[str]) -> list[str]:
    """Remove the lines that are one number, where the numbers count up and are page numbers."""
    found = [list(_numbered_lines(part)) for part in parts]
    numbers = [int(match[2]) for matches in found for match in matches]
    if len(numbers) < _FEWEST_PAGES:
        return parts
    rising = sum(0 < second - first <= 2 for first, second in pairwise(numbers))
    if rising < _COUNTED_UP * (len(numbers) - 1) or not _are_pages(parts, found):
        return parts
    return [_without_lines(part, matches) for part, matches in zip(parts, found, strict=True)]


def _numbered_lines(part: str) -> Iterator[re.Match[str]]:
    """The lines that are one number. The search jumps from line break to line break, if a short line is a number."""
    short = {line for line in map(str.strip, part.split("\n")) if len(line) <= _NUMBER_CHARACTERS}
    if not any(map(_NUMBER.match, short)):
        return
    if first := _NUMBER.match(part):
        yield first
    for found in _LATER_NUMBER.finditer(part):
        number = _NUMBER.match(part, found.start() + 1)
        assert number is not None
        yield number


def _are_pages(parts: Sequence[str], found: Sequence[Sequence[re.Match[str]]]) -> bool:
    """Whether the numbers are marked as pages (``- 7 -``), or stand far apart and break sentences off."""
    places, marked, broken, tail, begin = [], 0, 0, "", 0
    for part, matches in zip(parts, found, strict=True):
        for match in matches:
            places.append(begin + match.start())
            marked += bool(_PAGE_MARKS.intersection(match[1]) and _PAGE_MARKS.intersection(match[3]))
            near = part[max(0, match.start() - _BEFORE_CHARACTERS) : match.start()]
            before = (tail + near)[-_BEFORE_CHARACTERS:].rstrip()
            broken += before[-1:] not in ("", *SENTENCE_ENDS)
        tail, begin = (tail + part)[-_BEFORE_CHARACTERS:], begin + len(part)
    if marked >= _COUNTED_UP * len(places):
        return True
    apart = (places[-1] - places[0]) / (len(places) - 1)
    return apart >= _PAGE_CHARACTERS and broken >= _BROKEN_OFF * len(places)


def _without_lines(part: str, matches: Sequence[re.Match[str]]) -> str:
    pieces, at = [], 0
    for match in matches:
        pieces.append(part[at : match.start()])
        at = min(len(part), match.end() + 1)
    return "".join([*pieces, part[at:]])
