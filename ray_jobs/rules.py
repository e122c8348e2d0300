"""Fit sequential rules: what follows what, counted; the memory that every model has to beat.

    python -m ray_jobs.rules --config ray_jobs/configs/demo.yaml
    ray job submit --working-dir . -- python -m ray_jobs.rules --config ray_jobs/configs/demo.yaml rules.titles=null

Their constants are chosen on validation, in seconds to a minute or two. The rules, and the rules with the cosine of
titles, are checkpoints like any other under `<storage>/<name>/rules`, rows of the ladder, and the further terms of
students of kind `hybrid`. Where a student names the set of signals `rules`, they rank all rows as its teacher, each
user's own events left out.
"""

from ray_jobs import cli
from ray_jobs.on_ray import OnRay
from recsys.stages import rules


def main() -> None:
    cli.run_job(__doc__, lambda settings, args: rules.make(settings, OnRay(), force=args.force))


if __name__ == "__main__":
    main()
