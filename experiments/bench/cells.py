"""Cells of a comparison: training runs below one folder, made where they are missing and resumed where they stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

from experiments.presets import PRESETS
from experiments.run_report import read_metrics


def done(run: Path) -> int:
    """Updates that a run has behind it."""
    return int(read_metrics(run)[-1]["step"]) if (run / "metrics.jsonl").exists() else 0


def complete(run: Path, updates: int) -> bool:
    """Whether a run has been trained that long and has left a policy."""
    return (run / "policy" / "config.json").exists() and done(run) >= updates


def train(preset: str, data: Path | None, run: Path, options: list[str], updates: int) -> int:
    """The exit code of `embodied train` in a process of its own; 0 without one where the run is complete."""
    assert preset in PRESETS
    if complete(run, updates):
        return 0
    code = "from experiments.cli import main; main()"
    command = [sys.executable, "-c", code, "train", preset, "--out", str(run)]
    command += [] if data is None else ["--data", str(data)]
    print(json.dumps({"training": run.name}), file=sys.stderr, flush=True)
    return subprocess.run([*command, "--train.updates", str(updates), *options], env=os.environ, check=False).returncode
