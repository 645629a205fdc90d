"""A whole run on the workers of Ray Train. python ray_train.py RECIPE [PATH=VALUE]..., again to continue it"""

import sys
from pathlib import Path

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ropewalk.core.error import EXIT_CODE, UserError
from ropewalk.parallel.ray_worker import configure_workers, fit_trainer, run_on_worker


def main(recipe: str, *overrides: str) -> int:
    try:
        config = configure_workers(recipe, overrides)
    except UserError as error:  # before Ray is asked for a machine
        print(error, file=sys.stderr)
        return EXIT_CODE
    run = Path(config["run"])
    trainer = TorchTrainer(
        run_on_worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=config["ranks"], use_gpu=config["use_gpu"]),
        run_config=RunConfig(
            name=f"{run.name}-ray",  # metrics and the state of Ray; checkpoints are in the run folder
            storage_path=str(run.parent),
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    return fit_trainer(trainer)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if sys.argv[1:] else "usage: python ray_train.py RECIPE [PATH=VALUE]...")
