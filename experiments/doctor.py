"""What is right or wrong with an installation and a machine, and the command that mends it.

Every check judges facts that it is given (`experiments.commands.doctor` gathers them) and returns one `Check`.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import agents
from embodied.data.dataset import STACK
from embodied.types import EnvSpec, Spec
from experiments.experiment import Experiment
from experiments.presets import COLLECT

GIB = 2**30
LITTLE_DISK, LITTLE_MEMORY = 5 * GIB, 4 * GIB
RENDERERS = ("egl", "osmesa")
INSTALL_RENDERER = "sudo apt-get install libegl1 libgl1-mesa-dri  # or libosmesa6, with MUJOCO_GL=osmesa"
NO_RENDERER = ("disable", "disabled", "off", "false", "0")  # values of MUJOCO_GL that MuJoCo takes as "none"
KEEP_CACHE = "export JAX_COMPILATION_CACHE_DIR=$HOME/.cache/jax"
EXACT = 1e-5  # relative error that a float32 product of 256 x 256 matrices stays well below


class Check(NamedTuple):
    """One finding; `fix` is a command, or empty where nothing is to be done."""

    status: Literal["ok", "warn", "fail"]
    name: str
    value: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.status:4}  {self.name:20}  {self.value}" + (f"  -> {self.fix}" if self.fix else "")


def exit_code(checks: Sequence[Check]) -> int:
    """1 where something fails, else 0; warnings do not count."""
    return int(any(check.status == "fail" for check in checks))


def check_python(version: str, wanted: SpecifierSet) -> Check:
    """Whether the project is made for this Python."""
    if wanted.contains(version, prereleases=True):
        return Check("ok", "python", version)
    return Check("fail", "python", f"{version}, needs {wanted}", "python3.12 -m venv .venv")


def check_package(requirement: Requirement, version: str | None) -> Check:
    """Whether a package is there, in a version that the project is made for; None means missing."""
    if version is not None and requirement.specifier.contains(version, prereleases=True):
        return Check("ok", requirement.name, version)
    value = f"{version or 'is missing'}, needs {requirement.specifier}"
    return Check("fail", requirement.name, value, f"python -m pip install '{requirement}'")


def check_floors(found: Mapping[str, Path | None], home: Path) -> Check:
    """Whether our packages are the ones that an import finds, and not namesakes."""
    for name, folder in found.items():
        if folder != home / name:
            value = f"'import {name}' reads {folder}"
            return Check("fail", "own packages", value, "python -m venv .venv, for embodied-stack alone")
    return Check("ok", "own packages", f"{', '.join(found)} in {home}")


def check_backend(backend: str, kinds: Sequence[str], nvidia: bool) -> Check:
    """What JAX computes on; an NVIDIA card that it leaves idle is a warning."""
    value = f"{backend}: {', '.join(f'{kinds.count(kind)} x {kind}' for kind in dict.fromkeys(kinds))}"
    if nvidia and backend == "cpu":
        return Check("warn", "jax backend", f"{value}, the NVIDIA card is idle", "python -m pip install 'jax[cuda13]'")
    return Check("ok", "jax backend", value)


def check_precision(setting: str | None, error: float, backend: str) -> Check:
    """How exact float32 products are; accelerators trade digits for speed by default, a CPU has no reason to."""
    value = f"{setting or 'default'}, relative error {error:.0e}"
    if not error < EXACT and backend == "cpu":
        return Check("warn", "matmul precision", value, "unset JAX_DEFAULT_MATMUL_PRECISION")
    return Check("ok", "matmul precision", value)


def check_renderer(setting: str, works: Callable[[str], bool]) -> Check:
    """Which value of MUJOCO_GL draws, the present one first; without any only pictures are missing."""
    chosen = [] if setting in ("", *NO_RENDERER) else [setting]
    for renderer in dict.fromkeys([*chosen, *RENDERERS]):
        if works(renderer):
            if renderer == setting:
                return Check("ok", "renderer", f"MUJOCO_GL={setting} draws")
            value = f"MUJOCO_GL={setting} does not draw, {renderer} does"
            return Check("warn", "renderer", value, f"export MUJOCO_GL={renderer}")
    value = f"MUJOCO_GL={setting}: nothing draws, so there are no pictures and videos"
    return Check("warn", "renderer", value, INSTALL_RENDERER)


def check_video(version: str | None) -> Check:
    """Whether videos can be written; None means that no ffmpeg was found."""
    if version is None:
        fix = "python -m pip install --force-reinstall imageio-ffmpeg"
        return Check("warn", "ffmpeg", "is missing, so there are no videos", fix)
    return Check("ok", "ffmpeg", version)


def check_disk(folder: Path, free: int) -> Check:
    """Whether there is room for data and runs; `free` in bytes."""
    value = f"{size(free)} free in {folder}"
    if free < LITTLE_DISK:
        return Check("warn", "disk", f"{value}, {size(LITTLE_DISK)} advised", f"du -sh {folder}/* | sort -h")
    return Check("ok", "disk", value)


def check_cache(folder: Path | None) -> Check:
    """Whether compiled programs are kept, so that a second start is quick; None means that they are not."""
    if folder is None:
        return Check("warn", "compile cache", "off, so every start compiles anew", KEEP_CACHE)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Check("warn", "compile cache", f"{folder} cannot be written", KEEP_CACHE)
    sizes = [path.stat().st_size for path in folder.glob("*") if path.is_file()]
    return Check("ok", "compile cache", f"{folder}, {len(sizes)} files, {size(sum(sizes))}")


def check_cores(cores: int, processor: str) -> Check:
    """How many cores this process may use."""
    return Check("ok", "cpu cores", f"{cores} of {processor}")


def check_memory(total: int, free: int) -> Check:
    """Whether there is memory enough for the small presets; both in bytes."""
    value = f"{size(free)} of {size(total)} available"
    if free < LITTLE_MEMORY:
        return Check("warn", "memory", f"{value}, {size(LITTLE_MEMORY)} advised", "ps aux --sort=-rss | head")
    return Check("ok", "memory", value)


class Estimate(NamedTuple):
    """Bytes that a training run takes on the device."""

    params: int
    target: int
    optimizer: int
    rows: int  # stored observations, a count
    data: int  # one copy of the rows
    copies: int  # a ring is held as it was at the start and as it is
    work: int  # activations and gradients of one update; rough, within a third

    @property
    def device(self) -> int:
        """All of it."""
        return self.params + self.target + self.optimizer + self.copies * self.data + self.work

    @property
    def checkpoint(self) -> int:
        """Bytes of one checkpoint before compression; a ring is part of it, stored data is not."""
        return self.params + self.target + self.optimizer + (self.data if self.copies > 1 else 0)


def estimate(experiment: Experiment, world: EnvSpec) -> Estimate:
    """What a preset takes, without allocating it; for stored data as much as the world's collect preset makes."""
    spec = Spec(obs=world.obs, action=world.action)
    module = agents.module(type(experiment.agent).__module__.rpartition(".")[2])
    state = jax.eval_shape(module.make(experiment.agent, spec).init, jax.random.key(0), spec.example())
    params, target = _bytes(state.params), _bytes(state.target)
    online = experiment.online
    rows = online.capacity * (online.decisions + 1) if online.worlds else collected_rows(experiment.world)
    row = sum(_stored(name, shape) for name, shape in world.obs.items()) + 4 * (world.action + world.physics + 2)
    return Estimate(
        params=params,
        target=target,
        optimizer=_bytes(state) - params - target,
        rows=rows,
        data=rows * row,
        copies=2 if online.worlds else 1,
        work=2 * 4 * experiment.train.batch_size * layer_outputs(state.params),
    )


def _stored(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of an observation in a row of data; of pixels only the latest frame."""
    return math.prod(shape) // STACK if name == "pixels" else 4 * math.prod(shape)


def collected_rows(world: str) -> int:
    """The rows of the largest dataset that a collect preset of this world makes."""
    return max(one.episodes * (one.decisions + 1) for one in COLLECT.values() if one.world == world)


def layer_outputs(params: Any) -> int:
    """The summed width of all layers, ensemble members counted singly.

    Twice their outputs for a batch is what XLA allocates for temporaries of an update, to within a third
    (compared for TD-JEPA, FB and TD3 at hidden 1024, and TD-JEPA at hidden 256).
    """
    kernels = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim >= 2]
    return sum(math.prod(shape[:-2]) * shape[-1] for shape in kernels)


def check_device_memory(need: Estimate, available: int) -> Check:
    """Whether a preset fits the device; `available` in bytes."""
    parts = {"params": need.params, "target": need.target, "optimizer": need.optimizer, "work": need.work}
    listed = ", ".join(f"{name} {size(count)}" for name, count in parts.items())
    data = f"data {need.copies} x {size(need.data)} ({need.rows:,} rows)"
    value = f"{size(need.device)} of {size(available)}: {listed}, {data}"
    if need.device > available:
        large_ring = need.copies > 1 and need.copies * need.data > need.work
        fewer = "embodied collect ... --episodes 1000; embodied train ... --online.capacity 1000"
        fix = fewer if large_ring else "embodied train ... --train.batch-size 128"
        return Check("fail", "device memory", value, fix)
    return Check("ok", "device memory", value)


def check_checkpoints(need: Estimate, keep: int, free: int) -> Check:
    """Whether the checkpoints that are kept, and the one being written, fit the disk; `free` in bytes."""
    value = f"{size(need.checkpoint)}, {keep + 1} of them on disk at once, {size(free)} free"
    if (keep + 1) * need.checkpoint > free:
        return Check("fail", "checkpoint", value, "embodied train ... --train.keep-checkpoints 1")
    return Check("ok", "checkpoint", value)


def size(count: int) -> str:
    """Bytes for people: three digits and a unit."""
    unit = min(int(math.log(max(count, 1), 1024)), 3)
    return f"{count / 1024**unit:.{3 if count < 1000 * 1024**unit else 4}g} {('B', 'KiB', 'MiB', 'GiB')[unit]}"


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
