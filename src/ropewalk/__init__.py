"""Long-context continued pretraining for Hugging Face models: corpus, positions, context parallelism, proof.

A run, as the command line does it::

    recipe = ropewalk.load_recipe(Path("recipe.yaml"), ["stages.0.context_length=64Ki"])
    ropewalk.check_recipe(recipe)       # what breaks a rule, and the forecast cost
    ropewalk.run_recipe(recipe)         # corpus, positions, training, scores, export, report

Parts of it, in a program of your own::

    ropewalk.extend(base, out, rope=ropewalk.Yarn(factor=8), context_tokens=65536)     # new positions for a base
    share = ropewalk.parallelize(model, mesh["context"])                               # context parallelism
    loss = model(**share.cut(input_ids, labels)).loss

The rooms, from left to right; each imports only from those to its left:

- ``core``: errors, finished folders, digests, seeds. ``rope``: positions. ``shape``: a model's config.json.
- ``probe``: prompts with known answers. ``corpus``: from files to sequences of tokens. ``recipe``: a run as a value.
- ``partition``: which rank has which tokens. ``plan``: the forecast. All rooms up to here need no torch.
- ``attention``: exact attention over ranks. ``recurrence``: recurrent layers. ``parallel``: ranks and meshes.
- ``model``: transformers. ``checkpoint``.
- ``evaluate``: losses and retrieval. ``train``: the loop. ``report``: the page. ``commands``: the verbs.

``import ropewalk`` imports no room but one small file of ``shape``: a room, and a name below, is imported when it is
first asked for. What a user gave wrong raises ``UserError``. The documentation has a page for each room, and the
command is ``ropewalk --help``.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import ropewalk.shape.guessed as _guessed
from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk import attention as attention
    from ropewalk import checkpoint as checkpoint
    from ropewalk import commands as commands
    from ropewalk import core as core
    from ropewalk import corpus as corpus
    from ropewalk import evaluate as evaluate
    from ropewalk import model as model
    from ropewalk import parallel as parallel
    from ropewalk import partition as partition
    from ropewalk import plan as plan
    from ropewalk import probe as probe
    from ropewalk import recipe as recipe
    from ropewalk import recurrence as recurrence
    from ropewalk import report as report
    from ropewalk import rope as rope
    from ropewalk import shape as shape
    from ropewalk import train as train
    from ropewalk.attention.choose_kernel import use_kernel as use_kernel
    from ropewalk.attention.context_parallel import attend as attend
    from ropewalk.commands.check import check_recipe as check_recipe
    from ropewalk.commands.run import run_recipe as run_recipe
    from ropewalk.core.error import UserError as UserError
    from ropewalk.corpus.tokens.corpus_folder import Corpus as Corpus
    from ropewalk.corpus.tokens.corpus_folder import open_corpus as open_corpus
    from ropewalk.evaluate.evaluate import evaluate_models as evaluate_models
    from ropewalk.model.export_parity import verify_export as verify_export
    from ropewalk.model.extend import extend as extend
    from ropewalk.model.load import load_model as load_model
    from ropewalk.model.loss import chunked_cross_entropy as chunked_cross_entropy
    from ropewalk.model.parallelize import ContextParallel as ContextParallel
    from ropewalk.model.parallelize import parallelize as parallelize
    from ropewalk.model.trainer import ContextParallelTrainer as ContextParallelTrainer
    from ropewalk.model.unparallelize import unparallelize as unparallelize
    from ropewalk.partition.local_shard import local_shard as local_shard
    from ropewalk.partition.partition import Partition as Partition
    from ropewalk.partition.partition import partition_tokens as partition_tokens
    from ropewalk.plan.forecast import forecast_recipe as forecast_recipe
    from ropewalk.recipe.load import load_recipe as load_recipe
    from ropewalk.recipe.spec import Recipe as Recipe
    from ropewalk.report.page import write_report as write_report
    from ropewalk.rope.candidates import survey_candidates as survey_candidates
    from ropewalk.rope.dynamic import Dynamic as Dynamic
    from ropewalk.rope.dynamic import LongRope as LongRope
    from ropewalk.rope.resonance import Resonance as Resonance
    from ropewalk.rope.uniform import Linear as Linear
    from ropewalk.rope.uniform import Nope as Nope
    from ropewalk.rope.uniform import Ntk as Ntk
    from ropewalk.rope.uniform import Proportional as Proportional
    from ropewalk.rope.uniform import Theta as Theta
    from ropewalk.rope.uniform import Unchanged as Unchanged
    from ropewalk.rope.yarn import Llama3 as Llama3
    from ropewalk.rope.yarn import NtkByParts as NtkByParts
    from ropewalk.rope.yarn import Yarn as Yarn
    from ropewalk.shape.find import find_model as find_model
    from ropewalk.shape.read import read_shape as read_shape
    from ropewalk.train.stage import train_stage as train_stage
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "attention.choose_kernel": ("use_kernel",),
            "attention.context_parallel": ("attend",),
            "commands.check": ("check_recipe",),
            "commands.run": ("run_recipe",),
            "core.error": ("UserError",),
            "corpus.tokens.corpus_folder": ("Corpus", "open_corpus"),
            "evaluate.evaluate": ("evaluate_models",),
            "model.extend": ("extend",),
            "model.load": ("load_model",),
            "model.loss": ("chunked_cross_entropy",),
            "model.parallelize": ("ContextParallel", "parallelize"),
            "model.unparallelize": ("unparallelize",),
            "model.export_parity": ("verify_export",),
            "model.trainer": ("ContextParallelTrainer",),
            "partition.local_shard": ("local_shard",),
            "partition.partition": ("Partition", "partition_tokens"),
            "plan.forecast": ("forecast_recipe",),
            "recipe.load": ("load_recipe",),
            "recipe.spec": ("Recipe",),
            "report.page": ("write_report",),
            "rope.candidates": ("survey_candidates",),
            "rope.dynamic": ("Dynamic", "LongRope"),
            "rope.resonance": ("Resonance",),
            "rope.uniform": ("Linear", "Nope", "Ntk", "Proportional", "Theta", "Unchanged"),
            "rope.yarn": ("Llama3", "NtkByParts", "Yarn"),
            "shape.find": ("find_model",),
            "shape.read": ("read_shape",),
            "train.stage": ("train_stage",),
        },
        folders=(
            "attention", "checkpoint", "commands", "core", "corpus", "evaluate", "model", "parallel", "partition",
            "plan", "probe", "recipe", "recurrence", "report", "rope", "shape", "train",
        ),
    )  # fmt: skip


def _guess_family(name: str, config: Mapping[str, Any], where: str) -> Any:
    return import_module("ropewalk.model.guess_family").guess_family(name, config, where)


def _is_registered(name: str) -> bool:
    # A program that registered a class has imported transformers; others must not wait for it.
    return "transformers" in sys.modules and import_module("ropewalk.model.architectures").is_registered(name)


_guessed.guess_with(
    _guess_family, _is_registered
)  # reading a class needs torch, which rooms to the left of model/ must not import
