"""Evaluate baselines, students and teacher on the test rows, and print the quality ladder.

    python -m ray_jobs.evaluate --config ray_jobs/configs/demo.yaml
    ray job submit --working-dir . -- python -m ray_jobs.evaluate --config ray_jobs/configs/demo.yaml \\
        storage=/shared/runs evaluation.mask_seen=false

Each model is one Ray task that reads dataset and checkpoint from storage, ranks the whole catalogue for every test row
by both rules for seen items, and writes one results JSON and the ranks beside it (`recsys.evaluation.results`). What
was evaluated before and is unchanged is kept. One more task then times a single history on every model in turn. The
ladder goes to `<storage>/<name>/results/ladder.json`.

Memory of a task: the dataset, the model, and `evaluation.batch_size` times the catalogue in scores.
"""

from ray_jobs import cli
from ray_jobs.on_ray import OnRay
from recsys.stages import evaluation


def main() -> None:
    cli.run_job(__doc__, lambda settings, args: evaluation.make(settings, OnRay(), force=args.force))


if __name__ == "__main__":
    main()
