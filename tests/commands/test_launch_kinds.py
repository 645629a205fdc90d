"""The files for Kubernetes, Kubeflow, SkyPilot and Ray have the fields that their schemas know, and mean what they say.

The schemas are the parts of batch/v1, core/v1, trainer.kubeflow.org/v1alpha1 and jobset.x-k8s.io that a job of ours
uses, written down by hand: the names and kinds of fields, and the rules that a server checks beside them.
"""

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml

from ropewalk.cli.main import main
from ropewalk.commands.launch import Asked, write_script
from ropewalk.core.error import UserError
from ropewalk.core.progress import set_quiet
from ropewalk.core.translate import set_language
from ropewalk.recipe.spec import Recipe

QUANTITY = {"type": "string", "pattern": r"^[0-9]+(Gi|Mi)?$"}
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}


def fields(needed: str = "", **properties: Any) -> dict[str, Any]:
    """An object that has no other fields than these."""
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "required": needed.split(),
    }


def each(item: Any, least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": least}


RESOURCES = fields(
    "requests limits",
    requests={"type": "object", "additionalProperties": QUANTITY},
    limits={"type": "object", "additionalProperties": QUANTITY},
)
STRING, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
CONTAINER = fields(
    "name image command args resources volumeMounts",
    name=NAME,
    image=STRING,
    workingDir=STRING,
    command=each(STRING),
    args=each(STRING),
    env=each(fields("name value", name=STRING, value=STRING)),
    resources=RESOURCES,
    volumeMounts=each(fields("name mountPath", name=NAME, mountPath=STRING)),
)
VOLUME = fields(
    "name",
    name=NAME,
    persistentVolumeClaim=fields("claimName", claimName=STRING),
    emptyDir=fields(medium={"enum": ["", "Memory"]}, sizeLimit=QUANTITY),
)
POD = fields(
    "restartPolicy containers",
    restartPolicy={"const": "Never"},  # a podFailurePolicy needs it
    terminationGracePeriodSeconds=COUNT,
    subdomain=NAME,
    initContainers=each(CONTAINER),
    containers=each(CONTAINER),
    volumes=each(VOLUME),
)
CODES = fields(
    "operator values",
    containerName=NAME,
    operator={"enum": ["In", "NotIn"]},
    values=each({"type": "integer", "not": {"const": 0}}),
)
RULE = fields(
    "action",
    action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
    onExitCodes=CODES,
    onPodConditions=each(fields("type status", type=STRING, status={"enum": ["True", "False", "Unknown"]})),
) | {"minProperties": 2, "maxProperties": 2}
JOB_SPEC = fields(
    "template",
    completions=COUNT,
    parallelism=COUNT,
    completionMode={"enum": ["NonIndexed", "Indexed"]},
    backoffLimit=COUNT,
    podFailurePolicy=fields("rules", rules=each(RULE)),
    template=fields("spec", spec=POD),
)
METADATA = fields("name", name=NAME)
REPLICATED = fields(
    "name template",
    name=NAME,
    replicas=COUNT,
    dependsOn=each(fields("name status", name=NAME, status={"enum": ["Ready", "Complete"]})),
    template=fields(
        "spec",
        metadata=fields(labels={"type": "object", "additionalProperties": STRING}),
        spec=JOB_SPEC,
    ),
)
POLICY = fields("numNodes torch", numNodes=COUNT, torch=fields(numProcPerNode={"type": ["integer", "string"]}))
SERVICE = fields(
    "selector",
    clusterIP={"const": "None"},
    publishNotReadyAddresses={"type": "boolean"},
    selector={"type": "object", "additionalProperties": STRING},
)
SPECS = {
    ("batch/v1", "Job"): JOB_SPEC,
    ("v1", "Service"): SERVICE,
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): fields(
        "mlPolicy template", mlPolicy=POLICY, template=fields("spec", spec=fields(replicatedJobs=each(REPLICATED)))
    ),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): fields(
        "runtimeRef trainer",
        runtimeRef=fields("name kind", name=NAME, kind=STRING, apiGroup=STRING),
        trainer=fields(numNodes=COUNT, numProcPerNode=COUNT),
    ),
}


def on_gpus(recipe: Recipe, **changes: Any) -> Recipe:
    parallel = recipe.parallel.model_copy(update={"device": "cuda"})
    return recipe.model_copy(update={"parallel": parallel, "hardware": "h100-sxm x 8", **changes})


def write(kind: str, recipe: Recipe, *, overrides: tuple[str, ...] = ("seed=2",), **asked: Any) -> str:
    arguments = Path("my recipe.yaml")
    made = write_script(kind, recipe, argument=arguments, overrides=[*overrides], asked=Asked(nodes=2, **asked))
    return str(made["script"])


def read(text: str) -> dict[str, dict[str, Any]]:
    """The documents of a file by kind and name, each held against its schema."""
    found = {}
    for document in yaml.safe_load_all(text):
        kind = (document["apiVersion"], document["kind"])
        whole = fields("apiVersion kind metadata spec", apiVersion={}, kind={}, metadata=METADATA, spec=SPECS[kind])
        jsonschema.validate(document, whole)
        found[f"{document['kind']} {document['metadata']['name']}"] = document["spec"]
    return found


def hold_pods(spec: dict[str, Any], *, gpus: int) -> str:
    """Check what every job of ours must have; return the script of its container."""
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert int(container["resources"]["limits"].get("nvidia.com/gpu", "0")) == gpus
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted <= {volume["name"] for volume in pod["volumes"]}
    fails, goes_on, disrupted, *_ = spec["podFailurePolicy"]["rules"]
    assert fails["action"] == "FailJob" and fails["onExitCodes"]["values"] == [2, 3, 4]
    assert goes_on["action"] == "Ignore" and goes_on["onExitCodes"]["values"] == [75]
    assert all(rule["onExitCodes"]["containerName"] == container["name"] for rule in (fails, goes_on))
    assert disrupted["action"] == "Ignore" and disrupted["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert pod["terminationGracePeriodSeconds"] == 300
    script = str(container["args"][0])
    assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0
    return script


def test_a_plain_indexed_job_needs_no_operator(recipe: Recipe) -> None:
    found = read(write("k8s", on_gpus(recipe, run="runs/Big One"), image="me/rope:1", cpus=12, memory_gib=100))
    assert list(found) == ["Job ropewalk-big-one-prepare", "Service ropewalk-big-one", "Job ropewalk-big-one"]
    prepare = hold_pods(found["Job ropewalk-big-one-prepare"], gpus=0)
    assert prepare == "exec ropewalk prepare 'my recipe.yaml' seed=2 --mark-failure\n"
    job = found["Job ropewalk-big-one"]
    script = hold_pods(job, gpus=1)
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"] == 2
    assert job["template"]["spec"]["subdomain"] == "ropewalk-big-one"
    assert found["Service ropewalk-big-one"]["selector"] == {"batch.kubernetes.io/job-name": "ropewalk-big-one"}
    assert "--rdzv-endpoint=ropewalk-big-one-0.ropewalk-big-one:29500" in script
    assert "--nnodes=2 --nproc-per-node=1" in script and "ropewalk run 'my recipe.yaml' seed=2" in script
    (wait,) = job["template"]["spec"]["initContainers"]
    assert wait["args"][0].endswith("exec ropewalk corpus wait 'my recipe.yaml' seed=2 --seconds 86400\n")
    *_, waited = job["podFailurePolicy"]["rules"]
    assert waited == {
        "action": "FailJob",
        "onExitCodes": {"containerName": wait["name"], "operator": "In", "values": [2]},
    }
    limits = job["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "12", "memory": "100Gi", "nvidia.com/gpu": "1"}


def play(command: list[str], folder: Path) -> subprocess.Popen[str]:
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PATH": path}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_preparation_that_is_stopped_saves_first(recipe: Recipe, tmp_path: Path) -> None:
    """Kubernetes signals the first process of a pod, so that must be the verb and no shell."""
    (tmp_path / "ropewalk").write_text("#!/bin/sh\ntrap 'exit 75' TERM\necho ready\nwhile :; do sleep 0.02; done\n")
    (tmp_path / "ropewalk").chmod(0o755)
    pods = [spec["template"]["spec"] for name, spec in read(write("k8s", on_gpus(recipe))).items() if "Job" in name]
    for container in (pods[0]["containers"][0], pods[1]["initContainers"][0]):
        job = play([*container["command"], *map(expand_arguments, container["args"])], tmp_path)
        assert job.stdout is not None and job.stdout.readline() == "ready\n"
        job.send_signal(signal.SIGTERM)
        job.communicate(timeout=60)
        assert job.returncode == 75


def test_a_train_job_holds_no_gpu_while_it_prepares(recipe: Recipe) -> None:
    found = read(write("kubeflow", on_gpus(recipe, run="runs/big")))
    runtime, job = found["TrainingRuntime ropewalk-big"], found["TrainJob ropewalk-big"]
    prepare, node = runtime["template"]["spec"]["replicatedJobs"]
    assert node["dependsOn"] == [{"name": prepare["name"], "status": "Complete"}]
    assert node["name"] == node["template"]["spec"]["template"]["spec"]["containers"][0]["name"] == "node"
    assert node["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    hold_pods(prepare["template"]["spec"], gpus=0)
    assert '--rdzv-endpoint="$PET_MASTER_ADDR":29500' in hold_pods(node["template"]["spec"], gpus=1)
    assert job["runtimeRef"]["name"] == "ropewalk-big" and job["runtimeRef"]["kind"] == "TrainingRuntime"
    assert job["trainer"] == {"numNodes": 2, "numProcPerNode": 1} and runtime["mlPolicy"]["numNodes"] == 2


def test_a_task_of_skypilot_names_the_devices(recipe: Recipe) -> None:
    task = yaml.safe_load(write("sky", on_gpus(recipe, run="runs/big"), image="me/rope:1"))
    assert task["num_nodes"] == 2 and task["resources"]["accelerators"] == "H100:1"
    assert task["resources"]["cpus"] == "8+" and task["resources"]["image_id"] == "docker:me/rope:1"
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert subprocess.run(["sh", "-n", "-c", task["run"]], check=False).returncode == 0
    on_cpus = recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update={"device": "cpu"})})
    assert "accelerators" not in yaml.safe_load(write("sky", on_cpus))["resources"]


def test_on_skypilot_no_torchrun_starts_before_the_text_is_prepared(recipe: Recipe, tmp_path: Path) -> None:
    """torchrun gives up on a first machine that does not listen for 10 minutes, and a preparation may take hours."""
    verb = 'echo "$@" >> said; [ "$1" = corpus ] || exit 2'
    for name, line in (("ropewalk", verb), ("python3", "echo trains")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    script = yaml.safe_load(write("sky", on_gpus(recipe)))["run"].replace("cd /work\n", "")
    given = "export SKYPILOT_NODE_IPS=a SKYPILOT_NODE_RANK="
    other = play(["/bin/sh", "-c", f"{given}1\n{script}"], tmp_path)
    assert other.communicate(timeout=60)[0] == "trains\n"
    assert (tmp_path / "said").read_text() == "corpus wait my recipe.yaml seed=2\n"
    first = play(["/bin/sh", "-c", f"{given}0\n{script}"], tmp_path)
    assert first.communicate(timeout=60)[0] == "" and first.returncode == 2, "no torchrun after wrong input"
    (tmp_path / "ropewalk").write_text('#!/bin/sh\n[ "$1" != corpus ] || exit 2\n')
    waited = play(["/bin/sh", "-c", f"{given}1\n{script}"], tmp_path)
    assert waited.communicate(timeout=60)[0] == "" and waited.returncode == 2


ODD = 'stages.0.note=it\'s $HOME $(JOB_COMPLETION_INDEX) $$ "x" `id` \\ a;b #c {name} 新'


def expand_arguments(text: str) -> str:
    """What Kubernetes makes of a container's argument: ``$$`` is a dollar, and ``$(NAME)`` a variable that it knows."""
    known = {"JOB_COMPLETION_INDEX": "0", "PET_NODE_RANK": "0"}
    return re.sub(r"\$\$|\$\((\w+)\)", lambda found: "$" if found[1] is None else known.get(found[1], found[0]), text)


@pytest.mark.parametrize("kind", ["slurm", "k8s", "kubeflow", "sky", "ray"])
def test_odd_characters_reach_the_ranks_as_they_were_given(kind: str, recipe: Recipe) -> None:
    """Each command of the printed file is read as its scheduler and then a shell reads it."""
    text = write(kind, on_gpus(recipe, run="runs/$(JOB_COMPLETION_INDEX) 'a'"), overrides=(ODD,))
    scripts = [text]
    if kind in ("k8s", "kubeflow"):
        found = [container for each in yaml.safe_load_all(text) for container in list_containers(each)]
        scripts = [expand_arguments(each["args"][0]) for each in found]
    elif kind == "sky":
        scripts = [yaml.safe_load(text)["run"]]
    elif kind == "ray":
        scripts = [
            str(ast.literal_eval(each.partition(" = ")[2]))
            for each in text.splitlines()
            if each.startswith(("PREPARE", "TRAIN"))
        ]
    lines = [line for script in scripts for line in script.splitlines() if ODD[:12] in line]
    assert len(lines) == (3 if kind in ("k8s", "sky") else 2)
    for line in lines:
        words = shlex.split(line.partition("; then ")[2] or line)
        at = next(number for number, word in enumerate(words) if word in ("prepare", "run", "wait"))
        assert Path(words[at + 1]).name == "my recipe.yaml" and words[at + 2].removesuffix(";") == ODD


def list_containers(data: Any) -> Iterator[Any]:
    """The containers of a document of Kubernetes, at any depth."""
    if isinstance(data, dict):
        yield from (each for key in ("initContainers", "containers") for each in data.get(key, ()))
    for each in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from list_containers(each)


@pytest.mark.parametrize(
    ("kind", "asked", "option"),
    [
        ("slurm", {"image": "me/rope:1"}, "--image"),
        ("k8s", {"time": "1:00:00"}, "--time"),
        ("sky", {"exclusive": False}, "--shared"),
        ("ray", {"prepare_jobs": 4}, "--prepare-jobs"),
    ],
)
def test_what_a_kind_cannot_use_is_refused(kind: str, asked: dict[str, Any], option: str, recipe: Recipe) -> None:
    with pytest.raises(UserError, match=f"{option} has no meaning for {kind}"):
        write(kind, on_gpus(recipe), **asked)


def test_a_shape_is_no_job(recipe: Recipe) -> None:
    """A job of it would end with 2 when its machines have come."""
    with pytest.raises(UserError, match="has no weights here") as refused:
        write("k8s", on_gpus(recipe, model="Qwen/Qwen3-8B-Base"))
    assert "Qwen/Qwen3-8B-Base@main" in refused.value.fix
    assert write("k8s", on_gpus(recipe, model="Qwen/Qwen3-8B-Base@main"))
    assert write("k8s", on_gpus(recipe, model="/not/on/this/machine"))


@pytest.mark.parametrize(("typed", "meant"), [("kubernetes", "k8s"), ("kubflow", "kubeflow"), ("pbs", "slurm")])
def test_the_scheduler_that_was_meant_is_offered(typed: str, meant: str, recipe: Recipe) -> None:
    with pytest.raises(UserError, match="unknown scheduler") as refused:
        write(typed, on_gpus(recipe))
    assert refused.value.fix.startswith(f"ropewalk launch {meant} 'my recipe.yaml', ")


def test_a_line_break_is_refused(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="a line break"):
        write("k8s", on_gpus(recipe), overrides=("model=a\nJOB",))


class Remote:
    """A function of the stub of Ray: it runs at once, and keeps what it was asked with."""

    def __init__(self, function: Any, asked: list[dict[str, Any]]) -> None:
        self.function, self.asked, self.kept = function, asked, dict[str, Any]()

    def options(self, **kept: Any) -> "Remote":
        made = Remote(self.function, self.asked)
        made.kept = kept
        return made

    def remote(self, *arguments: Any) -> Any:
        self.asked.append({"arguments": arguments, **self.kept})
        return self.function(*arguments)


def install_ray(monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, Any]], list[Any]]:
    asked, groups = list[dict[str, Any]](), list[Any]()
    ray, util = ModuleType("ray"), ModuleType("ray.util")
    places, groups_module = ModuleType("ray.util.scheduling_strategies"), ModuleType("ray.util.placement_group")

    def remote(*functions: Any, **_: Any) -> Any:
        return Remote(functions[0], asked) if functions else lambda function: Remote(function, asked)

    class Group:
        def ready(self) -> "Group":
            return self

    def placement_group(bundles: list[dict[str, float]], strategy: str) -> Group:
        groups.append((bundles, strategy))
        return Group()

    facts: dict[ModuleType, dict[str, Any]] = {
        ray: {"remote": remote, "init": lambda: None, "get": lambda found: found, "util": util},
        util: {"get_node_ip_address": lambda: "10.0.0.1"},
        places: {"PlacementGroupSchedulingStrategy": lambda _, **place: place},
        groups_module: {"placement_group": placement_group},
    }
    for module, held in facts.items():
        vars(module).update(held)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked, groups


def test_a_driver_of_ray_starts_torchrun_on_each_machine_and_goes_on_after_a_stop(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, groups = install_ray(monkeypatch)
    # prepared; both machines stopped and saved; both ended well. Then two other runs.
    codes = iter([0, 75, 75, 0, 0, -1, 0, -9, 0, 0, 75, 2, 0, 3, 3])
    commands = list[str]()

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command[2])
        return subprocess.CompletedProcess(command, next(codes))

    driver: dict[str, Any] = {"__name__": "driver"}
    exec(compile(write("ray", on_gpus(recipe)), "driver.py", "exec"), driver)
    monkeypatch.setattr(driver["subprocess"], "run", run)
    assert driver["main"]() == 0
    assert next(codes) == -1
    assert driver["main"]() == 1, "a machine whose shell a signal ended is no success"
    assert driver["main"]() == 2
    assert driver["main"]() == 3, "a missed target is no fault that another try mends"
    del commands[5:]
    assert groups[:1] == [([{"CPU": 8, "GPU": 1}] * 2, "STRICT_SPREAD")]
    assert commands[0].startswith("exec ropewalk prepare") and "num_gpus" not in asked[0]
    assert len(commands) == 5 and all(f"NODE={index % 2}" in each for index, each in enumerate(commands[1:]))
    assert all("HEAD=10.0.0.1" in each and "--rdzv-endpoint=$HEAD:29500" in each for each in commands[1:])


@pytest.mark.parametrize("kind", ["slurm", "k8s", "kubeflow", "sky", "ray"])
def test_every_command_of_a_job_speaks_the_language_that_was_asked_for(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The options of all verbs are passed on, and nothing else in the script is in another language."""

    def print_script(*options: str) -> str:
        monkeypatch.setattr("sys.argv", ["ropewalk", "launch", kind, "qwen3-8b-128k", "seed=2", *options])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out

    try:
        spoken = print_script("--quiet", "--lang", "zh")
    finally:
        set_language("en")
        set_quiet(False)
    passed = " --lang zh --quiet"
    assert spoken.count(passed) == spoken.count("seed=2") > 1
    assert spoken.replace(passed, "") == print_script()
