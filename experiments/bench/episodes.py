"""Episodes of Meta-World's arms that solve a task and that do not, all of one length, for what must tell them apart."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import no_type_check

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

import envs
from embodied.rollout import Trajectory, rollout
from embodied.types import Env, InputError
from envs import metaworld_expert
from envs.pixels import frames

SUCCESSES, REVERSED = "expert", "reversed"
FRAME = 18  # numbers of an observation that are about now; as many about the step before follow
ATTEMPTS = 30  # batches for one kind of episode
BEHIND = 10  # decisions behind the first solved one up to which an episode counts as on its way


@no_type_check
@dataclasses.dataclass(frozen=True)
class Episodes:
    """N episodes of one kind, T + 1 states each."""

    states: Float[np.ndarray, "N T+1 O"]
    action: Float[np.ndarray, "N T A"]
    physics: Float[np.ndarray, "N T+1 P"]
    solved: Bool[np.ndarray, "N T"]

    def ends(self, every: int) -> np.ndarray:
        """Of each episode, how many of its every so many-th states lie up to a little behind its first solved one."""
        last = np.minimum(self.solved.argmax(1) + 1 + BEHIND, self.solved.shape[1])
        return -(-last // every) + 1

    def images(self, env: Env, every: int, size: int) -> UInt8[np.ndarray, "N F H W 3"]:
        """What the world's camera sees of every so many-th state."""
        return np.stack([frames(env, one[::every], size) for one in self.physics])


def play(world: str, manner: str, count: int, decisions: int, seed: int) -> Episodes:
    """So many episodes of an arm that acts in that manner: solved at their end by "expert", and never by the others.

    Raises InputError where too few of them come out that way.
    """
    env = world_of(world)
    behave, met = metaworld_expert.behaviour(world, manner), env.trials["success"].met
    found: list[Episodes] = []
    for attempt in range(ATTEMPTS):
        key_reset, key_roll = jax.random.split(jax.random.fold_in(jax.random.key(seed), attempt))
        mind, start = metaworld_expert.mind(count, decisions, seed + attempt), env.reset(key_reset, count)
        made = rollout(env, behave, start, mind, decisions, key_roll, traced=False)
        solved = np.asarray(met(made.path)).reshape(count, decisions, -1).any(2)
        wanted = solved[:, -1] if manner == SUCCESSES else ~solved.any(1)
        found.append(_some(made, solved, wanted))
        if sum(len(one.states) for one in found) >= count:
            return _joined(found, count)
    raise InputError(f"progress: {world}: too few episodes of kind '{manner}' come out as they should")


@functools.cache
def world_of(name: str) -> Env:
    """The world of that name, once."""
    return envs.make(name)


def backwards(episodes: Episodes) -> Episodes:
    """The same episodes played backwards; what was before is what comes after. Nothing is solved in them."""
    states = episodes.states[:, ::-1].copy()
    states[:, 1:, FRAME : 2 * FRAME] = states[:, :-1, :FRAME]
    states[:, 0, FRAME : 2 * FRAME] = states[:, 0, :FRAME]
    physics, action = episodes.physics[:, ::-1], -episodes.action[:, ::-1]
    return Episodes(states, action, physics, np.zeros_like(episodes.solved))


def rows(kinds: Mapping[str, Episodes]) -> Iterator[dict[str, np.ndarray]]:
    """The episodes of all kinds in the form in which data is stored."""
    for episodes in kinds.values():
        for state, action, physics in zip(episodes.states, episodes.action, episodes.physics, strict=True):
            yield {"state": state, "action": action, "physics": physics[:, :0]}


def _some(made: Trajectory, solved: np.ndarray, wanted: np.ndarray) -> Episodes:
    return Episodes(made.obs["state"][wanted], made.action[wanted], made.physics[wanted], solved[wanted])


def _joined(found: list[Episodes], count: int) -> Episodes:
    names = [field.name for field in dataclasses.fields(Episodes)]
    return Episodes(*(np.concatenate([getattr(one, name) for one in found])[:count] for name in names))
