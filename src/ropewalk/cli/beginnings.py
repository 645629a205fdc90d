"""The verbs that write what a run begins with: a recipe, a base model from another format, a script for a scheduler."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ropewalk.cli.options import AsJson, Overrides, RecipeArgument, load_open, print_result
from ropewalk.core.progress import say

app = typer.Typer()


@app.command("new")
def new_command(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="A length (32Ki), domain, lora-1gpu; or a shipped recipe: qwen3-8b-128k, quickstart ...",
        ),
    ],
    model: Annotated[str | None, typer.Option(help="The base: a folder, or a name on the hub.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Your text: a file, a folder or an address. By default data/ with a folder a role."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default KIND.yaml.")] = None,
    as_json: AsJson = False,
) -> str | None:
    """Write a commented recipe for a base model, to start from."""
    from ropewalk.commands.new_recipe import new_recipe

    made = new_recipe(kind, model=model, out=out, data=data)
    print_result(made, as_json)
    if "missing" in made:
        say(f"warning: {made['missing']} is not there, seen from {Path.cwd()}: put your text there before the run")
    check = f"ropewalk check {shlex.quote(made['recipe'])}"
    return f"{check} --offline, which asks no hub; a run fetches the weights" if "offline" in made else None


@app.command("import")
def import_command(
    source: Annotated[Path, typer.Argument(metavar="GGUF", help="A .gguf file with a language model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new model folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[dtype=bfloat16]", help="Default: float32.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model folder from a quantised GGUF file; its weights are dequantised."""
    from ropewalk.commands.import_gguf import import_model

    print_result(import_model(source, out, overrides or []), as_json)


@app.command("launch")
def launch_command(
    context: typer.Context,
    scheduler: Annotated[
        str, typer.Argument(metavar="slurm|k8s|kubeflow|sky|ray", help="What starts jobs on your machines.")
    ],
    recipe: RecipeArgument,
    overrides: Overrides = None,
    nodes: Annotated[int | None, typer.Option(help="Machines that share parallel.ranks; the recipe's, or 1.")] = None,
    cpus: Annotated[int | None, typer.Option(help="Processors of a machine; 8 for each GPU, or 1 a rank.")] = None,
    memory: Annotated[
        int | None, typer.Option(help="GiB of host memory of a machine; all of it (slurm), or 64 for each GPU.")
    ] = None,
    exclusive: Annotated[
        bool, typer.Option("--exclusive/--shared", help="For slurm: whether the job has its machines alone.")
    ] = True,
    time: Annotated[str, typer.Option(help="For slurm: the time limit of each job.")] = "24:00:00",
    prepare_jobs: Annotated[
        int, typer.Option(help="For slurm: jobs that share the preparation of a large corpus, as an array.")
    ] = 1,
    image: Annotated[
        str, typer.Option(help="For k8s, kubeflow, sky: a container image with ropewalk installed.")
    ] = "ropewalk:latest",
    as_json: AsJson = False,
) -> None:
    """Print what runs a recipe on many machines and continues automatically after a preemption."""
    from ropewalk.commands.decide_open import decide_elsewhere
    from ropewalk.commands.launch import Asked, write_script

    given = overrides or []
    opened = load_open(recipe, given)
    machines = (opened.nodes or 1) if nodes is None else nodes
    settled, decided = decide_elsewhere(opened.model_copy(update={"nodes": machines}))
    asked = Asked(
        nodes=machines,
        image=image,
        cpus=cpus,
        memory_gib=memory,
        exclusive=exclusive,
        time=time,
        prepare_jobs=prepare_jobs,
    )
    typed = context.find_root().params
    options = [*(("--lang", typed["lang"]) if typed["lang"] != "en" else ()), *(["--quiet"] if typed["quiet"] else [])]
    overrides = [*given, *decided]
    script = write_script(scheduler, settled, argument=recipe, overrides=overrides, options=options, asked=asked)
    print_result(script, as_json, is_code=True)
