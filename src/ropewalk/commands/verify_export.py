"""``ropewalk export --verify``: checks that others get the same logits from a folder. It shows how to serve it, too."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.commands.run import do_part
from ropewalk.core.quantity import format_count
from ropewalk.core.read_json import read_written
from ropewalk.core.run_folder import RunFolder
from ropewalk.model.engines import LOADER, describe_commands, find_commands, is_native
from ropewalk.parallel.torchrun import is_started
from ropewalk.recipe.spec import Recipe
from ropewalk.shape.find import find_model

if TYPE_CHECKING:
    from ropewalk.model.export_parity import Generated


def verify_model(model: str) -> dict[str, Any]:
    """Reload a model folder in a fresh process and compare logits. Raises UserError where they differ."""
    from ropewalk.model.export_parity import verify_both

    folder = find_model(model)
    return _describe(folder, *verify_both(folder))


def verify_recipe(recipe: Recipe) -> dict[str, Any]:
    """Export the recipe's trained model if that is not done, and verify it; the export's own comparison is enough."""
    from ropewalk.model.export_parity import verify_both, verify_generation
    from ropewalk.parallel.device import name_device

    folder, device = RunFolder(Path(recipe.run)), name_device(recipe.parallel.device)
    known = folder.parity.exists()
    made = do_part("export", recipe)["made"]
    stored = read_written(folder.parity, lambda found: {int(place): value for place, value in found.items()})
    ranks = 1 if is_started() else recipe.parallel.ranks
    if known:
        return {"made": made, **_describe(folder.export, *verify_both(folder.export, device=device, ranks=ranks))}
    generated = verify_generation(folder.export, device=device, ranks=ranks)
    return {"made": made, **_describe(folder.export, stored, generated)}


def _describe(folder: Path, differences: Mapping[int, float], generated: "Generated | None") -> dict[str, Any]:
    native = is_native(folder)
    peer = "plain transformers" if native else LOADER.replace(":", ".")
    lines = [f"{folder}: logits in a fresh process, {peer}", "", "  position   difference, relative to their norm"]
    lines += [f"{place:>10}   {difference:.1e}" for place, difference in sorted(differences.items())]
    if generated is not None:
        lines.append(
            f"{format_count(generated.written_tokens, 'token')} generated after a prompt of {generated.prompt_tokens}: "
            f"{generated.difference:.1e}"
        )
    return {
        "model": str(folder),
        "native": native,
        "differences": dict(differences),
        "generated": None if generated is None else asdict(generated),
        "engines": [asdict(serving) for serving in find_commands(folder)],
        "text": "\n".join([*lines, "", describe_commands(folder)]),
    }
