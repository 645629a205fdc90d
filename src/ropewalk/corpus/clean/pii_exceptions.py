"""Finds numbers and addresses that look like personal data and are not, by their value and the words around them.

A mask on a version, a section or a resolver changes the meaning of a text and protects no person. So a doubtful number
stays. Around a match, only a few words of its own line are read.
"""

import ipaddress
import re
from itertools import pairwise

_BEFORE, _AFTER = 48, 24
_SMALL = 32
"""Four numbers that are all below this are a version or a section. If addresses are drawn evenly, one in 4,000 is
lost."""
_SERVERS = """
1.0.0.1 1.0.0.2 1.0.0.3 1.1.1.2 1.1.1.3 8.8.4.4 9.9.9.10 149.112.112.112 208.67.222.222 208.67.220.220 208.67.222.123
208.67.220.123 4.2.2.1 4.2.2.2 4.2.2.3 4.2.2.4 4.2.2.5 4.2.2.6 64.6.64.6 64.6.65.6 94.140.14.14 94.140.15.15 77.88.8.8
77.88.8.1 185.228.168.9 185.228.169.9 76.76.2.0 76.76.10.0 84.200.69.80 84.200.70.40 114.114.115.115 114.114.114.119
223.5.5.5 223.6.6.6 119.29.29.29 180.76.76.76 1.2.4.8 210.2.4.8 101.226.4.6 168.95.1.1 168.95.192.1 198.41.0.4
199.9.14.201 192.33.4.12 199.7.91.13 192.203.230.10 192.5.5.241 192.112.36.4 198.97.190.53 192.36.148.17 192.58.128.30
193.0.14.129 199.7.83.42 202.12.27.33
"""
_KNOWN_ADDRESSES = frozenset(_SERVERS.split())
"""Public resolvers, and the root servers of the domain name system."""
_PART = (
    r"(?:(?<![A-Za-z])(?:v|vers?|versions?|rel|releases?|rev|revisions?|builds?|firmware|drivers?|kernel|patch|tag"
    r"|sections?|sec|subsections?|chapters?|ch|clauses?|subclauses?|articles?|art|paragraphs?|paras?|figures?|figs?"
    r"|tables?|tab|appendix|annex|equations?|eqs?|rules?|requirements?|req|steps?|parts?|oid)|§+"
    r"|版本号?|固件|驱动|内核|补丁|[第节章条款图表式]|附录|附件|公式)"
)
_LIST = r"(?:\d+(?:\.\d+)+\s*(?:,|and|or|to|through|[-–、和与及至到])\s*)*"
_NAMED_PART = re.compile(rf"{_PART}[ \t.:：=#\"'(（]*{_LIST}$", re.IGNORECASE)
"""Matches ``version: `` or ``sections 3.1.2.9 and `` at the end of the text before a number."""
_PACKAGE = re.compile(r"(?:[A-Za-z][-_/]|(?:[=<>~!]=|\^|~)\s?)$")
_PACKAGE_GOES_ON = re.compile(
    r"[-+_~][A-Za-z]|\.(?:tar|zip|t?gz|bz2|xz|jar|whl|exe|dll|msi|deb|rpm|so|dmg|apk|pkg|iso)\b"
)
_NETWORK = re.compile(r"/(?:[0-9]|[12][0-9]|3[01])(?!\d)")
_HEADING = re.compile(r"(?:^|\n)[ \t#>*]*$")
_TITLE = re.compile(r"[ \t.:：]+[^\W\d_]")

_MACHINE_USERS = frozenset(["git", "hg", "svn", "cvs", "bzr"])
_NO_REPLY = re.compile(r"(?:no|do-?not)[-_.]?reply", re.IGNORECASE)
_RESERVED_HOST = re.compile(
    r"(?:^|\.)(?:example\.(?:com|net|org)|example|test|invalid|localhost|local|internal|lan|home\.arpa)$", re.IGNORECASE
)
_REMOTE_PATH = re.compile(r":(?:~|/|[\w.-]+/|[\w.-]+\.git\b)")
_SCALED_IMAGE = re.compile(r"[1-9]x\.")
_FILES = """
png jpg jpeg gif webp svg bmp ico css js jsx tsx json html htm xml yaml yml txt csv cpp java whl deb rpm exe dll gz tgz
"""
_FILE_ENDINGS = frozenset(_FILES.split())

_OTHER_HAN = (
    r"(?:订单|运单|快递|物流|流水|交易|发票|合同|批次|序列|产品|商品|货|单据?|条形?码|型号|批准文)"
    r"(?:编?号码?|编码)?[为是]?[ \t]*[：:#＃=]*"
)
_OTHER_LATIN = (
    r"(?<![A-Za-z])(?:orders?|invoices?|serial|tracking|tickets?|batch|part|isbn|sku|doi|timestamp|offset|seed)"
    r"(?:[ _-]?(?:no|number|id|code))?\.?[ \t]*[:#=]*"
)
_AMOUNT = r"(?<![A-Za-z])(?:bytes?|size|total|used|free|count|length|amount)[ \t]*[:=]"
_OTHER_LABEL = re.compile(rf"(?:{_OTHER_HAN}|{_OTHER_LATIN}|{_AMOUNT}|[￥¥$€£])[ \t]*$", re.IGNORECASE)
_OTHER_UNIT = re.compile(
    r"[ \t]?(?:元(?!旦)|美元|欧元|日元|字节|比特|人次|吨|千克|公里|纳秒|微秒|毫秒"
    r"|(?:bytes?|bits?|tokens?|[kmg]?b|ns|us|ms|rows?|lines?|times|years?)\b)",
    re.IGNORECASE,
)
_KNOWN_NUMBERS = frozenset(["13800138000", "11010519491231002X"])
"""The service number of China Mobile, and the example in GB 11643, the standard for identity numbers."""


def is_public_address(found: re.Match[str]) -> bool:
    """Whether an IPv4 address belongs to no person: it is not routed, a mask or a known server. The result is also true
    for a version or a section, which is no address."""
    try:
        address = ipaddress.IPv4Address(found[0])
    except ValueError:
        return True
    numbers = [*address.packed]
    steps = {second - first for first, second in pairwise(numbers)}
    return (
        not address.is_global
        or address.is_multicast
        or str(address) in _KNOWN_ADDRESSES
        or len(steps) == 1  # 1.2.3.4, 8.8.8.8 and other examples
        or numbers[1:] == [0, 0, 0]
        or max(numbers) < _SMALL
        or _is_named_number(found, numbers)
    )


def is_machine_address(found: re.Match[str]) -> bool:
    """Whether a match of the e-mail expression is a login on a machine, an example, or the name of a file."""
    user, _, host = found[0].partition("@")
    return (
        user.lower() in _MACHINE_USERS
        or _NO_REPLY.match(user) is not None
        or _RESERVED_HOST.search(host) is not None
        or _SCALED_IMAGE.match(host) is not None
        or host.rpartition(".")[2].lower() in _FILE_ENDINGS
        or _REMOTE_PATH.match(_after(found)) is not None
    )


def is_other_number(found: re.Match[str]) -> bool:
    """Whether digits with the form of a telephone or identity number are something else, by the words around them."""
    return (
        re.sub(r"\W", "", found[0]).upper() in _KNOWN_NUMBERS
        or _OTHER_LABEL.search(_before(found)) is not None
        or _OTHER_UNIT.match(_after(found)) is not None
    )


def _is_named_number(found: re.Match[str], numbers: list[int]) -> bool:
    before, after = _before(found), _after(found)
    return (
        _NAMED_PART.search(before) is not None
        or _PACKAGE.search(before) is not None
        or _PACKAGE_GOES_ON.match(after) is not None
        or _NETWORK.match(after) is not None
        or (numbers[0] < _SMALL and _HEADING.search(before) is not None and _TITLE.match(after) is not None)
    )


def _before(found: re.Match[str]) -> str:
    return found.string[max(0, found.start() - _BEFORE) : found.start()]


def _after(found: re.Match[str]) -> str:
    return found.string[found.end() : found.end() + _AFTER]
