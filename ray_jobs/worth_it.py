"""Is a language model worth it on this log? Ask before one is trained, and again when students are there.

    python -m ray_jobs.worth_it --config ray_jobs/configs/demo.yaml
    python -m ray_jobs.worth_it --config ray_jobs/configs/demo.yaml worth_it.core_hour=0.04 worth_it.gpu_hour=2

The log alone says how few successors an item has, how much they resemble it, how many of the latest items are needed
and how far counting gets. Where `evaluate` has left a ladder, and the teacher's pass lists of validation rows, it says
who beats whom, what that costs, and warns. It writes lines, JSON and a page (`<storage>/<name>/worth-it`), trains
nothing and starts no Ray.
"""

from ray_jobs import cli
from recsys.stages import worth_it
from recsys.stages.executor import InProcess


def main() -> None:
    cli.run_job(__doc__, lambda settings, args: worth_it.make(settings, InProcess(), force=args.force), ray=False)


if __name__ == "__main__":
    main()
