"""`embodied doctor [--preset NAME] [--json]`."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from embodied.types import InputError, nearest
from experiments import doctor
from experiments.collect import make_env
from experiments.doctor import Check
from experiments.experiment import Experiment
from experiments.presets import PRESETS
from experiments.results import ROOT, hardware

FLOORS = ("agents", "envs", "embodied", "experiments")
DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(data)
image = renderer.render()
renderer.close()
print("drawn" if image.max() > image.min() else "blank")
"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Versions, backend, renderer, disk and memory, with the command that mends what is wrong.

    Exits with 1 where something fails; warnings do not count.
    """

    preset: str | None = None  # also estimate the memory that training this preset takes
    json: bool = False  # one JSON object instead of lines


def main(arguments: list[str]) -> None:
    """Prints one line per check. Raises InputError for an unknown preset."""
    chosen = tyro.cli(Arguments, args=arguments, prog="embodied doctor")
    if chosen.preset is not None and chosen.preset not in PRESETS:
        raise InputError(f"doctor: unknown preset '{chosen.preset}'; {nearest(chosen.preset, PRESETS)}")
    checks = examine(Path.cwd())
    if chosen.preset is not None:
        checks += examine_preset(PRESETS[chosen.preset], Path.cwd())
    code = doctor.exit_code(checks)
    if chosen.json:
        print(json.dumps({"ok": code == 0, "checks": [check._asdict() for check in checks]}, indent=1))
    else:
        print("\n".join(map(str, checks)))
    if code:
        raise SystemExit(code)


def examine(folder: Path) -> list[Check]:
    """All checks of this machine; `folder` is where data and runs will lie."""
    python, requirements = declared()
    machine, cache = hardware(), jax.config.jax_compilation_cache_dir
    total = int(machine["memory_gib"] * doctor.GIB)
    return [
        doctor.check_python(platform.python_version(), python),
        *(doctor.check_package(one, installed(one.name)) for one in requirements),
        doctor.check_floors({name: origin(name) for name in FLOORS}, ROOT),
        doctor.check_backend(
            jax.default_backend(), [device.device_kind for device in jax.devices()], Path("/dev/nvidia0").exists()
        ),
        doctor.check_precision(jax.config.jax_default_matmul_precision, matmul_error(), jax.default_backend()),
        doctor.check_renderer(os.environ.get("MUJOCO_GL", ""), draws),
        doctor.check_video(ffmpeg()),
        doctor.check_disk(folder, shutil.disk_usage(folder).free),
        doctor.check_cache(Path(cache) if cache else None),
        doctor.check_cores(machine["cores"], machine["cpu"]),
        doctor.check_memory(total, free_memory(total)),
    ]


def examine_preset(preset: Experiment, folder: Path) -> list[Check]:
    """Whether a preset fits this machine's memory and disk."""
    need = doctor.estimate(preset, make_env(preset.world, preset.hold, preset.randomise, pixels=preset.pixels).spec)
    stats = jax.devices()[0].memory_stats() or {}
    available = stats.get("bytes_limit") or free_memory(int(hardware()["memory_gib"] * doctor.GIB))
    free = shutil.disk_usage(folder).free
    return [
        doctor.check_device_memory(need, available),
        doctor.check_checkpoints(need, preset.train.keep_checkpoints, free),
    ]


def declared() -> tuple[SpecifierSet, list[Requirement]]:
    """(Python versions, run-time requirements): of pyproject.toml in a checkout, else of the installed package."""
    file = ROOT / "pyproject.toml"
    if file.exists():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        python, texts = project["requires-python"], project["dependencies"]
    else:
        package = importlib.metadata.distribution("embodied-stack")
        python, texts = package.metadata["Requires-Python"], package.requires or []
    requirements = map(Requirement, texts)
    return SpecifierSet(python), [one for one in requirements if not one.marker or one.marker.evaluate({"extra": ""})]


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def origin(package: str) -> Path | None:
    """The folder that `import package` reads."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).resolve().parent if spec and spec.origin else None


def matmul_error() -> float:
    """The largest error of a float32 product of 256 x 256 matrices, relative to its largest entry."""
    left, right = np.random.default_rng(0).standard_normal((2, 256, 256)).astype(np.float32)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    return float(np.abs(np.asarray(jnp.matmul(left, right)) - exact).max() / np.abs(exact).max())


def draws(renderer: str) -> bool:
    """Whether MuJoCo draws with this value of MUJOCO_GL; in a process of its own, because a failure may abort it."""
    environment = os.environ | {"MUJOCO_GL": renderer}
    try:
        done = subprocess.run(
            [sys.executable, "-c", DRAW], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return "drawn" in done.stdout


def ffmpeg() -> str | None:
    """The version of the ffmpeg that videos are written with."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_version()
    except (RuntimeError, OSError):
        return None


def free_memory(total: int) -> int:
    """Bytes of memory that are free or can be freed; `total` where the system does not say."""
    file = Path("/proc/meminfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), total)
