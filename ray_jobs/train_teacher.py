"""Train the teacher on Ray Train: item embeddings once, then the recommender on top of them (and, where
`teacher.model.item_training` says so, the item language model as well).

    python -m ray_jobs.train_teacher --config ray_jobs/configs/demo.yaml
    python -m ray_jobs.train_teacher --config ray_jobs/configs/gpu.yaml --estimate     # memory and hours, by shapes
    ray job submit --working-dir . -- python -m ray_jobs.train_teacher --config ray_jobs/configs/demo.yaml \\
        teacher.scaling.workers=8 teacher.scaling.gpus=1 teacher.training.deepspeed.zero_stage=2

First one Ray task turns the titles into vectors with the item language model; they are kept under the storage root for
every later run with the same titles and model. Then `teacher.scaling.workers` processes train, through DeepSpeed ZeRO
where `teacher.training.deepspeed` is set: NCCL on GPUs, gloo on CPUs. A crashed worker group restarts from its last
epoch, and so does a killed job that is started again with the same configuration. Another task makes the checkpoint of
the best epoch's weights.
"""

import argparse

from ray_jobs import cli
from ray_jobs.on_ray import OnRay
from recsys.settings import Settings
from recsys.stages import teacher


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--estimate", action="store_true", help="say what memory and hours it will take, and end")


def run(settings: Settings, args: argparse.Namespace) -> None:
    if args.estimate:
        teacher.estimate(settings)
    else:
        teacher.make(settings, OnRay(), force=args.force)


def main() -> None:
    cli.run_job(__doc__, run, add_arguments)


if __name__ == "__main__":
    main()
