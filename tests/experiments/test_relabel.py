"""Stored transitions with the rewards of a task: what they see, and where episodes end."""

import numpy as np
import pytest

from embodied.data import dataset
from embodied.rewards import Task
from embodied.types import InputError
from experiments.train import relabel
from tests.embodied.toys import Adder


@pytest.fixture(scope="module")
def world():
    env = Adder(jittable=False)
    quantities = env.spec.quantities
    env.tasks = {
        "there": Task.of("there", "x", quantities),
        "gain": Task.of("gain", "x - previous_x", quantities),
        "effort": Task.of("effort", "0 * x + component(action, 0)", quantities, action=1),
        "away": Task.of("away", "x - 10", quantities),
    }
    return env


def stored(*positions):
    """A dataset of episodes that pass these x with actions 10, 11, ... in each."""
    count = [len(x) - 1 for x in positions]
    return dataset.from_episodes(
        [
            {
                "state": np.stack([x, x], 1),
                "action": 10.0 + np.arange(n)[:, None],
                "physics": np.asarray(x)[:, None],
            }
            for x, n in zip(map(np.float64, positions), count, strict=True)
        ]
    )


@pytest.mark.parametrize("chunk", [1, 2, 3, 50_000])
@pytest.mark.parametrize(
    ("task", "first", "second"),
    [("there", [2, 5], [8, 4, 1]), ("gain", [1, 3], [-1, -4, -3]), ("effort", [10, 11], [10, 11, 12])],
)
def test_rewards_are_of_the_transition_that_begins_in_a_row(world, task, first, second, chunk):
    reward = relabel(stored([1, 2, 5], [9, 8, 4, 1]), world, task, chunk).steps.reward
    assert reward.dtype == np.float32
    np.testing.assert_array_equal(reward, [*first, 0, *second, 0])


def test_costs_that_are_nowhere_positive_count_from_the_worst(world):
    # Costs -8, -5 and -2, -6, -9, of which the worst is -9; a row that begins no transition has no reward.
    reward = relabel(stored([1, 2, 5], [9, 8, 4, 1]), world, "away").steps.reward
    np.testing.assert_array_equal(reward, [1, 4, 0, 7, 3, 0, 0])


def test_unknown_tasks_and_states_without_physics_are_refused(world):
    data = stored([1, 2, 5])
    with pytest.raises(InputError, match="world 'adder' has no task 'gian'; did you mean 'gain'"):
        relabel(data, world, "gian")
    bare = data.replace(steps=data.steps.replace(physics=data.steps.physics[:, :0]))
    with pytest.raises(InputError, match="its states carry no physics vector, so the rewards of 'gain'"):
        relabel(bare, world, "gain")
