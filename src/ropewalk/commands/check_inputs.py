"""What a recipe starts from, for ``ropewalk check``: model, mix, text, packages and disk, as lines and as findings.

Text on this machine is sampled (corpus/inspect/sample.py), so `check` takes seconds, however large the corpus is. A
source whose files are not there has no sample; its path is told elsewhere.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ropewalk.core.artifact import is_finished
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_amount, format_bytes, format_count, format_length
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.inspect.sample import SourceSample, sample_source
from ropewalk.corpus.prepare.joined import check_tokens
from ropewalk.corpus.read.remote import is_remote
from ropewalk.corpus.spec import Source
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer
from ropewalk.plan.disk import count_run_bytes, count_store_bytes
from ropewalk.recipe.check import base_context
from ropewalk.recipe.check_data import check_data
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.lora import require_peft
from ropewalk.recipe.missing_paths import is_there
from ropewalk.recipe.parallel import require_moments_kernel
from ropewalk.recipe.spec import ModelSource, Recipe
from ropewalk.recipe.trackers import require_trackers
from ropewalk.shape.find import TINY_BASE, find_model
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.shipped import find_shipped

_TOKEN_BYTES = {"zh": 4.5, "code": 3.3}
"""Bytes of text of one token where the base's tokenizer is not here, by language; any other language has 4.3."""
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "hf": "huggingface_hub", "https": "aiohttp"}
"""The library that fsspec needs for an address."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a recipe starts from: ``lines`` for people, and what is wrong with it."""

    lines: tuple[str, ...]
    findings: tuple[Finding, ...]


def look_at_inputs(recipe: Recipe, shape: ModelShape | None) -> Inputs:
    """Look at the inputs of ``recipe``, of which no count is open; ``shape`` is the base's, None without one."""
    findings = list(_find_missing_packages(recipe))
    lines = [f"{'model':<11} {_describe_model(recipe, shape)}"]
    mixes = [recipe.mix(stage) for stage in recipe.stages]
    for index, mix in enumerate(mixes):
        if index == 0 or mix != mixes[index - 1]:
            told = ", ".join(f"{key} {weight / sum(mix.values()):.0%}" for key, weight in mix.items())
            lines.append(f"{'mix':<11} {told}" + (f" (from stage {index})" if index else ""))
    corpus, tokens = RunFolder(Path(recipe.run)).corpus, 0.0
    if is_finished(corpus):
        built = open_corpus(corpus)
        for name in built.sources:
            facts = built.facts(name)
            told = f"{format_count(facts.documents, 'document')}, {format_amount(facts.tokens)} tokens, prepared"
            lines.append(f"{'text':<11} {name}: {told}")
    else:
        samples, faults = _sample_all(recipe)
        tokenizer = _find_tokenizer(recipe)
        token_bytes = {name: _measure_token(sample, recipe, tokenizer) for name, sample in samples.items()}
        lines += [f"{'text':<11} {line}" for line in _describe_text(recipe, samples, token_bytes)]
        if tokenizer is not None:
            faults += _find_missing_tokens(recipe, tokenizer)
        findings += [*faults, *check_data(recipe, samples, token_bytes, base_context(recipe, shape))]
        tokens = sum(sample.text_bytes / token_bytes[name] for name, sample in samples.items())
    if shape is not None:
        needs, lacks = _weigh_disk(recipe, shape, tokens)
        lines.append(f"{'disk':<11} {needs}")
        findings += lacks
    return Inputs(tuple(lines), tuple(findings))


def has_weights(recipe: Recipe) -> bool:
    """Whether a run of ``recipe`` could begin on this machine: its base is here with weights, or it needs none."""
    if isinstance(recipe.model, ModelSource):
        return True
    folder = TINY_BASE if recipe.model == "tiny-base" else Path(recipe.model)
    return any(folder.glob("*.safetensors"))


def take_offline(recipe: Recipe) -> Recipe:
    """``recipe`` with its base as a folder of this machine: of the hub's cache, else the shape that ropewalk ships.

    Raises UserError where there is neither.
    """
    if isinstance(recipe.model, ModelSource):
        return recipe
    found, name = find_model(recipe.model, config_only=True, offline=True), recipe.model.partition("@")[0]
    return recipe.model_copy(update={"model": name if found == find_shipped(name) else str(found)})


def _describe_model(recipe: Recipe, shape: ModelShape | None) -> str:
    if shape is None or isinstance(recipe.model, ModelSource):
        return "random weights (init)"
    size = f"{format_amount(shape.parameters)} parameters in {format_count(shape.layers, 'layer')}"
    return f"{recipe.model}: {shape.architecture}, {size}, reads {format_length(shape.context_tokens)} tokens"


def _sample_all(recipe: Recipe) -> tuple[dict[str, SourceSample], list[Finding]]:
    """A sample of each source that has one, and a finding for each whose text cannot be read."""
    found, faults = dict[str, SourceSample](), list[Finding]()
    for index, source in enumerate(recipe.corpus.sources):
        if source.path is None or not is_there(source.path):
            continue
        try:
            sample = sample_source(source, seed=recipe.corpus_seed)
        except UserError as error:
            key, what = f"corpus.sources.{index}", f"{error.what}: {error.why}"
            faults.append(Finding("error", key, what, error.where, error.fix))
        else:
            if sample is not None:
                found[source.name] = sample
    return found, faults


def _find_missing_tokens(recipe: Recipe, tokenizer: Tokenizer) -> Iterator[Finding]:
    for index, source in enumerate(recipe.corpus.sources):
        try:
            check_tokens(source, tokenizer)
        except UserError as error:
            key = f"corpus.sources.{index}.fill_in_middle"
            yield Finding("error", key, f"{error.what}: {error.why}", error.where, error.fix)


def _find_tokenizer(recipe: Recipe) -> Tokenizer | None:
    """The tokenizer of a base whose folder is on this machine; None for all others, which are not fetched for this."""
    if isinstance(recipe.model, ModelSource):
        return None
    folder = TINY_BASE if recipe.model == "tiny-base" else Path(recipe.model)
    return load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None


def _measure_token(sample: SourceSample, recipe: Recipe, tokenizer: Tokenizer | None) -> float:
    """Bytes of text of a token in a source: measured on its beginning where there is a tokenizer, else assumed."""
    if tokenizer is not None and sample.excerpt:
        return max(1.0, len(sample.excerpt.encode()) / max(1, len(tokenizer.encode(sample.excerpt))))
    source = next(each for each in recipe.corpus.sources if each.name == sample.source)
    return _TOKEN_BYTES.get("code" if source.is_code else source.language or "", 4.3)


def _describe_text(
    recipe: Recipe, samples: Mapping[str, SourceSample], token_bytes: Mapping[str, float]
) -> Iterator[str]:
    target, unseen = max(stage.context_length for stage in recipe.stages), dict[str, list[str]]()
    for source in recipe.corpus.sources:
        if source.name not in samples:
            unseen.setdefault(_say_unseen(source), []).append(source.name)
            continue
        sample, each = samples[source.name], token_bytes[source.name]
        amount = f"{format_count(sample.files, 'file')}, about {format_amount(sample.text_bytes / each)} tokens"
        if not sample.lengths:
            yield f"{source.name}: {amount}; no document was found in the part that was read"
            continue
        long, share = sample.count_long(target * each), sample.share_in_long(target * each)
        seen = f"{format_count(len(sample.lengths), 'document')}" + ("" if sample.whole else " that were read")
        yield f"{source.name}: {amount}; {long:,} of {seen} have {format_length(target)}, {share:.0%} of the text"
    yield from (f"{why}: {', '.join(names)}" for why, names in unseen.items())


def _say_unseen(source: Source) -> str:
    """Why there is no sample of a source, in words that several sources share."""
    if source.embedded is not None:
        return "made by ropewalk"
    if source.hub is not None:
        return "on the hub, read when the corpus is prepared"
    assert source.path is not None
    if is_remote(source.path):
        return "on the network, read when the corpus is prepared"
    if not is_there(source.path):
        return "not on this machine"
    return "tokens" if source.tokens else "cannot be measured before the corpus is prepared"


def _find_missing_packages(recipe: Recipe) -> Iterator[Finding]:
    """A warning for each package that the recipe needs and this Python lacks; the machine that trains may have it."""
    try:
        require_trackers(recipe.trackers)
    except UserError as error:
        yield Finding("warning", "trackers", f"{error.what} here", error.why, error.fix)
    if any(stage.lora is not None for stage in recipe.stages):
        try:
            require_peft()
        except UserError as error:
            yield Finding("warning", "stages: lora", f"{error.what}, which is not here", error.why, error.fix)
    try:
        require_moments_kernel(recipe.parallel.moments_kernel)
    except UserError as error:
        yield Finding("warning", error.where, f"{error.what}, which is not here", error.why, error.fix)
    wanted = {"corpus.workers": "ray"} if recipe.corpus.workers == "ray" else {}
    for index, source in enumerate(recipe.corpus.sources):
        if source.hub is not None:
            wanted[f"corpus.sources.{index}.hub"] = "datasets"
        elif source.path is not None and is_remote(source.path):
            library = _PACKAGES.get(source.path.partition("://")[0])
            wanted |= {} if library is None else {f"corpus.sources.{index}.path": library}
    for key, package in wanted.items():
        if find_spec(package) is None:
            message = f"it needs the package {package}, which is not installed here"
            yield Finding("warning", key, message, "packages", f"pip install {package} where the text is prepared")


def _weigh_disk(recipe: Recipe, shape: ModelShape, tokens: float) -> tuple[str, list[Finding]]:
    """A line on the disk that the run needs, and a finding where it is not free and the run could begin here."""
    run, store = count_run_bytes(recipe, shape), count_store_bytes(tokens, shape.vocabulary)
    needed = {"run": (Path(recipe.run), run), "corpus.store": (Path(recipe.corpus.store), store)}
    told, lacks = [], list[Finding]()
    for key, (folder, size) in needed.items():
        free = shutil.disk_usage(_find_existing(folder)).free
        if size:
            told.append(f"{folder}: up to {format_bytes(size)}, {format_bytes(free)} are free here")
        if size > free and has_weights(recipe):
            message = f"{folder} needs up to {format_bytes(size)}, and {format_bytes(free)} are free"
            fix = f"{key}=FOLDER on a larger disk" + (", or save_total_limit: 1" if key == "run" else "")
            lacks.append(Finding("warning", key, message, "plan/disk", fix))
    one, other = (_find_existing(folder) for folder, _ in needed.values())
    free = shutil.disk_usage(one).free
    if not lacks and has_weights(recipe) and one.stat().st_dev == other.stat().st_dev and run + store > free:
        message = (
            f"{recipe.run} and {recipe.corpus.store} lie on one disk and need up to {format_bytes(run + store)} "
            f"together, and {format_bytes(free)} are free"
        )
        lacks.append(
            Finding("warning", "run", message, "plan/disk", "run=FOLDER or corpus.store=FOLDER on another disk")
        )
    return "; ".join(told), lacks


def _find_existing(folder: Path) -> Path:
    whole = folder.absolute()
    return next(each for each in (whole, *whole.parents) if each.exists())
