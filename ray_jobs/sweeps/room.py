"""How many trials run at a time, and what each of them asks of the cluster."""

import math
import os

from ray_jobs.cluster import runtime
from recsys.errors import UserError
from recsys.tuning.config import SweepConfig


def count_places(config: SweepConfig) -> int:
    """How many trials run at a time: what the cluster has room for, or fewer where the configuration says so.

    Raises:
        UserError: there is not room for one.
    """
    nodes = runtime.nodes()
    # A process, a trial or one of its workers, lies on one node.
    places = sum(runtime.places(node, config.cpus, config.gpus) for node in nodes) // config.workers
    if os.environ.get("RECSYS_AUTOSCALING") == "1":  # what there is now is not all
        return config.concurrent or max(1, places)
    if places < 1:
        asked = f"{config.cpus:g} CPU and {config.gpus:g} GPU"
        each = f"has {config.workers} workers that each ask for" if config.workers > 1 else "asks for"
        kinds = dict.fromkeys(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes)
        have = ", ".join(kinds) or "nothing"
        lower = "workers, cpus or gpus" if config.workers > 1 else "cpus or gpus"
        raise UserError(
            f"a trial {each} {asked} on one node, but the cluster's nodes have: {have}; lower {lower} of the space "
            "(on a cluster that grows by itself set RECSYS_AUTOSCALING=1)"
        )
    most = [places, *([config.concurrent] if config.concurrent else [])]
    if not os.environ.get("RAY_ADDRESS"):  # an embedded Ray declares more cores than there are
        most.append(max(1, int(len(os.sched_getaffinity(0)) / (config.workers * config.cpus))))
    return min(most)


def share(config: SweepConfig, concurrent: int) -> float:
    """CPUs that each of a population asks for, so that `concurrent` of them fill the cluster.

    All of a population are begun, and Ray Tune runs as many as there is room for. None asks for more than a node has:
    on more nodes than `concurrent` as many run.
    """
    able = [node["CPU"] for node in runtime.nodes() if runtime.places(node, config.cpus, config.gpus)]
    share = math.floor(1e4 * sum(able) / concurrent) / 1e4  # Ray rounds to four decimals: up would be too much
    return max(config.cpus, min(share, max(able, default=share)))
