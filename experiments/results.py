"""Result files: every number that the project publishes, with the command, code and machine that made it."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("jax", "flax", "optax", "mujoco", "numpy", "embodied-stack")


def write_result(
    path: str | Path,
    command: str,
    metrics: Mapping[str, Any],
    seeds: Sequence[int],
    wall_seconds: float,
    **extra: Any,
) -> dict[str, Any]:
    """The record written to `path` as sorted JSON: what was measured, how, on what, with which code.

    The file is replaced as a whole or not at all. Numbers that JSON cannot hold (NaN, infinity) raise
    ValueError.
    """
    record = dict(
        command=command,
        commit=commit(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        hardware=hardware(),
        versions=versions(),
        metrics=dict(metrics),
        seeds=list(seeds),
        wall_seconds=wall_seconds,
        **extra,
    )
    text = json.dumps(record, indent=2, sort_keys=True, allow_nan=False, default=lambda array: array.tolist())
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text + "\n", encoding="utf-8")
    draft.replace(path)
    return json.loads(text)


def commit(root: Path = ROOT) -> str:
    """The commit checked out at `root`, "-dirty" added when its files outside results/ differ; else "unknown".

    Files that are not under version control count where they are Python: a prompt file beside the code changes nothing.
    """
    if not (root / ".git").exists():  # an installed package may lie inside somebody else's repository
        return "unknown"
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
        changed += _git(root, "ls-files", "--others", "--exclude-standard", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changed else head


def hardware() -> dict[str, Any]:
    """Processor, usable cores, memory in GiB, and the accelerators that JAX sees."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _processor(),
        "cores": cores,
        "memory_gib": round(memory / 2**30, 1),
        "accelerators": [device.device_kind for device in jax.devices() if device.platform != "cpu"],
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git(root: Path, *arguments: str) -> str:
    finished = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True)
    return finished.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
