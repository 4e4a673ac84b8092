"""Episodes on disk: shards of RLDS records that TFDS can open, and a list of the shards that are whole.

    NAME-train.array_record-00000 ...    episodes, in the order in which they were added
    features.json, dataset_info.json     for `tfds.builder_from_directory(...).as_data_source("train")`
    metadata.json                        what was collected and how; size, SHA-256 and counts of every shard

A file is written under a name that ends in `.incomplete` and renamed once it is on the disk; a shard counts
once `metadata.json` lists it. Reading compares every shard with its listed size and checksum, because
array_record itself reads a truncated file as an empty one.
"""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from embodied.data import rlds
from embodied.data.rlds import Episode
from embodied.types import InputError

INCOMPLETE = ".incomplete"
METADATA = "metadata.json"
# Names of the metadata that a writer fills in itself.
WRITTEN = ("name", "date", "versions", "complete", "episodes", "transitions", "shapes", "shards")
_PACKAGES = ("embodied-stack", "jax", "mujoco", "dm-control", "numpy", "tensorflow-datasets", "array-record")
# Compression saved 7 % of a noisy walker dataset and made reading its records 3.5 times slower.
_RECORD_OPTIONS = "group_size:1,uncompressed"


def write_episodes(directory: Path, name: str, episodes: Iterable[Episode], metadata: Mapping[str, Any]) -> None:
    """Nothing; stores the episodes as the dataset `name` in a new directory. See `Writer` for errors."""
    with Writer(directory, name, metadata) as writer:
        for episode in episodes:
            writer.add(episode)


class Writer:
    """Stores episodes one by one; those of finished shards outlive a killed process.

    `metadata` is any JSON content: world, its options, collector, seed. Leaving the `with` block closes the
    writer; leaving it by an exception keeps the episodes added so far and leaves `complete` false in the
    metadata. Raises InputError for a name that TFDS refuses, a directory that holds a dataset, and metadata
    that the writer fills in itself.
    """

    def __init__(self, directory: Path, name: str, metadata: Mapping[str, Any], shard_bytes: int = 64 * 2**20) -> None:
        if not re.fullmatch(r"[a-z]\w*", name, re.ASCII):
            valid = re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).lstrip("_0123456789") or "episodes"
            raise InputError(f"dataset name: '{name}' is not lower-case letters, digits, '_'; try '{valid}'")
        self._directory, self._name, self._shard_bytes = Path(directory), name, shard_bytes
        if is_store(self._directory):
            raise InputError(f"dataset: {directory} already holds a dataset; choose another directory")
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        own = dict(zip(WRITTEN, (name, date, _versions(), False, 0, 0, {}, []), strict=True))
        if clash := sorted(own.keys() & metadata.keys()):
            raise InputError(f"dataset metadata: '{clash[0]}' is filled in by the writer; use another name")
        self._metadata: dict[str, Any] = {**json.loads(json.dumps(dict(metadata))), **own}
        self._open: Any = None  # the array_record writer of the unfinished shard
        self._lengths: list[int] = []  # transitions of each episode in it
        self._bytes = 0
        self._directory.mkdir(parents=True, exist_ok=True)

    def add(self, episode: Episode) -> None:
        """Nothing; appends an episode. Raises InputError for a field that does not fit and a full disk."""
        arrays = rlds.complete(episode)
        shapes = {name: list(arrays[name].shape[1:]) for name in (*rlds.VECTORS, "pixels") if name in arrays}
        known = self._metadata["shapes"] or shapes
        for name in known | shapes:
            if shapes.get(name) != known.get(name):
                found, expected = _columns(shapes, name), _columns(known, name)
                raise InputError(f"episode: '{name}' has {found} columns, expected {expected} as before")
        self._metadata["shapes"] = known
        record = rlds.encode(arrays)
        if self._lengths and self._bytes + len(record) > self._shard_bytes:
            self._finish_shard()
        with _disk(self._shard()):
            if self._open is None:
                self._open = _array_record().ArrayRecordWriter(f"{self._shard()}{INCOMPLETE}", _RECORD_OPTIONS)
            self._open.write(record)
        self._lengths.append(len(arrays["action"]))
        self._bytes += len(record)

    def close(self) -> None:
        """Nothing; finishes the last shard and marks the dataset complete. Raises InputError if empty."""
        self._finish_shard()
        if not self._metadata["shards"]:
            raise InputError(f"dataset: {self._directory} would be empty; add at least one episode")
        self._metadata["complete"] = True
        self._publish()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._finish_shard()

    def _shard(self) -> Path:
        return self._directory / rlds.shard_name(self._name, len(self._metadata["shards"]))

    def _finish_shard(self) -> None:
        if self._open is None:
            return
        writer, path, self._open = self._open, self._shard(), None
        with _disk(path):
            writer.close()
            with open(f"{path}{INCOMPLETE}", "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = os.fstat(file.fileno()).st_size
            _publish(path)
        counts = {"episodes": len(self._lengths), "transitions": sum(self._lengths)}
        self._metadata["shards"].append({"file": path.name, "bytes": size, "sha256": digest, **counts})
        for name, count in counts.items():
            self._metadata[name] += count
        self._lengths, self._bytes = [], 0
        self._publish()

    def _publish(self) -> None:
        shards = self._metadata["shards"]
        lengths, size = [shard["episodes"] for shard in shards], sum(shard["bytes"] for shard in shards)
        texts = rlds.tfds_files(self._name, self._metadata["shapes"], lengths, size)
        for name, text in {**texts, METADATA: json.dumps(self._metadata, indent=1)}.items():
            path = self._directory / name
            with _disk(path):
                Path(f"{path}{INCOMPLETE}").write_text(text)
                _publish(path)


def is_store(directory: Path) -> bool:
    """Whether a directory holds a dataset of this form, or what is left of one."""
    found = {path.name for path in Path(directory).glob("*") if not path.name.endswith(INCOMPLETE)}
    return bool(found & {METADATA, *rlds.TFDS_FILES}) or any(".array_record-" in name for name in found)


def read_metadata(directory: Path) -> dict[str, Any]:
    """What the writer was given, with name, date, versions, complete, episodes, transitions, shapes, shards.

    Raises InputError where there is no dataset or its description is damaged.
    """
    path = Path(directory) / METADATA
    if not path.is_file():
        cause = "is lost; copy it again" if is_store(path.parent) else "does not exist; no dataset is there"
        raise InputError(f"dataset: {path} {cause}")
    try:
        metadata = json.loads(path.read_bytes())
        counts = {name: sum(s[name] for s in metadata["shards"]) for name in ("episodes", "transitions")}
        fits = all(metadata[name] == count for name, count in counts.items()) and counts["episodes"] > 0
        fits &= all({"file", "bytes", "sha256"} <= shard.keys() for shard in metadata["shards"])
        fits &= all(len(metadata["shapes"][name]) == 1 for name in rlds.VECTORS)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"dataset: {path} is damaged ({_line(error)}); copy it again") from error
    if not fits:
        raise InputError(f"dataset: {path} is damaged (its counts or shapes disagree); copy it again")
    return metadata


def read_episodes(
    directory: Path, start: int = 0, stop: int | None = None, frames: bool = True
) -> list[dict[str, np.ndarray]]:
    """Episodes `start` to `stop` (exclusive; None: to the last), each with all its fields; frames may be left out.

    Raises InputError naming the first file that is missing, truncated or changed, before any episode is read.
    """
    directory = Path(directory)
    metadata = read_metadata(directory)
    count = metadata["episodes"]
    stop = count if stop is None else stop
    if not 0 <= start < stop <= count:
        raise InputError(f"dataset: {directory} has no episodes {start} to {stop}; choose within 0 to {count}")
    for shard in metadata["shards"]:
        if fault := shard_fault(directory, shard):
            raise InputError(f"dataset: {directory / shard['file']} {fault}; copy it again")
    shapes = {name: shape for name, shape in metadata["shapes"].items() if frames or name != "pixels"}
    episodes: list[dict[str, np.ndarray]] = []
    first = 0
    for shard in metadata["shards"]:
        low, high = max(start - first, 0), min(stop - first, shard["episodes"])
        if low < high:
            episodes.extend(read_shard(directory / shard["file"], shapes, low, high))
        first += shard["episodes"]
    return episodes


def shard_fault(directory: Path, shard: Mapping[str, Any]) -> str | None:
    """What is wrong with a listed shard as its size and checksum tell, or None."""
    path = Path(directory) / shard["file"]
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != shard["bytes"]:
        return f"has {size} bytes, expected {shard['bytes']}"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    matches = digest == shard["sha256"]
    return None if matches else f"has SHA-256 {digest[:12]}..., expected {shard['sha256'][:12]}..."


def read_shard(
    path: Path, shapes: Mapping[str, Sequence[int]], start: int, stop: int
) -> Iterator[dict[str, np.ndarray]]:
    """Episodes `start` to `stop` of an intact shard. Raises InputError naming a record that is no episode."""
    reader = _array_record().ArrayRecordReader(str(path))
    if reader.num_records() < stop:
        raise InputError(f"dataset: {path} has {reader.num_records()} records, expected {stop}; copy it again")
    decode = rlds.decoder(shapes)
    for index, record in enumerate(reader.read(start, stop), start):
        try:
            yield decode(record)
        except Exception as error:  # each kind of damage has a class of its own
            raise InputError(f"dataset: {path} record {index} is not an episode: {_line(error)}") from error


def state_digest(dataset_dir: Path) -> str:
    """SHA-256, in hex, of the shards' checksums in order: equal where the same episodes were stored."""
    shards = read_metadata(dataset_dir)["shards"]
    return hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest()


def _publish(path: Path) -> None:
    """Gives a written file its name once its content is on the disk."""
    with open(f"{path}{INCOMPLETE}", "rb") as file:
        os.fsync(file.fileno())
    os.replace(f"{path}{INCOMPLETE}", path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into an InputError; array_record reports it as RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise InputError(f"dataset: cannot write {path}: {_line(error)}; finished shards are intact") from error


def _columns(shapes: Mapping[str, Sequence[int]], name: str) -> str:
    return " x ".join(map(str, shapes[name])) if name in shapes else "no"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _array_record() -> Any:
    from array_record.python import array_record_module

    return array_record_module
