"""The level of randomisation from a preset to data, policy and evaluation; worlds of different levels mix."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from embodied import promptfile
from embodied.data import store
from embodied.promptfile import Request
from embodied.train import TrainConfig
from embodied.types import InputError
from envs.randomise import COLUMNS, LEVELS
from experiments import cli, collect, train
from experiments.experiment import Online
from experiments.models import resolve, world_of
from experiments.presets import COLLECT, PRESETS

PLAIN = 7  # numbers of the maze's physics vector
LITTLE = dataclasses.replace(COLLECT["point_maze-noise"], episodes=8, decisions=6, worlds=4)
SMALL = dataclasses.replace(
    PRESETS["point_maze-fb-small"],
    agent=PRESETS["point_maze-fb-small"].agent.tiny(),
    train=TrainConfig(updates=20, batch_size=16, chunk=10),
    online=Online(worlds=4, decisions=6, latent_hold=3, capacity=20),
    buffer=40,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data of both kinds and a run that learned from the plain one in a randomised world."""
    folder = tmp_path_factory.mktemp("randomised")
    jax.config.update("jax_disable_most_optimizations", True)
    for level in ("none", "standard"):
        collect.run(dataclasses.replace(LITTLE, randomise=level), folder / level, quiet=True)
    train.run(dataclasses.replace(SMALL, randomise="standard"), folder / "none", folder / "run", quiet=True)
    yield folder
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize(
    ("level", "options", "length"),
    [("none", {"hold": 10}, PLAIN), ("standard", {"hold": 10, "randomise": "standard"}, PLAIN + len(COLUMNS))],
)
def test_level_is_stored_with_the_data(place, level, options, length):
    metadata = store.read_metadata(place / level)
    assert metadata["options"] == options
    assert metadata["collector"]["randomise"] == level
    assert store.read_episodes(place / level)[0]["physics"].shape == (7, length)


def test_world_of_a_policy_is_made_again_as_it_was_or_with_another_level(place):
    policy, env = resolve(str(place / "run"))
    assert policy.options == {"hold": 10, "randomise": "standard"}
    assert env.world.randomise == LEVELS["standard"]
    assert resolve(str(place / "run"), "hard")[1].world.randomise == LEVELS["hard"]
    assert world_of(dataclasses.replace(policy, options={"hold": 10})).spec.physics == PLAIN


def test_ring_keeps_nominal_parameters_of_stored_episodes_and_those_drawn_for_rollouts(place):
    policy, env = resolve(str(place / "run"))
    assert policy.buffer.physics.shape == (40, env.spec.physics)
    seeds = policy.buffer.physics[:, -1]
    assert (seeds == 0).any()
    assert (seeds > 0).any()
    np.testing.assert_array_equal(policy.buffer.physics[seeds == 0, PLAIN], 1.0)


def test_prompts_of_a_policy_are_the_same_in_a_world_of_another_level(place):
    policy, own = resolve(str(place / "run"))
    other = resolve(str(place / "run"), "none")[1]
    request = Request("reward", "tolerance(x, 0.05, inf, 0.2)", samples=40)
    ours, theirs = (promptfile.infer(request, policy, env)[0].z for env in (own, other))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    state = tuple(policy.buffer.physics[0].tolist())
    assert promptfile.infer(Request("state", state=state), policy, other)[0].z.shape == ours.shape


def test_evaluation_in_another_world_says_so_and_scores_differently(place, capsys):
    returns = []
    for level in ("none", "hard"):
        out = place / f"scores-{level}.json"
        reward = ("--reward", "tolerance(x, 0.05, inf, 0.2)", "--episodes", "2", "--out", str(out))
        cli.main(["evaluate", str(place / "run"), *reward, "--randomise", level])
        assert f"world point_maze, randomised: {level}" in capsys.readouterr().out
        returns.append(json.loads(out.read_text())["fb"]["prompt"]["mean"])
    assert returns[0] != returns[1]


def test_unknown_levels_are_refused_with_the_nearest(place, capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", str(place / "run"), "--randomise", "standart"])
    assert "unknown level 'standart'; did you mean 'standard'" in capsys.readouterr().err
    with pytest.raises(InputError, match="collect: unknown randomise 'hrad'; did you mean 'hard'"):
        dataclasses.replace(LITTLE, randomise="hrad")
    with pytest.raises(InputError, match="train: unknown randomise 'non'; did you mean 'none'"):
        dataclasses.replace(SMALL, randomise="non")
