"""Basics that all rooms use: quantities, errors, digests, finished folders, records and seeds.

A folder with a manifest is finished and never written again; ``UserError`` says what is wrong, where, why, and how to
mend it; a random stream is named after its purpose. Needs no torch.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.core.artifact import find_damage as find_damage
    from ropewalk.core.artifact import is_finished as is_finished
    from ropewalk.core.artifact import new_folder as new_folder
    from ropewalk.core.artifact import read_manifest as read_manifest
    from ropewalk.core.digest import digest_file as digest_file
    from ropewalk.core.digest import digest_value as digest_value
    from ropewalk.core.error import RankError as RankError
    from ropewalk.core.error import UserError as UserError
    from ropewalk.core.quantity import format_amount as format_amount
    from ropewalk.core.quantity import format_bytes as format_bytes
    from ropewalk.core.quantity import format_length as format_length
    from ropewalk.core.record import Document as Document
    from ropewalk.core.record import Metric as Metric
    from ropewalk.core.record import Score as Score
    from ropewalk.core.record import read_metrics as read_metrics
    from ropewalk.core.record import read_scores as read_scores
    from ropewalk.core.run_folder import RunFolder as RunFolder
    from ropewalk.core.run_folder import StageFolder as StageFolder
    from ropewalk.core.seed import stream as stream
    from ropewalk.core.spec import Spec as Spec
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "artifact": ("find_damage", "is_finished", "new_folder", "read_manifest"),
            "digest": ("digest_file", "digest_value"),
            "error": ("RankError", "UserError"),
            "quantity": ("format_amount", "format_bytes", "format_length"),
            "record": ("Document", "Metric", "Score", "read_metrics", "read_scores"),
            "run_folder": ("RunFolder", "StageFolder"),
            "seed": ("stream",),
            "spec": ("Spec",),
        },
    )
