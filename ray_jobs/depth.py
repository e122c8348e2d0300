"""How many layers a language-model recommender needs: the teacher read out, cut and distilled at several depths.

    python -m ray_jobs.depth --config ray_jobs/configs/depth.yaml
    ray job submit --working-dir . -- python -m ray_jobs.depth --config ray_jobs/configs/depth.yaml \\
        depth.depths=[2,4] depth.tolerance=2

It needs the teacher of `ray_jobs.train_teacher`, of kind e4srec or hllm. Every depth of the section `depth` is read out
of it as it is, trained alone and trained with it (SLMRec), as students `depth-<layers>-<way>` of this project by
`ray_jobs.distill`; all then rank validation and test rows and are timed in turn in one process. The table ends with the
smallest depth that loses at most `depth.tolerance` percent of NDCG@10 on validation, and what it loses on test.
`depth.json`, `depth.png` and `depth.html` go to `<storage>/<name>/depth`; what is finished and unchanged is kept, and a
study interrupted continues.
"""

from ray_jobs import cli
from ray_jobs.on_ray import OnRay
from recsys.stages import depth


def main() -> None:
    cli.run_job(__doc__, lambda settings, args: depth.make(settings, OnRay(), force=args.force))


if __name__ == "__main__":
    main()
