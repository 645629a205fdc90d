"""Fetches a model of the Hugging Face hub into the hub's cache, and explains the hub's refusals."""

from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.shape.shipped import find_shipped


def is_cached(hub_id: str, revision: str) -> bool:
    """Whether an earlier download left the config.json of this revision in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "config.json", revision=revision), str)


def fetch_model(hub_id: str, revision: str, patterns: list[str], *, offline: bool) -> Path:
    """The folder of the cache with the files of a model that match ``patterns``; ``offline`` downloads nothing.

    Raises UserError where the hub refuses, cannot be reached, or (offline) the cache has no such files.
    """
    # The import takes half a second and is needed only for models that are not on this disk.
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=offline))
    except list_hub_errors() as error:
        said = str(error).strip() or type(error).__name__
        unknown = (said.splitlines()[0], "check name, revision and network, or give a folder")
        why, fix = explain_refusal(error, hub_id, revision) or unknown
        shape = f"; check and advise need the shape only: model={hub_id}; check also takes --offline"
        raise UserError(
            f"{hub_id}@{revision} cannot be fetched",
            where="model",
            why="no earlier download left it in the hub's cache (--offline)" if offline else why,
            fix=fix + (shape if find_shipped(hub_id) else ""),
        ) from None


def list_hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where the hub refuses, cannot be reached, or a cache lacks a file.

    The errors of its HTTP library are found by their name, because that library changes with its version.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    transport = [each for each in HfHubHTTPError.__mro__ if each.__name__ in ("HTTPError", "RequestException")]
    return (HfHubHTTPError, LocalEntryNotFoundError, *transport)


def explain_refusal(error: Exception, hub_id: str, revision: str | None = None) -> tuple[str, str] | None:
    """Why the hub refused ``hub_id``, and the next thing to try; None for an error that is no refusal.

    ``error`` is one of huggingface_hub, or one that such an error caused.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    causes = [error, *(each for each in (error.__cause__, error.__context__) if isinstance(each, HfHubHTTPError))]
    status = next((each.response.status_code for each in causes if isinstance(each, HfHubHTTPError)), None)
    if any(isinstance(each, GatedRepoError) for each in causes):
        return (
            "its owner gives access only to accounts that accepted the terms",
            f"open the page of {hub_id} on the hub, accept the terms, then `hf auth login` with its token",
        )
    if any(isinstance(each, RevisionNotFoundError) for each in causes):
        return f"it has no revision {revision}", f"{hub_id}@main, or a commit that its page lists"
    if any(isinstance(each, RepositoryNotFoundError) for each in causes):
        return (
            "the hub shows no such repository to this account: the name is wrong, or it is private",
            "check the spelling ORG/NAME; for a private one `hf auth login` with a token that may read it",
        )
    if status in (401, 403):
        return f"the hub refuses this account (HTTP {status})", "`hf auth login` with a token that has the right"
    if status == 429:
        return (
            "the hub has had too many requests (HTTP 429)",
            "wait some minutes, or `hf auth login` for a higher limit",
        )
    return None
