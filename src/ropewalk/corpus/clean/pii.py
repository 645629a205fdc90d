"""Masks personal data and secrets in text: addresses, numbers that identify a person, keys that give access.

Every kind has a check beside its form, because many digits only look like such data. An identity number must hold a
valid date and checksum. The address or number of a machine, a version or a section belongs to no person and stays
(pii_exceptions.py). Placeholders have the same form and belong to no person (RFC 2606, RFC 5737), so that a model
learns the form and no personal data.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from ropewalk.corpus.clean.pii_exceptions import is_machine_address, is_other_number, is_public_address
from ropewalk.corpus.text.profile import Personal

_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w-])", re.ASCII)  # fmt: skip  # noqa: E501
# Each expression begins with a digit and looks back only after it, so that the search can jump from digit to digit.
_IP = re.compile(r"\d(?<![\w.]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\w|\.\d)", re.ASCII)
_MOBILE = re.compile(
    r"1(?:(?<![\w.]1)|(?<=\+861)|(?<=86[ -]1))[3-9]\d(?:\d{8}|-\d{4}-\d{4}| \d{4} \d{4})(?!\w|\.\d)", re.ASCII
)
_IDENTITY = re.compile(r"[1-8](?<![\w.]\d)\d{5}(?:19|20)\d{9}[\dXx](?!\w)", re.ASCII)
_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[\s\S]{0,10000}?-----END (?:[A-Z]+ )*PRIVATE KEY-----"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[0-9A-Za-z]{36,255}\b|\bgithub_pat_\w{60,255}\b|\bglpat-[\w-]{20,64}"
    r"|\bxox[abprs]-[0-9A-Za-z-]{20,255}|\bAIza[\w-]{35}\b|\bhf_[A-Za-z]{34}\b"
    r"|\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{32,200}\b|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}",
    re.ASCII,
)
_SIGNS: Mapping[Personal, Mapping[str, str]] = {
    "email": {"@": r"(?<=[\w.+-]@)[A-Za-z0-9]"},
    "ip": {".": r"(?<=\d\.)\d{1,3}\.\d{1,3}\.\d"},
    "mobile": {f"1{digit}": "" for digit in range(3, 10)},
    "identity": {"19": r"(?<=\d{6}19)\d{9}", "20": r"(?<=\d{6}20)\d{9}"},
    "key": {
        "-----BEGIN": r" (?:[A-Z]+ )*PRIVATE KEY",
        "AKIA": r"[0-9A-Z]{16}",
        "ASIA": r"[0-9A-Z]{16}",
        **{f"gh{kind}_": r"[0-9A-Za-z]{36}" for kind in "pousr"},
        "github_pat_": r"\w{60}",
        "glpat-": r"[\w-]{20}",
        "xox": r"[abprs]-[0-9A-Za-z-]{20}",
        "AIza": r"[\w-]{35}",
        "hf_": r"[A-Za-z]{34}",
        "sk-": r"[A-Za-z0-9_-]{32}",
        "eyJ": r"[\w-]{10}",
    },
}
"""For each kind the signs that its matches hold, one of them in each match, with an expression for what follows it. It
begins with the sign, so that the search jumps from sign to sign: most text has none."""
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKSUMS = "10X98765432"


class _Form(NamedTuple):
    expression: re.Pattern[str]
    is_real: Callable[[re.Match[str]], bool]
    placeholder: str
    signs: Mapping[str, re.Pattern[str]]
    """A text without any of these strings, or without any match of their expressions, is not searched."""


def mask(text: str, kinds: Sequence[Personal]) -> str:
    """Replace all data of ``kinds`` in the text by the placeholder of its kind."""
    for kind in kinds:
        form = _FORMS[kind]
        if any(map(text.__contains__, form.signs)) and _holds_sign(text, form.signs):
            text = form.expression.sub(partial(_replace, form), text)
    return text


def _holds_sign(text: str, signs: Mapping[str, re.Pattern[str]]) -> bool:
    return any(sign in text and around.search(text) for sign, around in signs.items())


def _replace(form: _Form, found: re.Match[str]) -> str:
    return form.placeholder if form.is_real(found) else found[0]


def is_identity_number(text: str) -> bool:
    """Whether 18 characters are a Chinese identity number: they hold a date of birth and the checksum of GB 11643."""
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, text, strict=False))
    return born.year >= 1900 and _CHECKSUMS[total % 11] == text[17].upper()


def _is_somebodys_identity(found: re.Match[str]) -> bool:
    return is_identity_number(found[0]) and not is_other_number(found)


def _make_form(
    kind: Personal, expression: re.Pattern[str], is_real: Callable[[re.Match[str]], bool], placeholder: str
) -> _Form:
    signs = {sign: re.compile(re.escape(sign) + after, re.ASCII) for sign, after in _SIGNS[kind].items()}
    return _Form(expression, is_real, placeholder, MappingProxyType(signs))


_FORMS: Mapping[Personal, _Form] = MappingProxyType(
    {
        "email": _make_form("email", _EMAIL, lambda found: not is_machine_address(found), "name@example.com"),
        "ip": _make_form("ip", _IP, lambda found: not is_public_address(found), "192.0.2.1"),
        "mobile": _make_form("mobile", _MOBILE, lambda found: not is_other_number(found), "13000000000"),
        "identity": _make_form("identity", _IDENTITY, _is_somebodys_identity, "000000000000000000"),
        "key": _make_form("key", _KEY, lambda _: True, "[KEY]"),
    }
)
