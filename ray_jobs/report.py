"""Draw the report from what was evaluated and measured: `<storage>/<name>/report/report.html` and PNG pictures.

    python -m ray_jobs.report --config ray_jobs/configs/demo.yaml
    ray job submit --working-dir . -- python -m ray_jobs.report --config ray_jobs/configs/demo.yaml

It needs the ladder of `ray_jobs.evaluate`; the latencies of `ray_jobs.measure_ab` are in it where they were measured.
Run it after both. It computes nothing and starts no Ray.
"""

from ray_jobs import cli
from recsys.stages import report


def main() -> None:
    cli.run_job(__doc__, lambda settings, args: report.make(settings, force=args.force), ray=False)


if __name__ == "__main__":
    main()
