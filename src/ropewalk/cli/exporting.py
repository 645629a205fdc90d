"""The verb ``export``: the model folder that engines load, its check in a new process, and its upload to the hub."""

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

from ropewalk.cli.options import AsJson, load_given, print_result
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.named import is_recipe, list_recipes


def export_command(
    target: Annotated[
        Path,
        typer.Argument(metavar="RECIPE|MODEL|CHECKPOINT", help="A recipe, a model folder, or a checkpoint of a run."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OUT] [PATH=VALUE]...", help="For a checkpoint: the new folder, then dtype=float32."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare logits in a new process; print commands for engines.")
    ] = False,
    push: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Upload the folder to this repository of the hub.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push: a new repository is public; else only its owner sees it.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --push: say what would be sent; send nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the model folder for inference engines, check it in a new process, and upload it."""
    if (public or dry_run) and push is None:
        raise UserError(
            "nothing is to be uploaded",
            where="the command line",
            why="--public and --dry-run belong to --push",
            fix=f"ropewalk export {target} --push ORG/NAME",
        )
    made = _export(target, overrides or [], verify=verify, pushes=push is not None)
    if push is not None:
        from ropewalk.commands.push import push_folder

        run = Path(load_given(target, overrides).run) if is_recipe(target) else None
        sent = push_folder(Path(made["model"]), push, run=run, private=not public, dry_run=dry_run)
        made = {**made, "pushed": sent, "text": f"{made['text']}\n{sent['text']}"}
    print_result(made, as_json)


def _export(target: Path, overrides: list[str], *, verify: bool, pushes: bool) -> dict[str, Any]:
    """The result of the verb; ``model`` is the folder that was written or named."""
    from ropewalk.commands.export import export_checkpoint, is_checkpoint

    if is_recipe(target):
        return _export_recipe(target, overrides, verify=verify)
    if is_checkpoint(target) and overrides and "=" not in overrides[0] and not verify:
        return export_checkpoint(target, Path(overrides[0]), overrides[1:])
    if overrides or not (verify or pushes):
        raise UserError(
            "it is unclear what to export",
            where="the command line",
            why="a model folder is already an export, to be verified or pushed; a checkpoint needs a new folder",
            fix=f"ropewalk export {target} --verify, or ropewalk export RUN/stages/0/checkpoints/step-00000100 OUT",
        )
    named = _require_there(target)
    if not verify:
        from ropewalk.shape.find import find_model

        return {"model": str(find_model(named)), "text": str(target)}
    from ropewalk.commands.verify_export import verify_model

    return verify_model(named)


def _require_there(target: Path) -> str:
    """The name of a model folder, of the tiny base, or of a model on the hub.

    Raises UserError for a path at which nothing is, and for a run folder, whose model is one folder deeper.
    """
    run = RunFolder(target)
    if (run.export / "config.json").is_file():
        raise UserError(
            f"{target} is a run folder",
            where="the command line",
            why=f"its model is {run.export}",
            fix=f"ropewalk export {run.export}, or ropewalk export {run.recipe}",
        )
    if target.exists() or str(target) == "tiny-base" or "@" in str(target):
        return str(target)
    near = difflib.get_close_matches(str(target), list_recipes(), n=1)
    raise UserError(
        f"{target} is no recipe, model or checkpoint",
        where="the command line",
        why="there is no such file or folder, and no recipe of that name ships with ropewalk",
        fix=f"did you mean {near[0]}?" if near else "give a recipe, or the folder export of a run",
    )


def _export_recipe(target: Path, overrides: list[str], *, verify: bool) -> dict[str, Any]:
    from ropewalk.commands.run import do_part
    from ropewalk.commands.verify_export import verify_recipe

    loaded = load_given(target, overrides)
    made = verify_recipe(loaded) if verify else do_part("export", loaded)
    return {**made, "model": str(RunFolder(Path(loaded.run)).export)}
