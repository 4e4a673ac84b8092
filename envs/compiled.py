"""MuJoCo models as worlds use them: compiled from a text, with further sensors, and small enough to copy."""

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import mujoco

SENSORS = {  # what `compile_model` can add, in the world frame, or with "_in_BODY" behind it in that of another body
    "position": mujoco.mjtSensor.mjSENS_FRAMEPOS,
    "centre_of_mass": mujoco.mjtSensor.mjSENS_FRAMEPOS,  # of the body without those that it carries
    "x_axis": mujoco.mjtSensor.mjSENS_FRAMEXAXIS,
    "y_axis": mujoco.mjtSensor.mjSENS_FRAMEYAXIS,
    "z_axis": mujoco.mjtSensor.mjSENS_FRAMEZAXIS,
    "linear_velocity": mujoco.mjtSensor.mjSENS_FRAMELINVEL,
    "angular_velocity": mujoco.mjtSensor.mjSENS_FRAMEANGVEL,
    "angular_momentum": mujoco.mjtSensor.mjSENS_SUBTREEANGMOM,
}

# Sensors that positions and velocities alone decide; "FRAMEPOS" stands for mjSENS_FRAMEPOS.
KINEMATIC = ("CLOCK", "JOINTPOS", "JOINTVEL", "BALLQUAT", "BALLANGVEL", "TENDONPOS", "TENDONVEL", "ACTUATORPOS")
KINEMATIC += ("ACTUATORVEL", "FRAMEPOS", "FRAMEQUAT", "FRAMEXAXIS", "FRAMEYAXIS", "FRAMEZAXIS", "FRAMELINVEL")
KINEMATIC += ("FRAMEANGVEL", "VELOCIMETER", "GYRO", "MAGNETOMETER", "SUBTREECOM", "SUBTREELINVEL", "SUBTREEANGMOM")
# What makes forces; none of it moves a body within the state that is looked at.
FORCES = ("CONSTRAINT", "CONTACT", "ACTUATION", "SPRING", "DAMPER", "EULERDAMP")


class Compiled(NamedTuple):
    """A model and what it was compiled from."""

    model: mujoco.MjModel
    spec: mujoco.MjSpec

    @property
    def xml(self) -> str:
        """A self-contained text that gives the model again, to the six digits that MuJoCo writes."""
        with _without_noise():
            return self.spec.to_xml()


def compile_model(
    xml: str,
    include: Mapping[str, bytes],
    sensors: Mapping[str, Sequence[str]],
    without: Sequence[str] = (),
) -> Compiled:
    """The compiled model with sensors '<body>_<kind>' added after its own; `sensors` is body -> kinds.

    Sensors do not change the physics. Whatever moves, couples, drives or senses and is called a name of `without` is
    left out; bodies take their sensors with them.
    """
    spec = mujoco.MjSpec.from_string(xml, include=dict(include))
    elements = [*spec.sensors, *spec.actuators, *spec.equalities, *spec.tendons, *spec.joints, *spec.bodies]
    for element in [element for element in elements if element.name in without]:
        spec.delete(element)
    for body, kinds in sensors.items():
        for kind in kinds:
            what, _, other = kind.partition("_in_")
            seen_from = {"reftype": mujoco.mjtObj.mjOBJ_XBODY, "refname": other} if other else {}
            frame = {"objtype": _frame_of(what), "objname": body}
            spec.add_sensor(name=f"{body}_{kind}", type=SENSORS[what], **frame, **seen_from)
    return Compiled(_compile(spec), spec)


def without_textures(source: Compiled) -> mujoco.MjModel:
    """The model with all its textures a single pixel, for copies: textures are 99 % of a model's memory."""
    spec = source.spec.copy()
    for texture in spec.textures:
        texture.builtin, texture.file, texture.width, texture.height = mujoco.mjtBuiltin.mjBUILTIN_FLAT, "", 1, 1
    return _compile(spec)


def without_forces(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy for reading the sensors of given states: the same values in a third of the time, and no use for stepping.

    The model itself where a sensor reads forces or accelerations.
    """
    kinds = {mujoco.mjtSensor(kind).name.removeprefix("mjSENS_") for kind in model.sensor_type.tolist()}
    if not kinds <= set(KINEMATIC):
        return model
    still = copy.copy(model)
    for force in FORCES:
        still.opt.disableflags |= int(getattr(mujoco.mjtDisableBit, f"mjDSBL_{force}"))
    still.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER  # the cheapest
    return still


def _compile(spec: mujoco.MjSpec) -> mujoco.MjModel:
    with _without_noise():
        return spec.compile()


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*settotalmass.*")  # in dm_control's own cheetah
        yield


def _frame_of(kind: str) -> mujoco.mjtObj:
    # XBODY is the frame that xpos and xmat describe; BODY is that of the inertia, and the root of a subtree.
    inertial = kind in ("angular_momentum", "centre_of_mass")
    return mujoco.mjtObj.mjOBJ_BODY if inertial else mujoco.mjtObj.mjOBJ_XBODY
