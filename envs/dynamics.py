"""Randomised worlds, for both forms alike: what an episode's parameters do to model, commands and observations.

The parameters scale fields of the compiled model (`fields`, one function for numpy and jax.numpy). Masses, inertias and
armatures scale together, so the mass matrix scales as a whole, and all that MuJoCo derives from it at compile time
scales or divides with it: no constant is computed anew, and the result equals a model compiled from scaled numbers. The
one approximation is the centre of mass: constants that regularise constraints (invweight0) stay those of the base
without offset, in both forms.

Noise is part of an observation and of nothing else: quantities, rewards and the physics vector have none, and `read` of
either form gives the observation without it, which a critic or a comparison may want.
"""

import copy
import operator
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import mujoco
import numpy as np

from embodied.types import InputError
from envs.compiled import without_textures
from envs.model import WorldModel
from envs.randomise import COLUMNS, INTERVALS, NOISE, PUSHES, uniforms

LIMIT = 1024  # models kept, of about 0.1 MB each
WITH_MASS = (
    *("body_mass", "body_inertia", "body_subtreemass", "dof_armature", "tendon_armature", "actuator_armature"),
    *("dof_M0", "stat.meaninertia"),
)
AGAINST_MASS = ("body_invweight0", "dof_invweight0", "tendon_invweight0", "actuator_acc0")
WITH_DAMPING = ("dof_damping", "dof_dampingpoly")
LEADING = {  # field -> (parameter, number of leading columns that it scales)
    "geom_friction": ("friction", 1),
    "pair_friction": ("friction", 2),
    "actuator_gainprm": ("gain", 3),
    "actuator_biasprm": ("gain", 3),
}
FIELDS = (*WITH_MASS, *AGAINST_MASS, *WITH_DAMPING, *LEADING, "body_ipos")


def check(world: WorldModel) -> None:
    """Nothing; raises InputError where the world's model cannot take what its randomisation asks for."""
    model, ranges = world.model, world.randomise
    if ranges.centre_of_mass and model.body_simple[world.base] == 1:
        raise InputError(
            f"randomise: centre_of_mass must be 0 in world '{world.name}', whose base is compiled with a diagonal mass "
            f"matrix, got {ranges.centre_of_mass}"
        )
    affine = (model.actuator_gaintype <= int(mujoco.mjtGain.mjGAIN_AFFINE)) & (
        model.actuator_biastype <= int(mujoco.mjtBias.mjBIAS_AFFINE)
    )
    if ranges.gain != (1.0, 1.0) and not affine.all():
        name = model.actuator(int(np.argmin(affine))).name
        raise InputError(
            f"randomise: gain must be (1, 1) in world '{world.name}', whose actuator '{name}' is neither a motor nor a "
            f"servo, got {ranges.gain}"
        )


def fields(nominal: Mapping[str, Any], base: int, parameters: Any, numpy: ModuleType) -> dict[str, Any]:
    """The fields of a model under an episode's parameters [K], from those of the nominal model."""
    value = dict(zip(COLUMNS, parameters, strict=True))
    changed = {name: nominal[name] * value["mass"] for name in WITH_MASS if name in nominal}
    changed |= {name: nominal[name] / value["mass"] for name in AGAINST_MASS}
    changed |= {name: nominal[name] * value["damping"] for name in WITH_DAMPING}
    for name, (parameter, count) in LEADING.items():
        parts = nominal[name][:, :count] * value[parameter], nominal[name][:, count:]
        changed[name] = numpy.concatenate(parts, axis=1)
    offset = numpy.stack([value[f"com_{axis}"] for axis in "xyz"])
    is_base = np.arange(len(nominal["body_ipos"])) == base
    changed["body_ipos"] = nominal["body_ipos"] + numpy.where(is_base[:, None], offset[None], 0.0)
    return changed


def pushed(world: WorldModel, physics: Any, numpy: ModuleType) -> Any:
    """States [E, P] at the beginning of a decision, after the push that falls into it, if there is one.

    A push changes each linear velocity of the base by up to the world's `push` times the level's, either way. Times
    between pushes are whole control steps.
    """
    ranges = world.randomise
    if not ranges.push:
        return physics
    low, high = (max(1, round(seconds / world.control_dt)) for seconds in ranges.push_every)
    seed, step = _clock(world, physics, numpy)
    share = uniforms(seed, numpy.zeros_like(seed), INTERVALS, -(-world.episode_length // low), numpy)
    moments = numpy.cumsum(low + numpy.floor(share * np.float32(high - low + 1)), axis=1)
    due = ((moments >= step[:, None]) & (moments < step[:, None] + world.hold)).any(axis=1) & (seed > 0)
    largest = ranges.push * world.push * _linear(world)
    change = largest[None] * (2 * uniforms(seed, step, PUSHES, len(largest), numpy) - 1)
    velocity = physics[:, world.qvel] + numpy.where(due[:, None], change, 0.0)
    return numpy.concatenate([physics[:, : world.qvel.start], velocity, physics[:, world.qvel.stop :]], axis=1)


def _linear(world: WorldModel) -> np.ndarray:
    """Which velocities [nv] are linear ones of the base."""
    model = world.model
    joint = model.dof_jntid
    free = (model.jnt_type[joint] == int(mujoco.mjtJoint.mjJNT_FREE)) & (
        np.arange(model.nv) < model.jnt_dofadr[joint] + 3
    )
    slide = model.jnt_type[joint] == int(mujoco.mjtJoint.mjJNT_SLIDE)
    return (model.dof_bodyid == world.base) & (free | slide)


def late(world: WorldModel, physics: Any, numpy: ModuleType) -> Any:
    """Physics steps [...] for which the command of the decision before goes on, at most a whole decision."""
    latency = physics[..., world.dynamics.start + COLUMNS.index("latency")]
    return numpy.rint(numpy.clip(latency, 0, 1) * (world.hold * world.substeps))


def noisy(world: WorldModel, frames: Any, physics: Any, numpy: ModuleType) -> Any:
    """Frames [E, F] as an actor sees them: with noise, uniform within the world's `noise` times the level's."""
    largest = world.randomise.noise * world.noise
    if not largest.any():
        return frames
    seed, step = _clock(world, physics, numpy)
    error = largest[None] * (2 * uniforms(seed, step, NOISE, len(largest), numpy) - 1)
    return frames + numpy.where((seed > 0)[:, None], error, 0.0)


def seen(world: WorldModel, physics: Any, sensordata: Any, numpy: ModuleType) -> tuple[Any, dict[str, Any]]:
    """(physics vectors [E, P] that remember the frames of now, observations by name).

    "state" [E, O] is as an actor sees it, with noise; "privileged", where the world has it, is without.
    """
    frames = noisy(world, world.frames(physics, sensordata, numpy), physics, numpy)
    obs = {"state": world.memory.observation(physics, frames, numpy)} | world.extras(physics, sensordata, numpy)
    return world.memory.stored(physics, frames, numpy), obs


def _clock(world: WorldModel, physics: Any, numpy: ModuleType) -> tuple[Any, Any]:
    """Seed [E] of each episode and control steps [E] since it began."""
    return physics[:, world.dynamics.stop - 1], numpy.rint(physics[:, 0] / world.control_dt)


def read_fields(model: Any) -> dict[str, Any]:
    """The fields that parameters may change, of a MuJoCo or MJX model; the latter lacks what it cannot simulate."""
    found = {name: operator.attrgetter(name)(model) for name in FIELDS if hasattr(model, name.partition(".")[0])}
    return {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in found.items()}


def altered(model: mujoco.MjModel, parameters: np.ndarray) -> mujoco.MjModel:
    """A copy of any model under an episode's parameters [K]; latency, pushes and noise are not the model's."""
    base = int(model.dof_bodyid[0])
    nominal, new = read_fields(model), copy.copy(model)
    _part_frames(new, base)
    _set(new, fields(nominal, base, parameters, np))
    return new


def _part_frames(model: mujoco.MjModel, base: int) -> None:
    # An offset parts the inertial frame from the frames that the compiler found to coincide with it.
    model.body_sameframe[base] = 0
    model.geom_sameframe[model.geom_bodyid == base] = 0
    model.site_sameframe[model.site_bodyid == base] = 0


def _set(model: mujoco.MjModel, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        owner, _, leaf = name.rpartition(".")
        setattr(getattr(model, owner) if owner else model, leaf, value)


class Copies:
    """Copies of a world's model, one for each set of parameters seen lately, so that worlds step side by side."""

    def __init__(self, world: WorldModel):
        self._base, self._template = world.base, without_textures(world.source)
        self._nominal = read_fields(self._template)
        _part_frames(self._template, self._base)
        self._made: dict[bytes, mujoco.MjModel] = {}  # the one used longest ago comes first

    def of(self, parameters: np.ndarray) -> list[mujoco.MjModel]:
        """A model for each of at most `LIMIT` rows [E, K]; they stay as they are until the next call."""
        assert len(parameters) <= LIMIT
        keys = [row[: COLUMNS.index("latency")].tobytes() for row in parameters]
        for key, row in dict(zip(keys, parameters, strict=True)).items():
            self._made[key] = self._made.pop(key) if key in self._made else self._make(row)
        return [self._made[key] for key in keys]

    def _make(self, row: np.ndarray) -> mujoco.MjModel:
        spare = next(iter(self._made)) if len(self._made) >= LIMIT else None
        model = copy.copy(self._template) if spare is None else self._made.pop(spare)
        _set(model, fields(self._nominal, self._base, row, np))
        return model
