"""What a run says while it goes on: a JSONL file always, a progress line, TensorBoard on request."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from embodied.types import InputError

LOSSES = ("loss/world", "loss/critic", "loss/flow")  # the first of these that there is stands on the terminal


class Logger:
    """Writes rows of scalars. On resume, rows beyond the restored update are dropped: none doubled, none missing."""

    def __init__(
        self,
        directory: Path | None,
        total: int,
        resume_at: int = 0,
        quiet: bool = False,
        tensorboard: bool = False,
    ) -> None:
        self.total, self.quiet = total, quiet
        self._started, self._resume_at, self._printed = time.perf_counter(), resume_at, 0.0
        self._file: Any = None
        self._board = _tensorboard(directory) if tensorboard and directory else None
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / "metrics.jsonl"
            _truncate(path, resume_at)
            self._file = path.open("a", encoding="utf-8")
        if resume_at:
            self.note(f"resumed at update {resume_at:,}")

    def write(self, step: int, row: dict[str, float]) -> None:
        """Nothing; appends {"step": step, ...row} and shows progress."""
        if self._file:
            self._file.write(json.dumps({"step": step, **row}) + "\n")
            self._file.flush()
        if self._board:
            for name, value in row.items():
                self._board.add_scalar(name, value, step)
        now = time.perf_counter()
        if not self.quiet and (now - self._printed > 10 or step >= self.total):
            self._printed = now
            print(self._progress(step, row, now), file=sys.stderr, flush=True)

    def start(self) -> None:
        """Nothing; speed and time left count from now, so that they leave out compilation."""
        self._started = time.perf_counter()

    def note(self, text: str) -> None:
        """Nothing; prints one line."""
        if not self.quiet:
            print(f"  {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing; flushes to disk."""
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        if self._board:
            self._board.close()

    def _progress(self, step: int, row: dict[str, float], now: float) -> str:
        speed = (step - self._resume_at) / max(now - self._started, 1e-9)
        left = (self.total - step) / max(speed, 1e-9)
        rate = row.get("speed/transitions_per_second")
        transitions = f"  {rate:,.0f} transitions/s" if rate else ""
        loss = next((row[name] for name in LOSSES if name in row), float("nan"))
        return (
            f"  update {step:>9,} / {self.total:,}  {row['speed/updates_per_second']:6.0f} updates/s{transitions}"
            f"  loss {loss:9.3f}  ETA {int(left) // 60:d}:{int(left) % 60:02d}"
        )


def _truncate(path: Path, step: int) -> None:
    """Keeps the rows up to `step`; a half-written last row (from a killed process) goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["step"] > step:
            break
        kept.append(line + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)


def _tensorboard(directory: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise InputError("tensorboard: not installed; pip install 'embodied-stack[tensorboard]'") from error
    return SummaryWriter(str(directory / "tensorboard"))
