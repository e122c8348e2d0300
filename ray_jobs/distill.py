"""Train students on Ray Train, alone or taught by a teacher's signals.

    python -m ray_jobs.distill --config ray_jobs/configs/demo.yaml --student sasrec-distilled
    ray job submit --working-dir . -- python -m ray_jobs.distill --config ray_jobs/configs/demo.yaml

Without --student every student of the configuration is trained, those without distillation first. A student takes part
of its name's section: `students.sasrec.training.epochs=50` changes one value. A finished student whose configuration
and inputs are unchanged is left as it is; an interrupted one continues from its last epoch.
"""

import argparse

from ray_jobs import cli
from ray_jobs.on_ray import OnRay
from recsys.settings import Settings
from recsys.stages import student


def run(settings: Settings, args: argparse.Namespace) -> None:
    for name in [args.student] if args.student else student.order_students(settings):
        student.make(settings, name, OnRay(), force=args.force)


def main() -> None:
    cli.run_job(__doc__, run, lambda parser: parser.add_argument("--student", metavar="NAME"))


if __name__ == "__main__":
    main()
