"""Serve teacher, student, null and further arms behind one endpoint, for A/B measurement.

    python -m ray_jobs.serve --config F                         until Ctrl-C, on an embedded local Ray
    ray job submit --working-dir . -- python -m ray_jobs.serve --config F storage=/shared/runs
                                                                on a cluster, until `ray job stop`
    serve deploy app.yaml                                       on a cluster, with nothing to keep running:

        proxy_location: HeadOnly
        http_options: {host: 127.0.0.1, port: 8000}
        applications:
          - name: recsys
            import_path: ray_jobs.serve:build
            args: {name: demo, storage: /shared/runs}           # any settings of the YAML file

    curl -s 127.0.0.1:8000/recommend -H 'content-type: application/json' -d '{"history": ["50", "172"], "k": 5}'

`POST /recommend` answers catalogue ids with titles and scores (docs/serving.md); the page `/docs` describes it. A
request that names no arm gets the one its user is assigned to (`recsys.serving.assignment`). `GET /health` says which
arms are loaded, from which checkpoints, for which dataset. The student lives inside the replicas that take HTTP
requests, the teacher in its own (docs/decisions/student-placement.md), further arms as `serving.further_arms` says.
"""

import signal
import threading
from typing import TYPE_CHECKING, Any

from ray_jobs import cli
from recsys.settings import Settings

if TYPE_CHECKING:
    from ray.serve import Application


def build(args: dict[str, Any]) -> "Application":
    """The application from plain settings, for `serve deploy`."""
    from ray_jobs.serving import application

    return application.build(args)


def serve_until_stopped(settings: Settings) -> None:
    from ray_jobs.serving.application import deploy, undeploy

    stopped = threading.Event()
    address = deploy(settings)
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C, and `ray job stop`
        signal.signal(number, lambda *_: stopped.set())
    print(f"serving {', '.join(settings.serving.served)} at {address} (page: {address}/); Ctrl-C stops", flush=True)
    stopped.wait()
    print("stopping", flush=True)
    undeploy()


def main() -> None:
    cli.run_job(__doc__, lambda settings, _: serve_until_stopped(settings), writes=False)


if __name__ == "__main__":
    main()
