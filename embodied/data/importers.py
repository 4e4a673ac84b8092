"""Episodes from public offline data: ExoRL folders and OGBench files.

ExoRL (Yarats et al. 2022): one npz per episode with observation, action, reward, discount and physics,
each of T + 1 rows. action[t], reward[t] and discount[t] led to observation[t], so their row 0 is a dummy.
OGBench (Park et al. 2025): one npz with all trajectories end to end. actions[t] follows observations[t],
and terminals is 1 in the last row of each trajectory.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from embodied.data.rlds import Episode
from embodied.types import InputError

# Field -> number of dimensions.
EXORL = {"observation": 2, "action": 2, "reward": 2, "discount": 2, "physics": 2}
OGBENCH = {"observations": 2, "actions": 2, "terminals": 1, "qpos": 2, "qvel": 2, "button_states": 2}
OPTIONAL = ("physics", "qpos", "qvel", "button_states")
UNENDED = "begins a trajectory without an end"


def read_exorl(folder: Path, limit: int | None = None) -> Iterator[Episode]:
    """The first `limit` episodes of a folder by file name, with physics as stored ([qpos, qvel]).

    Raises InputError naming file and field.
    """
    files = exorl_files(Path(folder))
    return (_exorl_episode(file) for file in itertools.islice(files, limit))


def exorl_files(folder: Path) -> list[Path]:
    """The episode files of a folder by name. Raises InputError where it has none."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        below = next(iter(sorted(folder.glob("*/*.npz"))), None)
        hint = f"did you mean {below.parent}?" if below else "an ExoRL folder has one .npz file per episode"
        raise InputError(f"dataset: {folder} holds no .npz file; {hint}")
    return files


def _exorl_episode(file: Path) -> Episode:
    arrays, faults = read_npz(file, EXORL)
    _refuse(file, faults)
    state = arrays["observation"].astype(np.float32)
    if len(state) < 2:
        raise InputError(f"dataset: {file} 'observation' has {len(state)} rows, expected at least 2")
    return {
        "state": state,
        "action": arrays["action"][1:].astype(np.float32),
        "physics": arrays.get("physics", np.zeros((len(state), 0))).astype(np.float64),
        "reward": arrays["reward"][1:, 0].astype(np.float32),
        "discount": arrays["discount"][1:, 0].astype(np.float32),
    }


def read_ogbench(file: Path, limit: int | None = None) -> Iterator[Episode]:
    """The first `limit` trajectories of a file, physics [qpos, qvel] where stored, with the states of buttons behind.

    A trajectory of L rows gives L - 1 transitions: what the action of its last row did is not stored. Its end
    is a time limit, so every discount is 1. Raises InputError naming file and field.
    """
    file = Path(file)
    arrays, faults = read_npz(file, OGBENCH)
    _refuse(file, faults)
    slices = trajectories(arrays["terminals"])
    if (row := unended(arrays["terminals"])) is not None:
        raise InputError(f"dataset: {file} 'terminals' row {row} {UNENDED}")
    empty = np.zeros((len(arrays["terminals"]), 0))
    physics = [arrays.get(name, empty).astype(np.float64) for name in ("qpos", "qvel", "button_states")]

    def episode(rows: slice) -> Episode:
        if rows.stop - rows.start < 2:
            raise InputError(f"dataset: {file} 'terminals' row {rows.start} ends a trajectory of one row")
        return {
            "state": arrays["observations"][rows].astype(np.float32),
            "action": arrays["actions"][rows][:-1].astype(np.float32),
            "physics": np.concatenate([part[rows] for part in physics], axis=1),
            "discount": np.ones(rows.stop - rows.start - 1, np.float32),
        }

    return (episode(rows) for rows in itertools.islice(slices, limit))


def trajectories(terminals: np.ndarray) -> list[slice]:
    """The rows of each trajectory that has an end."""
    ends = np.flatnonzero(terminals) + 1
    return [slice(int(a), int(b)) for a, b in itertools.pairwise([0, *ends])]


def unended(terminals: np.ndarray) -> int | None:
    """The row that begins a trajectory without an end, or None; a file without rows begins one in row 0."""
    slices = trajectories(terminals)
    stop = slices[-1].stop if slices else 0
    return stop if stop < max(len(terminals), 1) else None


def complete_physics(
    physics: Float[np.ndarray, "R K"],
    nq: int,
    nv: int,
    na: int,
    nu: int,
    actions: Float[np.ndarray, "T U"],
    control_dt: float,
) -> Float[np.ndarray, "R P"]:
    """Physics (time, qpos, qvel, act, ctrl) [T+1, 1+nq+nv+na+nu] from imported [T+1, nq+nv] or with act behind.

    Row t gets the time t * control_dt (seconds), the command actions[t-1] that led to it as its ctrl (row 0:
    zeros), and zero activations where none are stored. `actions` are actuator commands: components in [-1, 1]
    that were scaled to the actuators' ranges.
    """
    rows, columns = physics.shape
    if columns not in (nq + nv, nq + nv + na):
        raise InputError(f"physics: {columns} columns, expected nq + nv (+ na) = {nq + nv} (+ {na})")
    if actions.shape != (rows - 1, nu):
        raise InputError(f"actions: shape {list(actions.shape)}, expected [{rows - 1}, {nu}]")
    time = control_dt * np.arange(rows)[:, None]
    act = np.zeros((rows, nq + nv + na - columns))
    ctrl = np.concatenate([np.zeros((1, nu)), actions])
    return np.concatenate([time, physics, act, ctrl], axis=1)


def npz_fields(file: Path) -> list[str]:
    """The names of the arrays in an npz file. Raises InputError where it is not one."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            return list(archive.files)
    except Exception as error:  # each kind of damage has a class of its own
        raise InputError(f"dataset: {file} is not a readable npz file ({type(error).__name__})") from error


def read_npz(file: Path, fields: Mapping[str, int]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file that can be used, and for every other field that is needed what is wrong with it.

    The field "" stands for the whole file. Lengths are compared with that of the first field.
    """
    try:
        present = npz_fields(file)
    except InputError as error:
        return {}, {"": str(error).partition(f"{file} ")[2]}
    arrays: dict[str, np.ndarray] = {}
    faults: dict[str, str] = {}
    with np.load(file, allow_pickle=False) as archive:
        for name, rank in fields.items():
            if name not in present:
                if name not in OPTIONAL:
                    faults[name] = "is missing"
                continue
            try:
                array = archive[name]
            except Exception as error:  # as above; object arrays, which would need pickle, are a ValueError
                pickled = "Object arrays" in str(error)
                faults[name] = "holds Python objects" if pickled else f"is unreadable ({type(error).__name__})"
                continue
            if fault := _misfit(array, rank):
                faults[name] = fault
            else:
                arrays[name] = array
    lead = next(iter(fields))
    for name in [name for name in arrays if lead in arrays and len(arrays[name]) != len(arrays[lead])]:
        faults[name] = f"has {len(arrays.pop(name))} rows, '{lead}' has {len(arrays[lead])}"
    return arrays, faults


def _misfit(array: np.ndarray, rank: int) -> str | None:
    if array.dtype.kind not in "fiub":
        return f"has dtype {array.dtype}, expected numbers"
    if array.ndim != rank:
        return f"has shape {list(array.shape)}, expected {rank} dimension{'s' * (rank > 1)}"
    return "has no columns" if 0 in array.shape[1:] else None


def _refuse(file: Path, faults: Mapping[str, str]) -> None:
    for name, fault in faults.items():
        field = f"'{name}' " if name else ""
        raise InputError(f"dataset: {file} {field}{fault}")
