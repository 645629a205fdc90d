"""The work of each verb of the command line: the parts of a run, studies, launch scripts, questions about a model.

A verb takes a recipe or a path and returns a dict with its result, and a ``text`` for people. What needs torch runs on
forked ranks.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.commands.advise import advise_model as advise_model
    from ropewalk.commands.check import check_recipe as check_recipe
    from ropewalk.commands.corpus import export_corpus as export_corpus
    from ropewalk.commands.corpus import mix_corpus as mix_corpus
    from ropewalk.commands.corpus import report_corpus as report_corpus
    from ropewalk.commands.corpus import tokenise_recipe as tokenise_recipe
    from ropewalk.commands.export import export_checkpoint as export_checkpoint
    from ropewalk.commands.extend import extend_model as extend_model
    from ropewalk.commands.import_gguf import import_model as import_model
    from ropewalk.commands.replay import replay_skipped as replay_skipped
    from ropewalk.commands.run import do_part as do_part
    from ropewalk.commands.run import run_recipe as run_recipe
    from ropewalk.commands.sweep import run_sweep as run_sweep
    from ropewalk.commands.verify import verify_degrees as verify_degrees
    from ropewalk.commands.verify_export import verify_model as verify_model
    from ropewalk.commands.verify_export import verify_recipe as verify_recipe
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "advise": ("advise_model",),
            "check": ("check_recipe",),
            "export": ("export_checkpoint",),
            "extend": ("extend_model",),
            "import_gguf": ("import_model",),
            "replay": ("replay_skipped",),
            "corpus": ("export_corpus", "mix_corpus", "report_corpus", "tokenise_recipe"),
            "run": ("do_part", "run_recipe"),
            "sweep": ("run_sweep",),
            "verify": ("verify_degrees",),
            "verify_export": ("verify_model", "verify_recipe"),
        },
    )
