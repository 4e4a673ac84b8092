"""From frames to a policy that acts on frames: collect, draw, train, prompt and evaluate, on painted images."""

import dataclasses

import jax
import numpy as np
import pytest

import envs
from embodied.data import store
from embodied.policy import load
from embodied.types import Goal, InputError
from envs.host import HostEnv
from experiments import collect, ogbench_agents, train
from experiments.commands import data as data_command
from experiments.evaluate import evaluate_tasks
from experiments.models import world_of
from experiments.presets import COLLECT, PRESETS

SIZE = 32


def painted(self, physics, camera, size):
    """A ball of a few pixels where the world has it, on a floor of one grey; needs no GL library."""
    image = np.full((size, size, 3), 90, np.uint8)
    row, column = (int((0.3 + sign * at) / 0.6 * (size - 4)) for sign, at in ((-1, physics[2]), (1, physics[1])))
    image[row : row + 4, column : column + 4, 0] = 255
    return image


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(HostEnv, "render", painted)
    jax.config.update("jax_disable_most_optimizations", True)
    yield tmp_path_factory.mktemp("pixels")
    jax.config.update("jax_disable_most_optimizations", False)
    patch.undo()


@pytest.fixture(scope="module")
def data(place):
    config = dataclasses.replace(COLLECT["point_maze-pixels-noise"], episodes=20, worlds=10, decisions=6, pixels=SIZE)
    return collect.run(config, place / "data", quiet=True)


@pytest.fixture(scope="module")
def experiment():
    preset = PRESETS["point_maze-td_jepa-pixels-small"]
    small = dataclasses.replace(preset.train, updates=2, chunk=2, batch_size=8)
    return dataclasses.replace(preset, agent=preset.agent.tiny(), train=small, pixels=SIZE, buffer=40)


@pytest.fixture(scope="module")
def policy(place, data, experiment):
    return load(train.run(experiment, data, place / "run", quiet=True))


def test_collected_frames_show_the_states_beside_them_and_say_how_they_were_drawn(data, place):
    metadata = store.read_metadata(data)
    assert metadata["frames"]["size"] == SIZE
    assert metadata["frames"]["shadows"] is False
    assert metadata["options"] == {"hold": 10}
    for episode in store.read_episodes(data, 0, 2):
        drawn = np.stack([painted(None, state, "", SIZE) for state in episode["physics"]])
        np.testing.assert_array_equal(episode["pixels"], drawn)


def test_frames_can_be_drawn_for_data_that_has_none(data, place, capsys):
    bare = dataclasses.replace(COLLECT["point_maze-noise"], episodes=20, worlds=10, decisions=6)
    collect.run(bare, place / "bare", quiet=True)
    data_command.main(["render", f"{place}/bare", "--out", f"{place}/drawn", "--pixels", f"{SIZE}"])
    assert f"pixels {SIZE}x{SIZE}x3" in capsys.readouterr().out
    for ours, theirs in zip(store.read_episodes(place / "drawn"), store.read_episodes(data), strict=True):
        assert ours.keys() == theirs.keys()
        assert all((ours[name] == theirs[name]).all() for name in ours)
    metadata = store.read_metadata(place / "drawn")
    assert metadata["rendered_from"] == store.state_digest(place / "bare")
    assert metadata["world"] == "point_maze"


def test_training_from_pixels_leaves_a_policy_that_acts_on_pixels(policy):
    assert policy.options == {"hold": 10, "pixels": SIZE}
    assert policy.spec.obs == {"pixels": (SIZE, SIZE, 9)}
    assert policy.buffer.obs["pixels"].shape == (40, SIZE, SIZE, 9)
    assert policy.buffer.obs["pixels"].dtype == np.uint8
    env = world_of(policy)
    env.spec = dataclasses.replace(env.spec, episode_length=2 * env.spec.hold)
    scores = evaluate_tasks(policy, env, episodes=2)
    assert set(scores) == set(env.tasks)
    assert all(np.isfinite(one.returns).all() for one in scores.values())


def test_loaded_policy_acts_as_the_saved_one(policy, place):
    policy.save(place / "again")
    again = load(place / "again")
    goal = Goal({name: leaf[3] for name, leaf in policy.buffer.obs.items()})
    prompted, other = policy.prompt(goal), again.prompt(goal)
    env = world_of(policy)
    obs = {"pixels": env.reset(jax.random.key(0), 1).obs["pixels"][0]}
    action, _ = prompted.act(obs, prompted.carry())
    np.testing.assert_array_equal(action, other.act(obs, other.carry())[0])
    assert action.shape == (2,)
    assert again.sha256 == policy.sha256


def test_data_without_frames_or_with_others_is_refused(data, place, experiment):
    with pytest.raises(InputError, match=f"has frames of {SIZE} x {SIZE}, pixels is 64; draw them with: embodied data"):
        train.run(dataclasses.replace(experiment, pixels=64), data, place / "no")
    online = dataclasses.replace(experiment, online=dataclasses.replace(experiment.online, worlds=2))
    with pytest.raises(InputError, match="online: worlds must be 0 for a world that is seen in pixels, got 2"):
        train.run(online, data, place / "no")


def test_frames_are_left_out_where_states_are_learned_from(data):
    episodes, _ = collect.load_data(data, "point_maze")
    assert {"state", "action", "physics"} < episodes[0].keys()
    assert "pixels" not in episodes[0]


def test_pixel_presets_name_worlds_that_can_be_seen():
    named = [name for name in (*PRESETS, *COLLECT) if "pixels" in name]
    assert {name.split("-")[0] for name in named} == {
        "point_maze",
        "walker",
        "cheetah",
        "quadruped",
        "push_t",
        *ogbench_agents.WORLDS,
    }
    for name in named:
        preset = PRESETS.get(name) or COLLECT[name]
        assert preset.pixels == 64, name
        assert preset.world in envs.WORLDS | envs.EXTRA_WORLDS
    small = [PRESETS[name] for name in PRESETS if name.endswith("-pixels-small")]
    assert {one.agent.image.strides for one in small} == {(4, 2, 2)}
    assert {one.online.worlds for one in small} == {0}
