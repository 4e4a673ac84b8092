"""Worlds inside a JAX program: the same models and readings through MuJoCo MJX, for accelerators.

On a CPU the host form is faster for all but the smallest models. Differences from the host form: float32;
start states are drawn from banks of 256 that the host form made; time is kept on the grid of control steps,
because a sum of float32 timesteps drifts; a world that becomes non-finite is replaced without a log line. A randomised
world begins in a state of the bank, with parameters drawn anew.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
from jaxtyping import Float
from mujoco import mjx

from embodied.types import Env, InputError, Obs, Quantities, RandomKey, Timestep
from envs import dynamics
from envs.host import HostEnv
from envs.model import WorldModel
from envs.randomise import SEEDS, draw

BANK = 256  # start states


class MjxEnv(Env):
    """A world as JAX arrays: every method may be traced. Raises InputError where MJX lacks a feature."""

    def __init__(self, world: WorldModel):
        self.world = world
        self.spec = world.spec(jittable=True)
        self.tasks = world.tasks()
        try:
            self._model = mjx.put_model(world.model, impl="jax")
            self._data = mjx.make_data(world.model, impl="jax")
        except NotImplementedError as error:
            message = f"form 'mjx' cannot simulate world '{world.name}' ({error}); use form 'host'"
            raise InputError(message) from error
        self._nominal = dynamics.read_fields(self._model)
        host, bank = HostEnv(world, threads=1), functools.partial(jax.tree.map, jnp.asarray)
        self._bank = bank(host.reset(jax.random.key(0), BANK))
        self.trials = {}
        for name, trial in host.trials.items():
            begun = bank(trial.start(jax.random.key(0), BANK)) if name in world.task_starts else self._bank
            self.trials[name] = trial._replace(start=functools.partial(self._begin, begun))
        self._step = jax.jit(self._traced_step)
        self._sense = jax.jit(jax.vmap(self._sense_one))

    def reset(self, key: RandomKey, count: int) -> Timestep:
        """`count` worlds at the start of an episode."""
        return self._begin(self._bank, key, count)

    def reset_to(self, physics: Float[Any, "E P"]) -> Timestep:
        """Worlds placed in the given physics states (time included, rounded to whole control steps)."""
        physics = self.complete(jnp.asarray(physics, jnp.float32))
        states, sensordata = (
            jnp.repeat(leaf[:, None], self.spec.hold, axis=1) for leaf in (physics, self._sense(physics))
        )
        return self._timestep(states, sensordata)

    def step(self, ts: Timestep, action: Float[Any, "E A"]) -> Timestep:
        """The worlds after holding `action` for `spec.hold` control steps.

        A world whose state becomes non-finite is replaced by one at a start, with `last` true and discount 0.
        """
        return self._step(self.complete(ts.physics), action)

    def observe(self, physics: Float[Any, "E P"]) -> tuple[Obs, Quantities]:
        """Observations, with their noise, and named quantities of stored physics states."""
        physics = self.complete(jnp.asarray(physics, jnp.float32))
        sensordata = self._sense(physics)
        _, obs = dynamics.seen(self.world, physics, sensordata, jnp)
        return obs, jax.vmap(self._measured)(physics, sensordata)

    def read(self, physics: Float[Any, "E P"]) -> tuple[Float[jax.Array, "E O"], Quantities]:
        """The observation "state" without noise and the named quantities of physics states."""
        physics = self.complete(jnp.asarray(physics, jnp.float32))
        return jax.vmap(self._read)(physics, self._sense(physics))

    def complete(self, physics: Float[Any, "E P"]) -> Float[Any, "E Q"]:
        """Physics states with the columns that this world has, see `WorldModel.complete`."""
        return self.world.complete(physics, jnp)

    def _begin(self, bank: Timestep, key: RandomKey, count: int) -> Timestep:
        index = jax.random.randint(key, (count,), 0, BANK)
        if not self.world.randomised:
            return jax.tree.map(lambda leaf: leaf[index], bank)
        seed = jax.random.randint(jax.random.fold_in(key, 1), (count,), 1, SEEDS)
        states = bank.physics[index, : self.world.dynamics.start]
        return self.reset_to(jnp.concatenate([states, draw(self.world.randomise, seed, jnp)], axis=1))

    def _traced_step(self, physics: jax.Array, action: jax.Array) -> Timestep:
        physics = self.world.memory.shifted(dynamics.pushed(self.world, physics, jnp), jnp)
        after = self._timestep(*jax.vmap(self._roll)(physics, action))
        failed = ~jnp.isfinite(after.physics).all(axis=1)
        fresh = jax.tree.map(lambda leaf: leaf[jnp.arange(len(failed)) % BANK], self._bank)

        def replace(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(failed.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        after = jax.tree.map(replace, fresh, after)
        return after.replace(discount=jnp.where(failed, 0.0, 1.0), last=after.last | failed)

    def _roll(self, physics: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        """States [H, P] and sensor values [H, S] of one world at the control steps of a decision.

        As in the host form, a step gives the sensor values before it, so one more step is taken than asked
        for: this compiles the model once instead of twice.
        """
        world, hold, substeps = self.world, self.spec.hold, self.world.substeps
        command, model = world.command(action, jnp), self._model_of(physics)
        begin = jnp.concatenate([physics[: world.ctrl.start], command, physics[world.ctrl.stop :]])
        ctrl, previous = world.controls(begin, jnp), world.controls(physics, jnp)
        late = dynamics.late(world, physics, jnp) if world.randomised else 0

        def advance(data: mjx.Data, step: jax.Array) -> tuple[mjx.Data, tuple[jax.Array, ...]]:
            if world.randomised:
                data = data.replace(ctrl=jnp.where(step < late, previous, ctrl))
            with jax.numpy_rank_promotion("allow"):  # MJX relies on it
                after = mjx.step(model, data)
                # Of Runge-Kutta's stages, the step gives the sensor values of the last.
                staged = world.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
                sensed = (mjx.forward(model, data) if staged else after).sensordata
            return after, (after.qpos, after.qvel, after.act, sensed)

        start = self._place(begin)
        _, (qpos, qvel, act, sensordata) = jax.lax.scan(advance, start, jnp.arange(hold * substeps + 1))
        ends = (jnp.arange(hold) + 1) * substeps
        steps = jnp.rint(physics[0] / self.spec.control_dt) + 1 + jnp.arange(hold)
        held = jnp.tile(begin[world.ctrl.start :][None], (hold, 1))
        parts = [steps[:, None] * self.spec.control_dt, qpos[ends - 1], qvel[ends - 1], act[ends - 1], held]
        return jnp.concatenate(parts, axis=1), sensordata[ends]

    def _place(self, physics: jax.Array) -> mjx.Data:
        world = self.world
        return self._data.replace(
            time=physics[0],
            qpos=physics[world.qpos],
            qvel=physics[world.qvel],
            act=physics[world.act],
            ctrl=world.controls(physics, jnp),
        )

    def _model_of(self, physics: jax.Array) -> mjx.Model:
        """The model under the parameters of one world's episode."""
        if not self.world.randomised:
            return self._model
        changed = dynamics.fields(self._nominal, self.world.base, physics[self.world.dynamics], jnp)
        return self._model.tree_replace(changed)

    def _sense_one(self, physics: jax.Array) -> jax.Array:
        with jax.numpy_rank_promotion("allow"):
            return mjx.forward(self._model_of(physics), self._place(physics)).sensordata

    def _read(self, physics: jax.Array, sensordata: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return self.world.read(physics, sensordata, jnp)

    def _measured(self, physics: jax.Array, sensordata: jax.Array) -> dict[str, jax.Array]:
        return self.world.measured(physics, sensordata, jnp)

    def _timestep(self, states: jax.Array, sensordata: jax.Array) -> Timestep:
        path = jax.vmap(jax.vmap(self._measured))(states, sensordata)
        physics, obs = dynamics.seen(self.world, states[:, -1], sensordata[:, -1], jnp)
        return Timestep(
            physics=physics,
            obs=obs,
            quantities={name: value[:, -1] for name, value in path.items()},
            path=path,
            discount=jnp.ones(len(states)),
            last=jnp.rint(states[:, -1, 0] / self.spec.control_dt) >= self.spec.episode_length,
        )
