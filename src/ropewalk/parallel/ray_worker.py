"""Run a recipe on the workers of Ray Train's TorchTrainer: each worker is one rank of ropewalk.

TorchTrainer places the workers, gives each its rank and its GPUs, and starts them again after a failure. A worker calls
its function in a thread, and has threads of Ray beside it. There a signal cannot be handled, and a fork is not safe. So
the worker starts ``ropewalk`` as its child (cli/child.py), which finds ranks and store as under torchrun. Corpus,
checkpoints and results are those of the recipe's run folder, which all machines must see; Ray's storage has only the
metrics and the state of Ray.

In rounds, all workers report to Ray together: ``ray.train.report`` waits for all of them. The first worker opens each
round with an entry in the store, so every worker makes the same calls in the same order.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ropewalk.core.error import FINAL_CODES, STOPPED_CODE, RankError, UserError
from ropewalk.core.progress import say
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.strict_json import spell_json
from ropewalk.parallel.torchrun import find_store_address, hand_on_rank
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.named import find_named
from ropewalk.recipe.offer_ranks import group_ranks, offer_ranks

_PAUSE_SECONDS, _ROUND_SECONDS = 0.5, 30.0
_STOP_SECONDS = 30.0
"""How long a child may take to end in order after another rank has failed; torchrun waits as long."""
_TAIL_BYTES = 1 << 16
_FAILED, _EXIT_KEY = "failed", "exit_code"


class StoppedOnRayError(RankError):
    """All ranks were asked to stop, have saved, and have ended; the same run continues from there."""


def configure_workers(recipe: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the ``train_loop_config`` of a TorchTrainer for ``run_on_worker``. Call it on the driver.

    ``recipe`` is a file that all machines see, or the name of a shipped one. Relative paths in it are relative to the
    driver's present folder. ``run`` in the result is the run folder, ``ranks`` the number of workers to ask for, and
    ``use_gpu`` whether each needs a GPU. Raises UserError where the recipe cannot be used.
    """
    read, folder, named = load_recipe(Path(recipe), list(overrides)), Path.cwd(), Path(recipe)
    if "parallel.ranks" in read.open_keys:
        raise UserError(
            "the number of workers is open",
            where="parallel.ranks",
            why="it is auto, and Ray must know how many workers to start",
            fix=f"parallel.ranks={offer_ranks(read, 8) or group_ranks(read.parallel)}, or as many GPUs as the run may "
            "have",
        )
    return {
        "recipe": str(named.absolute() if find_named(named) == named else named),
        "overrides": list(overrides),
        "folder": str(folder),
        "run": str(folder / read.run),
        "ranks": read.parallel.ranks,
        "use_gpu": read.parallel.device != "cpu",
    }


def run_on_worker(config: Mapping[str, Any]) -> int:
    """Run the recipe of ``config`` as one rank; TorchTrainer calls it on every worker. Return 0, 2, 3 or 4.

    The metrics of the newest step go to Ray every half minute, and at the end ``exit_code`` and ``run``. Wrong input
    (2) and strict targets (3, 4) are reported and not raised, because Ray tries again after every error. Raises
    StoppedOnRayError where all ranks stopped and saved, and RankError where one failed. Ray then starts all workers
    again, as often as FailureConfig says, and the run continues from its newest checkpoint.
    """
    from ray import train

    context = train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    host, port = find_store_address()
    store = dist.PrefixStore("ropewalk on ray", dist.TCPStore(host, port, is_master=False))  # type: ignore[attr-defined]
    if rank == 0:
        say(f"checkpoints and results are in {config['run']}; Ray's storage has metrics and its own state only")
    command = ["run", config["recipe"], *config["overrides"]]
    with start_child(command, folder=Path(config["folder"]), environment=hand_on_rank()) as child:
        codes = follow_child(child, store, rank, ranks, Path(config["run"]))
    return judge_codes(codes, config["run"])


def judge_codes(codes: Sequence[int], run: str) -> int:
    """The exit code that the ``codes`` of all ranks mean, where a second try mends nothing: 0, 2, 3 or 4.

    Raises StoppedOnRayError where all ranks stopped and saved, and RankError where one failed: for these Ray tries
    again.
    """
    for final in FINAL_CODES:
        if final in codes:
            return final
    if all(code in (0, STOPPED_CODE) for code in codes):
        if not any(codes):
            return 0
        raise StoppedOnRayError(f"stopped on request, and saved: the same run continues from {run}")
    failed = {index: code for index, code in enumerate(codes) if code not in (0, STOPPED_CODE)}
    raise RankError(
        "; ".join(f"rank {index} of {len(codes)} ended with exit code {code}" for index, code in failed.items())
    )


def fit_trainer(trainer: Any) -> int:
    """Call ``trainer.fit()`` and return the exit code of ropewalk."""
    from ray.train import TrainingFailedError

    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        say(f"{error}")
        failures = getattr(error, "worker_failures", {}).values()
        stopped = bool(failures) and all(_is_stop(each) for each in failures)
        return STOPPED_CODE if stopped else 1
    code: int = result.metrics[_EXIT_KEY]
    return code


def _is_stop(failure: BaseException) -> bool:
    return isinstance(failure, StoppedOnRayError) or StoppedOnRayError.__name__ in str(failure)


@contextmanager
def start_child(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield ``ropewalk`` with ``arguments`` as a child that works in ``folder``; it ends with the block."""
    command = [sys.executable, "-m", "ropewalk.cli.child", *arguments]
    child = subprocess.Popen(command, cwd=folder, env=dict(environment), stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield child
    finally:
        assert child.stdin is not None
        child.stdin.close()  # the child reads its end, and is killed where it has not ended yet
        child.wait()


def follow_child(child: "subprocess.Popen[bytes]", store: Any, rank: int, ranks: int, run: Path) -> list[int]:
    """Wait until the children of all workers have ended; return their exit codes in the order of ranks.

    Where one failed, the others are asked to end, and are killed where they do not. Every worker takes part in every
    round until the last one, so none waits for another in a call of Ray.
    """
    rounds, due, kill_at, told = 0, time.monotonic(), None, False
    keys = [f"code/{each}" for each in range(ranks)]
    while True:
        code = child.poll()
        if code is not None and not told:
            store.set(keys[rank], str(code))
            told = True
            if code:
                store.set(_FAILED, "1")
        if code is None and store.check([_FAILED]):
            kill_at = kill_at or _ask_to_end(child)
            if time.monotonic() > kill_at:
                child.kill()
        if rank == 0 and not store.check([f"round/{rounds}"]):
            all_ended = store.check(keys)
            if all_ended or time.monotonic() >= due:
                due = time.monotonic() + _ROUND_SECONDS
                codes = [int(store.get(key)) for key in keys] if all_ended else []
                store.set(f"round/{rounds}", spell_json(_collect_metrics(run, codes)))
        if store.check([f"round/{rounds}"]):
            metrics = json.loads(store.get(f"round/{rounds}"))
            rounds += 1
            _report(metrics, child, with_file=rank == 0 and _EXIT_KEY in metrics)
            if _EXIT_KEY in metrics:
                return [int(store.get(key)) for key in keys]
        time.sleep(_PAUSE_SECONDS)


def _ask_to_end(child: "subprocess.Popen[bytes]") -> float:
    child.terminate()
    return time.monotonic() + _STOP_SECONDS


def _report(metrics: Mapping[str, Any], child: "subprocess.Popen[bytes]", *, with_file: bool) -> None:
    """Take part in one round: report, and pass on that a machine is about to be taken away.

    Ray's Result has the metrics of the newest report that came with files, so the last one has a file with them.
    """
    from ray import train

    if with_file:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "ropewalk.json").write_text(spell_json(metrics), encoding="utf-8")
            train.report(dict(metrics), checkpoint=train.Checkpoint.from_directory(folder))
    else:
        train.report(dict(metrics))
    ask: Callable[[], Any] | None = getattr(train, "get_preemption_info", None)
    if ask is not None and ask() is not None and child.poll() is None:
        child.terminate()  # it finishes its step, saves and ends with 75


def _collect_metrics(run: Path, codes: Sequence[int]) -> dict[str, Any]:
    """The metrics of the newest step on disk; with all exit ``codes`` also the run's own, and its folder."""
    found: dict[str, Any] = {**read_newest(RunFolder(run).metrics), "run": str(run)}
    if codes:
        worst = [*FINAL_CODES, *(code for code in codes if code not in (0, STOPPED_CODE)), STOPPED_CODE, 0]
        found[_EXIT_KEY] = next(code for code in worst if code in codes)
    return found


def read_newest(metrics: Path) -> dict[str, Any]:
    """Stage, step and figures of the newest step in ``metrics.jsonl``; empty where there is none yet."""
    if not metrics.exists():
        return {}
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - _TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]  # the last one may not be whole yet
    rows = [json.loads(line) for line in lines if line.startswith(b"{")]
    if not rows:
        return {}
    at = max((row["stage"], row["step"]) for row in rows)
    figures = {row["name"]: row["value"] for row in rows if (row["stage"], row["step"]) == at}
    return {"stage": at[0], "step": at[1], **figures}
