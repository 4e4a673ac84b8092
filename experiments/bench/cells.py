"""Cells of a comparison: training runs below one folder, made where they are missing and resumed where they stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

from experiments.presets import PRESETS
from experiments.run_report import read_metrics


def train(preset: str, data: Path, run: Path, options: list[str], updates: int) -> None:
    """Runs `embodied train` in a process of its own unless the run is complete; stops with its exit code on failure."""
    assert preset in PRESETS
    if (run / "policy" / "config.json").exists() and read_metrics(run)[-1]["step"] >= updates:
        return
    code = "from experiments.cli import main; main()"
    command = [sys.executable, "-c", code, "train", preset, "--data", str(data), "--out", str(run)]
    print(json.dumps({"training": run.name}), file=sys.stderr, flush=True)
    done = subprocess.run([*command, "--train.updates", str(updates), *options], env=os.environ, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
