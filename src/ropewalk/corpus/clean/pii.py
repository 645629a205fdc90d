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
# What every match holds, beginning with a sign, so that the search jumps from sign to sign: most text has none.
_EMAIL_SIGN = re.compile(r"@(?<=[\w.+-]@)[A-Za-z0-9]", re.ASCII)
_IP_SIGN = re.compile(r"\.(?<=\d\.)\d{1,3}\.\d{1,3}\.\d", re.ASCII)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKSUMS = "10X98765432"


class _Form(NamedTuple):
    signs: tuple[str, ...]
    """A text without any of these strings is not searched."""
    expression: re.Pattern[str]
    is_real: Callable[[re.Match[str]], bool]
    placeholder: str
    held: re.Pattern[str] | None = None
    """A text without a match of this expression is not searched."""


def mask(text: str, kinds: Sequence[Personal]) -> str:
    """Replace all data of ``kinds`` in the text by the placeholder of its kind."""
    for kind in kinds:
        form = _FORMS[kind]
        if any(map(text.__contains__, form.signs)) and (form.held is None or form.held.search(text)):
            text = form.expression.sub(partial(_replace, form), text)
    return text


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


_FORMS: Mapping[Personal, _Form] = MappingProxyType(
    {
        "email": _Form(("@",), _EMAIL, lambda found: not is_machine_address(found), "name@example.com", _EMAIL_SIGN),
        "ip": _Form((".",), _IP, lambda found: not is_public_address(found), "192.0.2.1", _IP_SIGN),
        "mobile": _Form(
            tuple(f"1{digit}" for digit in range(3, 10)),
            _MOBILE,
            lambda found: not is_other_number(found),
            "13000000000",
        ),
        "identity": _Form(("19", "20"), _IDENTITY, _is_somebodys_identity, "000000000000000000"),
        "key": _Form(
            (
                "-----BEGIN",
                "AKIA",
                "ASIA",
                *(f"gh{kind}_" for kind in "pousr"),
                "github_pat_",
                "glpat-",
                "xox",
                "AIza",
                "hf_",
                "sk-",
                "eyJ",
            ),
            _KEY,
            lambda _: True,
            "[KEY]",
        ),
    }
)
