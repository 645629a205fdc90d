"""All inputs that determine a source's clean text, as a value for a digest: bytes or generator, reading, cleaning."""

import platform
from pathlib import Path
from typing import Any

import ropewalk.corpus.embedded
from ropewalk.core.digest import digest_file, digest_value
from ropewalk.corpus.clean.document import CLEANING
from ropewalk.corpus.dedup.decontaminate import Prompts
from ropewalk.corpus.prepare.pretokenized import token_files
from ropewalk.corpus.read.source import digest_files
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.profile import PROFILES


def find_origin(source: Source, *, seed: int) -> Any:
    """The origin of a source's text: digests of its files under their names in the source, a hub id, or a generator."""
    if source.tokens:
        return {name: digest_file(path) for name, path in token_files(source).items()}
    if source.embedded is None:
        return source.hub if source.hub is not None else digest_files(source)
    code = Path(ropewalk.corpus.embedded.__path__[0])
    made_by = {
        path.relative_to(code).as_posix(): digest_file(path)
        for path in sorted(code.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }
    # Some generators read the files of the running Python.
    return [source.embedded, seed, platform.python_version(), digest_value(made_by)]


def describe_text(source: Source, *, prompts: Prompts, seed: int) -> dict[str, Any]:
    """All inputs of the clean text of ``source``, as JSON data. Equal values mean equal text."""
    reading = source.model_dump(mode="json", include={"language", "text_key", "size_bytes", "faults", "options"})
    if source.join is not None and source.notes_parts:
        reading["join"] = source.join.stored
    return {
        "origin": find_origin(source, seed=seed),
        "reading": reading,
        "cleaning": [CLEANING, *_profiles(source)],
        "prompts": list(prompts.digest),
    }


def _profiles(source: Source) -> list[Any]:
    """The profiles that may clean a document: the one profile, or all profiles where the language selects one."""
    if source.profile is not None or source.role == "instruction":
        return [source.cleaning().model_dump(mode="json")]
    return [source.language, {name: profile.model_dump(mode="json") for name, profile in PROFILES.items()}]
