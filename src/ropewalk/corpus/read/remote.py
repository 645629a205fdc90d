"""Files on the network (``s3://``, ``gs://``, ``hf://``, ``https://`` and what else fsspec knows), read one at a time.

A file is copied to a temporary folder, read there by the ordinary readers, and removed, so that the disk that is used
is that of the largest file. Keys and endpoints are fsspec's: environment variables, or its own configuration files.
"""

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.core import url_to_fs

from ropewalk.core.digest import digest_file, digest_value
from ropewalk.core.error import UserError
from ropewalk.corpus.read.archive import PACKED, content_bytes, guess_content_bytes
from ropewalk.corpus.read.files import File, Kind, kind_of, sniff_kind, suffix_of, why_unread
from ropewalk.corpus.read.find_files import HIDDEN, PASSED_OVER, WILD, FoundFiles, Unread, narrow, without_files

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WEB = ("http://", "https://")
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "sha256", "blob_id", "checksum")
"""What stores call the digest of a file that they know without a download."""
_HEAD_BYTES = 1 << 20
"""What is read of a file without a suffix to tell what it holds."""
_LIBRARIES = ("botocore.exceptions.BotoCoreError", "aiohttp.ClientError", "google.auth.exceptions.GoogleAuthError")
"""Errors of the stores' own libraries that are no OSError. They exist only where such a library was imported."""


def is_remote(path: str) -> bool:
    """Whether a path is an address on the network."""
    return _ADDRESS.match(path) is not None


def find_remote_files(path: str, *, code: bool, where: str) -> FoundFiles:
    """The files of an address: a file, a folder or a glob, as ``find_files`` finds them on a disk.

    Raises UserError where none is read, where the store cannot be reached, and where its library is missing.
    """
    asked = ""
    with _reachable(path, where):
        system, named = _connect(path)
        if WILD.search(named) and not path.startswith(_WEB):  # there, ``?`` begins a query
            sizes = {name: held["size"] for name, held in system.glob(named, detail=True).items() if _is_file(held)}
            named = named[: WILD.search(named).start()].rpartition("/")[0]  # type: ignore[union-attr]
        elif system.isfile(named):
            sizes, asked = {named: system.info(named)["size"]}, _without_query(named)
            named = asked.rpartition("/")[0]
        else:
            sizes = {name: held["size"] for name, held in system.find(named, detail=True).items() if _is_file(held)}
    root = Path(named)
    paths = {Path(asked or name): name for name in sizes}
    passed = {path: found for path in paths if (found := _passed_over(PurePosixPath(path.relative_to(root))))}
    kinds = {path: None if path in passed else kind_of(path, code=code) for path in paths}
    unnamed = [each for each, kind in kinds.items() if each not in passed and suffix_of(each) in ("", *PACKED)]
    with _reachable(path, where):
        kinds |= {each: _sniff(system, paths[each], each) for each in unnamed}
    if asked:  # a file that is named by itself is taken for text, as on a disk
        kinds |= {each: kinds[each] or "text" for each in unnamed}
    if code:
        kinds = narrow(kinds)
    counts = Counter(
        passed.get(each) or (suffix_of(each) or "(no suffix)", why_unread(each, code=code))
        for each, kind in kinds.items()
        if kind is None
    )
    unread = tuple(Unread(sort, why, count) for (sort, why), count in sorted(counts.items()))
    files = [
        File(
            each,
            each.relative_to(root).as_posix(),
            kind,
            shown=_address_of(system, paths[each]),
            remote_bytes=sizes[paths[each]] or 0,
        )
        for each, kind in kinds.items()
        if kind is not None
    ]
    if not files:
        raise without_files("no such file or folder at the address", unread, where=f"{where}: {path}")
    return FoundFiles(root, tuple(sorted(files, key=lambda file: Path(file.name))), unread)


@contextmanager
def local_copy(file: File) -> Iterator[File]:
    """The file itself where it is on this machine, else a copy of it that lies here as long as the context lasts."""
    if not file.is_remote:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="ropewalk-copy-") as folder:
        here = Path(folder) / file.path.name
        with _reachable(file.shown, "a source"):
            system, name = _connect(file.shown)
            system.get_file(name, str(here))
        if file.remote_bytes and here.stat().st_size != file.remote_bytes:
            raise UserError(
                "a file was not copied as a whole",
                where=file.shown,
                why=f"{here.stat().st_size:,} of {file.remote_bytes:,} bytes arrived",
                fix="start again; if it stays so, the file changes while it is read",
            )
        yield replace(file, path=here, remote_bytes=-1)


def digest_content(file: File) -> str:
    """The digest of a file's bytes; for a remote file, of its store's own digest or version where the store has one."""
    if not file.is_remote:
        return digest_file(file.path)
    with _reachable(file.shown, "a source"):
        system, name = _connect(file.shown)
        info = system.info(name)
    tags = {key: str(info[key]) for key in _TAGS if info.get(key)}
    if tags:
        return digest_value({**tags, "size": info["size"]})
    with local_copy(file) as here:
        return digest_file(here.path)


def content_bytes_of(file: File) -> int:
    """The size of a file after decompression, in bytes, guessed where it is not known."""
    return guess_content_bytes(file.path, file.remote_bytes) if file.is_remote else content_bytes(file.path)


def _sniff(system: Any, name: str, path: Path) -> Kind | None:
    """How a file without a suffix is read, by its first bytes."""
    with tempfile.TemporaryDirectory(prefix="ropewalk-head-") as folder:
        head = Path(folder) / path.name
        with system.open(name, "rb") as file:
            head.write_bytes(file.read(_HEAD_BYTES))
        return sniff_kind(head)


def _without_query(address: str) -> str:
    """The part of an address that names the file: without ``?download=true`` and the like on the web."""
    return address.partition("?")[0] if address.startswith(_WEB) else address


def _connect(address: str) -> tuple[Any, str]:
    system, name = url_to_fs(address)
    return system, str(name)


def _address_of(system: Any, name: str) -> str:
    """The address of a file by its name in a store. A name on the web is its address; a path would lose a slash."""
    return name if is_remote(name) else str(system.unstrip_protocol(name))


def _is_file(held: dict[str, Any]) -> bool:
    return str(held["type"]) == "file"


def _passed_over(name: PurePosixPath) -> tuple[str, str] | None:
    if any(part.startswith(".") for part in name.parts):
        return "(hidden)", HIDDEN
    inside = next((part for part in name.parts[:-1] if part in PASSED_OVER), None)
    return None if inside is None else (f"(in {inside})", "a folder of packages or caches")


@contextmanager
def _reachable(address: str, where: str) -> Iterator[None]:
    """Raise UserError where the store's library is missing, or where it does not answer."""
    try:
        yield
    except ImportError as fault:
        raise UserError(
            "a network address needs another library",
            where=f"{where}: {address}",
            why=str(fault),
            fix="install it, or copy the files to a folder on this machine and give that path",
        ) from None
    except _store_errors() as error:
        raise UserError(
            "a network address cannot be read",
            where=f"{where}: {address}",
            why=(str(error).splitlines() or [type(error).__name__])[0],
            fix="check the address, the network and the credentials of the store, or copy the files to a folder on "
            "this machine and give that path",
        ) from error


def _store_errors() -> tuple[type[Exception], ...]:
    named = [name.rpartition(".") for name in _LIBRARIES]
    own = (getattr(sys.modules[module], name) for module, _, name in named if module in sys.modules)
    return (OSError, ValueError, *own)
