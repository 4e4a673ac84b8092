"""Episodes as RLDS records: what TFDS writes, but coded whole fields at a time and without TensorFlow.

An episode of T transitions is one record of T + 1 steps. The last step holds an observation only: its action
and reward are zero and its discount repeats the one before. Physics is stored as bytes because the float
lists of a record are float32.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied.types import InputError, nearest

# state [T+1, O], action [T, A], physics [T+1, P], reward [T], discount [T]
Episode = Mapping[str, np.ndarray]
FIELDS = {
    "state": np.float32,
    "action": np.float32,
    "physics": np.float64,
    "reward": np.float32,
    "discount": np.float32,
}
PER_ROW = ("state", "physics")  # T + 1 rows; the other fields have T
VECTORS = ("state", "action", "physics")  # the other fields are scalars
TFDS_FILES = ("features.json", "dataset_info.json")


def complete(episode: Episode) -> dict[str, np.ndarray]:
    """All five fields in their stored precision; where absent, physics is empty, reward 0 and discount 1.

    Raises InputError naming a field that is unknown, missing or of the wrong shape.
    """
    for name in episode:
        if name not in FIELDS:
            raise InputError(f"episode: unknown field '{name}'; {nearest(name, FIELDS)}")
    for name in ("state", "action"):
        if name not in episode:
            raise InputError(f"episode: field '{name}' is missing; it needs 'state' and 'action'")
    count = len(episode["action"])
    defaults = {"physics": np.zeros((count + 1, 0)), "reward": np.zeros(count), "discount": np.ones(count)}
    given = {**defaults, **episode}
    arrays = {name: np.ascontiguousarray(given[name], dtype) for name, dtype in FIELDS.items()}
    for name, array in arrays.items():
        rows, rank = count + (name in PER_ROW), 1 + (name in VECTORS)
        if count == 0 or array.ndim != rank or len(array) != rows:
            expected = f"[{max(rows, 1)}{', columns' if rank == 2 else ''}]"
            raise InputError(f"episode: '{name}' has shape {list(array.shape)}, expected {expected}")
    return arrays


def encode(episode: Episode) -> bytes:
    """The record of one episode with all five fields; equal episodes give equal bytes."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    def floats(values: np.ndarray) -> Any:
        return tf_feature_pb2.Feature(float_list=tf_feature_pb2.FloatList(value=values.ravel().tolist()))

    def flags(values: np.ndarray) -> Any:
        return tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=values.astype(int).tolist()))

    index = np.arange(len(episode["state"]))
    last = index == index[-1]
    padded = {name: np.concatenate([episode[name], np.zeros_like(episode[name][:1])]) for name in ("action", "reward")}
    discount = np.concatenate([episode["discount"], episode["discount"][-1:]])
    physics = tf_feature_pb2.BytesList(value=[row.tobytes() for row in episode["physics"]])
    features = {
        "steps/observation/state": floats(episode["state"]),
        "steps/observation/physics": tf_feature_pb2.Feature(bytes_list=physics),
        "steps/action": floats(padded["action"]),
        "steps/reward": floats(padded["reward"]),
        "steps/discount": floats(discount),
        "steps/is_first": flags(index == 0),
        "steps/is_last": flags(last),
        "steps/is_terminal": flags(last & (discount == 0)),
    }
    example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def decoder(shapes: Mapping[str, Sequence[int]]) -> Callable[[bytes], dict[str, np.ndarray]]:
    """A function from a record to its episode, for records whose state, action and physics have these shapes.

    It raises whatever protobuf or NumPy raise for a record that does not fit.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    def decode(record: bytes) -> dict[str, np.ndarray]:
        features = tf_example_pb2.Example.FromString(record).features.feature

        def floats(name: str) -> np.ndarray:
            return np.array(features[name].float_list.value, np.float32)

        physics = features["steps/observation/physics"].bytes_list.value
        rows = len(physics)
        return {
            "state": floats("steps/observation/state").reshape(rows, *shapes["state"]),
            "action": floats("steps/action").reshape(rows, *shapes["action"])[:-1],
            "physics": np.frombuffer(bytearray().join(physics)).reshape(rows, *shapes["physics"]),
            "reward": floats("steps/reward").reshape(rows)[:-1],
            "discount": floats("steps/discount").reshape(rows)[:-1],
        }

    return decode


def shard_name(name: str, index: int) -> str:
    """The file name of a shard, as the files of `tfds_files` announce it."""
    return f"{name}-train.array_record-{index:05d}"


def tfds_files(name: str, shapes: Mapping[str, Sequence[int]], lengths: Sequence[int], size: int) -> dict[str, str]:
    """The texts of the files that TFDS opens a directory by: its features, and the episodes in each shard.

    `size` is that of all shards in bytes.
    """
    import tensorflow_datasets as tfds

    def tensor(field: str, **options: str) -> Any:
        return tfds.features.Tensor(shape=tuple(shapes[field]), dtype=FIELDS[field], **options)

    step = {
        "observation": {"state": tensor("state"), "physics": tensor("physics", encoding="bytes")},
        "action": tensor("action"),
        "reward": np.float32,
        "discount": np.float32,
        **dict.fromkeys(("is_first", "is_last", "is_terminal"), np.bool_),
    }
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir="", module_name=""
    )
    features = tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step)})
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    info.set_file_format("array_record")
    template = tfds.core.ShardedFileTemplate(
        dataset_name=name,
        data_dir="",
        split="train",
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
    )
    split = tfds.core.SplitInfo(name="train", shard_lengths=list(lengths), num_bytes=size, filename_template=template)
    info.set_splits(tfds.core.splits.SplitDict([split]))
    with tempfile.TemporaryDirectory() as folder:
        info.write_to_directory(folder)
        return {file: (Path(folder) / file).read_text() for file in TFDS_FILES}
