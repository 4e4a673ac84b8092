"""Reading a dataset to the end and saying everything that is wrong with it: file, field and row."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from embodied.data import rlds
from embodied.data.importers import (
    EXORL,
    OGBENCH,
    UNENDED,
    npz_fields,
    read_npz,
    trajectories,
    unended,
)
from embodied.data.store import INCOMPLETE, METADATA, is_store, read_metadata, read_shard, shard_fault
from embodied.types import InputError

_BOUNDS = {"action": (-1, 1), "actions": (-1, 1), "discount": (0, 1)}
_INPUTS = ("state", "observation", "observations", "action", "actions")  # what an agent learns from
_ROUNDING = 1e-6
_CLOCK = 1e-3  # relative; float32 clocks of accelerator worlds stay below a tenth of it


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `row` counts within the episode where one is named, else within the file."""

    file: str
    field: str  # "" for the whole file
    row: int | None
    message: str
    episode: int | None = None  # within the file

    def __str__(self) -> str:
        episode = "" if self.episode is None else f"episode {self.episode}: "
        field = f"'{self.field}' " if self.field else ""
        row = "" if self.row is None else f"row {self.row} "
        return f"{self.file}: {episode}{field}{row}{self.message}"


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What a dataset holds and what is wrong with it; ranges are of the finite values."""

    path: str
    kind: str  # "native", "exorl" or "ogbench"
    episodes: int
    transitions: int
    shapes: Mapping[str, tuple[int, ...]]  # field -> shape of one row
    ranges: Mapping[str, tuple[float, float]]  # field -> smallest and largest value
    warnings: tuple[str, ...]
    problems: tuple[Problem, ...]

    def lines(self) -> list[str]:
        """The report as lines of text, problems last."""
        lines = [f"{self.path}: {self.kind}, {self.episodes} episodes, {self.transitions} transitions"]
        for name, shape in self.shapes.items():
            low, high = self.ranges.get(name, (np.nan, np.nan))
            lines.append(f"  {name:13} {list(shape)!s:6} {low:12.6g} to {high:.6g}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"problem: {problem}" for problem in self.problems]
        return [*lines, f"{len(self.problems)} problem{'s' * (len(self.problems) != 1)}"]


def check(path: Path) -> CheckReport:
    """A report on a dataset directory, a folder of ExoRL episodes or an OGBench file; reads all of it.

    Raises InputError where there is nothing of these kinds at all.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"dataset: {path} does not exist; name a dataset directory or an .npz file")
    census = _Census()
    if is_store(path):
        kind = "native"
        _check_native(path, census)
    else:
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path] * (path.suffix == ".npz")
        if not files:
            raise InputError(f"dataset: {path} is neither a dataset directory nor .npz files; name one of these")
        kind = _kind(files, path.is_dir())
        for file in files:
            (_check_exorl if kind == "exorl" else _check_ogbench)(file, census)
    return census.report(path, kind)


class _Census:
    """What has been seen so far."""

    def __init__(self) -> None:
        self.episodes = self.transitions = 0
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self._first: dict[str, np.ndarray] = {}  # field -> one row
        self._ranges: dict[str, tuple[float, float]] = {}
        self._zero: dict[str, np.ndarray] = {}  # field -> whether each column has been zero so far

    def problem(self, file: str, field: str, row: int | None, message: str, episode: int | None = None) -> None:
        self.problems.append(Problem(file, field, row, message, episode))

    def count(self, file: str, transitions: int, field: str, row: int | None, episode: int | None) -> None:
        """Counts one episode; one with fewer than 2 transitions is a problem at `row` of `field`."""
        self.episodes += 1
        self.transitions += max(transitions, 0)
        if transitions < 2:
            message = f"gives an episode of {max(transitions, 0)} transitions, expected at least 2"
            self.problem(file, field, row, message, episode)

    def see(self, file: str, field: str, values: np.ndarray, episode: int | None = None) -> None:
        """Takes in the rows of one field: shape, finite values, bounds, zero columns."""
        if not len(values):
            return
        first = self._first.setdefault(field, values[0])
        if values.shape[1:] != first.shape:
            message = f"has rows of shape {list(values.shape[1:])}, expected {list(first.shape)} as before"
            self.problem(file, field, None, message, episode)
            return
        columns = values.reshape(len(values), -1)
        finite = np.isfinite(columns)
        self._rows(file, field, ~finite.all(axis=1), "is not finite", episode)
        if field in _BOUNDS:
            bounds = _BOUNDS[field]
            outside = finite & ((columns < bounds[0] - _ROUNDING) | (columns > bounds[1] + _ROUNDING))
            self._rows(file, field, outside.any(axis=1), f"lies outside {list(bounds)}", episode)
        if field == "pixels":
            bare = (columns == columns[:, :1]).all(axis=1)
            self._rows(file, field, bare, "is of a single shade: nothing was drawn", episode)
        zero: np.ndarray = np.logical_not(columns.any(axis=0))
        self._zero[field] = np.logical_and(zero, self._zero.get(field, zero))
        if finite.any():
            kept = columns if finite.all() else columns[finite]
            low, high = self._ranges.get(field, (np.inf, -np.inf))
            self._ranges[field] = min(low, float(kept.min())), max(high, float(kept.max()))

    def _rows(self, file: str, field: str, bad: np.ndarray, what: str, episode: int | None) -> None:
        rows = np.flatnonzero(bad)
        if len(rows):
            count = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
            self.problem(file, field, int(rows[0]), what + count, episode)

    def report(self, path: Path, kind: str) -> CheckReport:
        """The report, with the columns that were zero from the first to the last row."""
        name = path.resolve().name
        for field, zero in self._zero.items():
            for column in np.flatnonzero(zero) if field not in ("reward", "terminals", "pixels") else ():
                message = f"column {column} is zero in every row"
                if field in _INPUTS:
                    self.problem(name, field, None, message)
                else:
                    self.warnings.append(f"{name}: '{field}' {message}")
        key = lambda p: (p.file, -1 if p.episode is None else p.episode, p.field, p.row or 0, p.message)  # noqa: E731
        return CheckReport(
            path=str(path),
            kind=kind,
            episodes=self.episodes,
            transitions=self.transitions,
            shapes={name: row.shape for name, row in self._first.items()},
            ranges=self._ranges,
            warnings=tuple(sorted(self.warnings)),
            problems=tuple(sorted(self.problems, key=key)),
        )


def _kind(files: list[Path], folder: bool) -> str:
    for file in files:
        try:
            fields = npz_fields(file)
        except InputError:
            continue
        if {"observation", "observations"} & set(fields):
            return "exorl" if "observation" in fields else "ogbench"
    return "exorl" if folder else "ogbench"


def _check_native(path: Path, census: _Census) -> None:
    for left in sorted(path.glob(f"*{INCOMPLETE}")):
        census.warnings.append(f"{left.name}: was never finished and is not read")
    try:
        metadata = read_metadata(path)
    except InputError as error:
        census.problem(METADATA, "", None, str(error).partition(f"{METADATA} ")[2])
        return
    if not metadata["complete"]:
        census.warnings.append(f"{METADATA}: the writer was not closed, later episodes may be missing")
    listed = {shard["file"]: shard["episodes"] for shard in metadata["shards"]}
    for file in sorted(path.glob("*.array_record-*")):
        if file.name not in listed and file.suffix != INCOMPLETE:
            census.warnings.append(f"{file.name}: is not listed in {METADATA} and is not read")
    for name, fault in _tfds_faults(path, list(listed.values())).items():
        census.problem(name, "", None, fault)
    for shard in metadata["shards"]:
        name = shard["file"]
        if damage := shard_fault(path, shard):
            census.problem(name, "", None, damage)
            continue
        try:
            for index, episode in enumerate(read_shard(path / name, metadata["shapes"], 0, shard["episodes"])):
                _check_episode(name, index, episode, census)
        except InputError as error:
            census.problem(name, "", None, str(error).partition(f"{name} ")[2])


def _tfds_faults(path: Path, lengths: list[int]) -> dict[str, str]:
    """What keeps TFDS from opening a directory, by file."""
    faults = {}
    for name in rlds.TFDS_FILES:
        try:
            content = json.loads((path / name).read_bytes())
            if "splits" in content and content["splits"][0]["shardLengths"] != [str(n) for n in lengths]:
                faults[name] = f"lists other shards than {METADATA}; TFDS would read other episodes"
        except FileNotFoundError:
            faults[name] = "is missing; TFDS cannot open the dataset"
        except (ValueError, LookupError, TypeError) as error:
            faults[name] = f"is damaged ({type(error).__name__}); TFDS cannot open the dataset"
    return faults


def _check_episode(file: str, index: int, episode: rlds.Episode, census: _Census) -> None:
    census.count(file, len(episode["action"]), "action", None, index)
    for name, values in episode.items():
        census.see(file, name, values, index)
    time = episode["physics"][:, :1].ravel()
    if not len(time) or not np.isfinite(time).all():
        return
    # A world that terminated goes on from a fresh start, so the clock may fall back there.
    steps, running = np.diff(time), episode["discount"] != 0
    usual = np.median(steps[running]) if running.any() else 0.0
    wrong = np.flatnonzero(running & ~((steps > 0) & (np.abs(steps - usual) <= _CLOCK * usual)))
    if len(wrong):
        row = int(wrong[0]) + 1
        message = f"is at {time[row]:.6g} s after {time[row - 1]:.6g} s, the usual step is {usual:.6g} s"
        census.problem(file, "physics", row, message, index)


def _check_exorl(file: Path, census: _Census) -> None:
    arrays, faults = read_npz(file, EXORL)
    for name, fault in faults.items():
        census.problem(file.name, name, None, fault)
    for name, values in arrays.items():
        census.see(file.name, name, values)
    if "observation" in arrays:
        rows = len(arrays["observation"])
        census.count(file.name, rows - 1, "observation", max(rows - 1, 0), None)
    if arrays.get("action", np.zeros((0, 1)))[:1].any():
        census.warnings.append(
            f"{file.name}: 'action' row 0 is not the zero dummy of ExoRL; actions may be one row early"
        )


def _check_ogbench(file: Path, census: _Census) -> None:
    arrays, faults = read_npz(file, OGBENCH)
    for name, fault in faults.items():
        census.problem(file.name, name, None, fault)
    for name, values in arrays.items():
        census.see(file.name, name, values)
    if "terminals" in arrays:
        if (row := unended(arrays["terminals"])) is not None:
            census.problem(file.name, "terminals", row, UNENDED)
        for rows in trajectories(arrays["terminals"]):
            census.count(file.name, rows.stop - rows.start - 1, "terminals", rows.start, None)
