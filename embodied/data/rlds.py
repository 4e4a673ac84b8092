"""Episodes as RLDS records: what TFDS writes, but coded whole fields at a time and without TensorFlow.

An episode of T transitions is one record of T + 1 steps. The last step holds an observation only: its action
and reward are zero and its discount repeats the one before. Physics is stored as bytes because the float
lists of a record are float32; so are frames, which are optional, uncompressed.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied.types import InputError, nearest

# state [T+1, O], action [T, A], physics [T+1, P], reward [T], discount [T]; with frames also pixels [T+1, H, W, 3]
Episode = Mapping[str, np.ndarray]
FIELDS = {
    "state": np.float32,
    "action": np.float32,
    "physics": np.float64,
    "reward": np.float32,
    "discount": np.float32,
    "pixels": np.uint8,
}
PER_ROW = ("state", "physics", "pixels")  # T + 1 rows; the other fields have T
VECTORS = ("state", "action", "physics")
RANKS = {**dict.fromkeys(FIELDS, 1), **dict.fromkeys(VECTORS, 2), "pixels": 4}  # axes, that of the rows included
TFDS_FILES = ("features.json", "dataset_info.json")
_COLUMNS = {1: "", 2: ", columns", 4: ", height, width, 3"}  # by number of axes, for errors


def complete(episode: Episode) -> dict[str, np.ndarray]:
    """All fields in their stored precision; where absent, physics is empty, reward 0, discount 1, and no frames.

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
    if "pixels" in given and np.asarray(given["pixels"]).dtype != np.uint8:
        raise InputError(f"episode: 'pixels' must be uint8, got {np.asarray(given['pixels']).dtype}")
    arrays = {name: np.ascontiguousarray(given[name], dtype) for name, dtype in FIELDS.items() if name in given}
    for name, array in arrays.items():
        rows = count + (name in PER_ROW)
        colours = name != "pixels" or array.shape[-1:] == (3,)
        if count == 0 or array.ndim != RANKS[name] or len(array) != rows or not colours:
            expected = f"[{max(rows, 1)}{_COLUMNS[RANKS[name]]}]"
            raise InputError(f"episode: '{name}' has shape {list(array.shape)}, expected {expected}")
    return arrays


def encode(episode: Episode) -> bytes:
    """The record of one episode with all its fields; equal episodes give equal bytes."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    def floats(values: np.ndarray) -> Any:
        return tf_feature_pb2.Feature(float_list=tf_feature_pb2.FloatList(value=values.ravel().tolist()))

    def flags(values: np.ndarray) -> Any:
        return tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=values.astype(int).tolist()))

    index = np.arange(len(episode["state"]))
    last = index == index[-1]
    padded = {name: np.concatenate([episode[name], np.zeros_like(episode[name][:1])]) for name in ("action", "reward")}
    discount = np.concatenate([episode["discount"], episode["discount"][-1:]])
    raw = {
        f"steps/observation/{name}": tf_feature_pb2.Feature(
            bytes_list=tf_feature_pb2.BytesList(value=[row.tobytes() for row in episode[name]])
        )
        for name in ("physics", "pixels")
        if name in episode
    }
    features = {
        "steps/observation/state": floats(episode["state"]),
        "steps/action": floats(padded["action"]),
        "steps/reward": floats(padded["reward"]),
        "steps/discount": floats(discount),
        "steps/is_first": flags(index == 0),
        "steps/is_last": flags(last),
        "steps/is_terminal": flags(last & (discount == 0)),
    } | raw
    example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def decoder(shapes: Mapping[str, Sequence[int]]) -> Callable[[bytes], dict[str, np.ndarray]]:
    """A function from a record to its episode, for records whose fields have these shapes of a row.

    It raises whatever protobuf or NumPy raise for a record that does not fit.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    def decode(record: bytes) -> dict[str, np.ndarray]:
        features = tf_example_pb2.Example.FromString(record).features.feature

        def floats(name: str) -> np.ndarray:
            return np.array(features[name].float_list.value, np.float32)

        def raw(name: str) -> np.ndarray:
            values = features[f"steps/observation/{name}"].bytes_list.value
            return np.frombuffer(bytearray().join(values), FIELDS[name]).reshape(len(values), *shapes[name])

        physics = raw("physics")
        rows = len(physics)
        episode = {
            "state": floats("steps/observation/state").reshape(rows, *shapes["state"]),
            "action": floats("steps/action").reshape(rows, *shapes["action"])[:-1],
            "physics": physics,
            "reward": floats("steps/reward").reshape(rows)[:-1],
            "discount": floats("steps/discount").reshape(rows)[:-1],
        }
        return episode | ({"pixels": raw("pixels").reshape(rows, *shapes["pixels"])} if "pixels" in shapes else {})

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

    raw = {name: tensor(name, encoding="bytes") for name in ("physics", "pixels") if name in shapes}
    step = {
        "observation": {"state": tensor("state"), **raw},
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
