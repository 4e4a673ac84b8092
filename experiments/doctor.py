"""What is installed and found on this machine, what is wrong with it, and the command that mends it.

Each check is a function of what it judges and gives one `Check`; `examine` gathers the facts.
"""

import importlib.metadata
import importlib.util
import math
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from experiments.results import ROOT, hardware

DISTRIBUTION = "embodied-stack"
FLOORS = ("agents", "envs", "embodied", "experiments")
RENDERERS = {
    "egl": "sudo apt-get install libegl1 libgl1-mesa-dri",
    "osmesa": "sudo apt-get install libosmesa6",
}
GIB = 2**30
LITTLE_DISK, LITTLE_MEMORY = 5 * GIB, 4 * GIB
DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(data)
    image = renderer.render()
print("drawn" if image.max() > image.min() else "blank")
"""


class Check(NamedTuple):
    """One finding; `fix` is a command, or empty where nothing is to be done."""

    status: Literal["ok", "warn", "fail"]
    name: str
    value: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f"  -> {self.fix}" if self.fix else ""
        return f"{self.status:4}  {self.name:22}  {self.value}{fix}"


def examine(folder: Path) -> list[Check]:
    """All checks of this machine; `folder` is where runs will be written."""
    wanted_python, requirements = declared()
    device = jax.devices()[0]
    nvidia = Path("/dev/nvidia0").exists()
    cache = jax.config.jax_compilation_cache_dir
    machine = hardware()
    return [
        check_python(platform.python_version(), wanted_python),
        *(check_package(requirement, installed(requirement.name)) for requirement in requirements),
        *(check_floor(name, origin(name), ROOT / name) for name in FLOORS),
        check_backend(jax.default_backend(), [d.device_kind for d in jax.devices()], nvidia),
        check_precision(jax.config.jax_default_matmul_precision, matmul_error(), device.platform),
        check_renderer(os.environ.get("MUJOCO_GL", ""), draws),
        check_video(ffmpeg()),
        check_disk(folder, shutil.disk_usage(folder).free),
        check_cache(Path(cache) if cache else None),
        check_cores(machine["cores"], machine["cpu"]),
        check_memory(int(machine["memory_gib"] * GIB), free_memory()),
    ]


def declared() -> tuple[SpecifierSet, list[Requirement]]:
    """(Python versions, run-time requirements): of pyproject.toml in a checkout, else of the installed package."""
    file = ROOT / "pyproject.toml"
    if file.exists():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        python, texts = project["requires-python"], project["dependencies"]
    else:
        metadata = importlib.metadata.metadata(DISTRIBUTION)
        python, texts = metadata["Requires-Python"], importlib.metadata.requires(DISTRIBUTION) or []
    requirements = map(Requirement, texts)
    return SpecifierSet(python), [r for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})]


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_python(version: str, wanted: SpecifierSet) -> Check:
    """Whether this Python is one of those that the project is tested with."""
    if wanted.contains(version, prereleases=True):
        return Check("ok", "python", version)
    return Check("fail", "python", f"{version}, needs {wanted}", "make demo PYTHON=python3.12")


def check_package(requirement: Requirement, version: str | None) -> Check:
    """Whether a package is there in a version that the project is tested with."""
    fix = f"{Path(sys.executable).name} -m pip install '{requirement}'"
    if version is None:
        return Check("fail", requirement.name, f"is missing, needs {requirement.specifier}", fix)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check("fail", requirement.name, f"{version}, needs {requirement.specifier}", fix)
    return Check("ok", requirement.name, version)


def origin(package: str) -> Path | None:
    """The folder that `import package` reads."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).resolve().parent if spec and spec.origin else None


def check_floor(name: str, found: Path | None, home: Path) -> Check:
    """Whether `import name` reads our own package and not a namesake."""
    if found == home:
        return Check("ok", f"import {name}", str(home))
    return Check("fail", f"import {name}", f"reads {found}", f"python3 -m venv .venv, and {DISTRIBUTION} alone in it")


def check_backend(backend: str, kinds: Sequence[str], nvidia: bool) -> Check:
    """What JAX computes on; a graphics card that it does not use is a warning."""
    value = f"{backend}: {', '.join(f'{kinds.count(kind)} x {kind}' for kind in dict.fromkeys(kinds))}"
    if nvidia and backend == "cpu":
        return Check("warn", "jax backend", f"{value}, although there is an NVIDIA card", "pip install 'jax[cuda13]'")
    return Check("ok", "jax backend", value)


def matmul_error() -> float:
    """The largest error of a float32 product of 256 x 256 matrices, relative to its largest entry."""
    generator = np.random.default_rng(0)
    left, right = generator.standard_normal((2, 256, 256)).astype(np.float32)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    return float(np.abs(np.asarray(jnp.matmul(left, right)) - exact).max() / np.abs(exact).max())


def check_precision(setting: str | None, error: float, backend: str) -> Check:
    """How exact float32 products are; on accelerators the default trades digits for speed, on a CPU it must not."""
    value = f"{setting or 'default'}, relative error {error:.0e}"
    if not error < 1e-5 and backend == "cpu":
        return Check("warn", "matmul precision", value, "export JAX_DEFAULT_MATMUL_PRECISION=highest")
    return Check("ok", "matmul precision", value)


def draws(renderer: str) -> bool:
    """Whether MuJoCo draws an image with this value of MUJOCO_GL; tried in a process of its own, as it may crash."""
    environment = os.environ | {"MUJOCO_GL": renderer}
    command = [sys.executable, "-c", DRAW]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.stdout.strip().endswith("drawn")


def check_renderer(setting: str, works: Callable[[str], bool]) -> Check:
    """Which renderer works, that of MUJOCO_GL first; without one only pictures are missing."""
    off = setting in ("disable", "disabled", "off", "0", "false")
    preferred = [setting] if setting and not off else []
    for renderer in dict.fromkeys([*preferred, *RENDERERS]):
        if works(renderer):
            if renderer == setting:
                return Check("ok", "renderer", f"MUJOCO_GL={setting} draws")
            value = f"MUJOCO_GL={setting} draws nothing, {renderer} does"
            return Check("warn", "renderer", value, f"export MUJOCO_GL={renderer}")
    value = f"MUJOCO_GL={setting}: no renderer works, so no pictures and videos"
    return Check("warn", "renderer", value, " or ".join(RENDERERS.values()))


def ffmpeg() -> str | None:
    """The version of the ffmpeg that videos are written with."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_version()
    except (RuntimeError, OSError):
        return None


def check_video(version: str | None) -> Check:
    """Whether videos can be written."""
    if version is None:
        return Check("warn", "ffmpeg", "is missing, so no videos", "pip install --force-reinstall imageio-ffmpeg")
    return Check("ok", "ffmpeg", version)


def check_disk(folder: Path, free: int) -> Check:
    """Whether there is room for runs and datasets."""
    value = f"{size(free)} free at {folder.resolve()}"
    if free < LITTLE_DISK:
        return Check("warn", "disk", f"{value}, advised {size(LITTLE_DISK)}", "embodied train ... --out DIR elsewhere")
    return Check("ok", "disk", value)


def check_cache(folder: Path | None) -> Check:
    """Whether compiled programs are kept, so that a second start is quick."""
    if folder is None:
        fix = "export JAX_COMPILATION_CACHE_DIR=$HOME/.cache/jax"
        return Check("warn", "compile cache", "off: every start compiles anew", fix)
    files = [path for path in folder.glob("*") if path.is_file()]
    value = f"{folder}: {len(files)} files, {size(sum(path.stat().st_size for path in files))}"
    parent = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not os.access(parent, os.W_OK):
        fix = "export JAX_COMPILATION_CACHE_DIR=$HOME/.cache/jax"
        return Check("warn", "compile cache", f"{value}, cannot be written", fix)
    return Check("ok", "compile cache", value)


def check_cores(cores: int, processor: str) -> Check:
    """How many cores this process may use."""
    return Check("ok", "cpu cores", f"{cores} usable, {processor}")


def free_memory() -> int | None:
    """Bytes of memory that are free or can be freed, where Linux tells."""
    file = Path("/proc/meminfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def check_memory(total: int, free: int | None) -> Check:
    """Whether there is memory enough for the small presets."""
    value = f"{size(total)}" + (f", {size(free)} available" if free is not None else "")
    if (total if free is None else free) < LITTLE_MEMORY:
        return Check("warn", "memory", f"{value}, advised {size(LITTLE_MEMORY)}", "close other programs")
    return Check("ok", "memory", value)


def size(count: float) -> str:
    """Bytes for people: three digits and a unit."""
    unit = min(int(math.log(max(count, 1), 1024)), 3)
    return f"{count / 1024**unit:.3g} {('B', 'KiB', 'MiB', 'GiB')[unit]}"


def worst(checks: Sequence[Check]) -> int:
    """The exit code: 1 where something fails, else 0; warnings do not count."""
    return int(any(check.status == "fail" for check in checks))


def as_mapping(checks: Sequence[Check]) -> Mapping[str, object]:
    """The checks for `--json`."""
    return {"ok": not worst(checks), "checks": [check._asdict() for check in checks]}
