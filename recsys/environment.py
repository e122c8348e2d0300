"""What a result was measured with: library versions and hardware, as plain JSON values; and when processes began."""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("ray", "torch", "transformers", "deepspeed", "mlflow", "numpy", "pandas", "pyarrow", "recsys-distill")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, usable cores, memory in GB, GPUs (empty list for none) and operating system."""
    import torch

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
    }


def conditions() -> dict[str, Any]:
    """The date, versions and hardware of a measurement."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": now, "versions": versions(), "hardware": hardware()}


def start_time(pid: int) -> int | None:
    """When a living process started, in clock ticks since boot; tells it from a later one of the same number."""
    try:
        state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # A killed process stays in the table until its parent has asked for its end, which may be never.
        return None if state in "ZX" else int(others[18])
    except (OSError, ValueError, IndexError):
        return None


def boot() -> tuple[str, int] | None:
    """The kernel's boot and the space of process numbers, which containers have of their own; None where unknown."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return kernel, Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None


def _processor() -> str:
    """The model name where the system tells it; virtual machines often tell only a family number."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        facts: dict[str, str] = {}
        for line in cpuinfo.read_text().partition("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            facts[key.strip()] = value.strip()
        name = facts.get("model name", "")
        if name and name != "unknown":
            return name
        if "vendor_id" in facts:
            return f"{facts['vendor_id']} family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"
    return platform.processor() or platform.machine()
