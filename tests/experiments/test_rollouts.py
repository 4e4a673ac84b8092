"""Training from rollouts of one's own, whole or replayed: what they hold, how they go on, what resumes, is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
import envs
from agents import multi_critic, multi_critic_sac, planner
from embodied import promptfile
from embodied.deploy import bundle
from embodied.policy import load
from embodied.train import TrainConfig
from embodied.types import Goal, InputError, Prior, Spec
from experiments import figures, train
from experiments import rollouts as own
from experiments.cli import main
from experiments.evaluate import evaluate_tasks
from experiments.experiment import Experiment, Online
from experiments.models import resolve
from experiments.presets import PRESETS
from tests.agents.chains import random_state

WORLDS, DECISIONS = 4, 50
CONFIG = dataclasses.replace(multi_critic.Config(("reach_top_left", "loop"), moved=("position",)).tiny(), epochs=1)
EXPERIMENT = Experiment(
    "point_maze",
    CONFIG,
    TrainConfig(3, WORLDS * DECISIONS, 1, checkpoint_seconds=0.0, keep_checkpoints=3),
    online=Online(WORLDS, DECISIONS),
    buffer=30,
)
REPLAYED = dataclasses.replace(
    EXPERIMENT,
    agent=multi_critic_sac.Config(("reach_top_left", "loop"), moved=("position",)).tiny(),
    train=TrainConfig(6, 16, 2, checkpoint_seconds=0.0, keep_checkpoints=3),
    online=Online(WORLDS, 20, capacity=10),
)


@pytest.fixture(scope="module")
def env():
    return envs.make("point_maze", threads=1)


def filled(env, experiment):
    """The source, and its states after each of three refills with the first parameters: episodes have 100 decisions."""
    spec = Spec(env.spec.obs, env.spec.action, {"state": (0.0,) * 4}, {"state": (0.1,) * 4}, env.spec.parts)
    agent = agents.module(train.agent_name(experiment)).make(experiment.agent, spec)
    source = own.make_source(experiment, agent, spec, env)
    params = random_state(agent, spec).params
    state, states = source.init(jax.random.key(1)), []
    for i in range(3):
        state = source.refill(state, params, i, jax.random.key(i))
        states.append(jax.device_get(state))  # what a ring was is donated to what it becomes
    return source, states


@pytest.fixture(scope="module")
def rollouts(env):
    return filled(env, EXPERIMENT)[1]


@pytest.fixture(scope="module")
def replayed(env):
    return filled(env, REPLAYED)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train.run(EXPERIMENT, None, out, quiet=True)
    return out


def test_rollouts_go_on_until_their_episode_ends_and_keep_its_latent(rollouts):
    first, second, third = rollouts
    same = np.testing.assert_array_equal
    same(first.physics[:, -1], second.physics[:, 0])
    same(first.batch.next_obs["state"][:, -1], second.batch.obs["state"][:, 0])
    same(first.latent, second.latent)
    assert [int(one.decision) for one in (first, second, third)] == [50, 0, 50]
    assert (third.latent != second.latent).any()
    assert (third.physics[:, 0] != second.physics[:, -1]).any()
    assert len({tuple(z) for z in np.asarray(third.latent).tolist()}) == WORLDS


def test_batch_holds_what_was_seen_done_and_paid(env, rollouts):
    first = rollouts[0]
    batch = first.batch
    seen = env.observe(first.physics[0])[0]["state"]
    np.testing.assert_allclose(seen[:-1], batch.obs["state"][0], atol=1e-6)
    np.testing.assert_allclose(seen[1:], batch.next_obs["state"][0], atol=1e-6)
    assert batch.reward.shape == (WORLDS, DECISIONS, 2)
    # What a decision is paid: the mean over the control steps that its action is held.
    ts, paid = env.reset_to(first.physics[:, 0]), []
    for t in range(3):
        path = env.step(ts, batch.action[:, t]).path
        paid.append(np.asarray(env.tasks["reach_top_left"](path, None, path)).mean(1))
        ts = env.step(ts, batch.action[:, t])
    np.testing.assert_allclose(np.stack(paid, 1), batch.reward[:, :3, 0], atol=1e-5)
    assert not batch.last[:, :-1].any()
    assert batch.last[:, -1].all()
    assert (np.asarray(batch.discount) == 1).all()


def test_actions_are_draws_of_the_policy_that_is_told_the_latent(rollouts):
    first = rollouts[0]
    assert first.batch.latent.shape == (WORLDS, DECISIONS, 2 + 2 + 1)
    assert np.abs(first.batch.action).max() > 1  # worlds clip them, gradients need the draw


def test_run_of_rollouts_resumes_bit_for_bit(run, tmp_path):
    """An interrupted run ends as one that was not, although worlds were in the middle of an episode."""
    shorter = dataclasses.replace(EXPERIMENT, train=dataclasses.replace(EXPERIMENT.train, updates=1))
    train.run(shorter, None, tmp_path, quiet=True)
    train.run(EXPERIMENT, None, tmp_path, quiet=True)
    one, other = (load(folder) for folder in (run, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    np.testing.assert_array_equal(one.buffer.physics, other.buffer.physics)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(np.isfinite(row["reward/skill"]) for row in rows)


def test_policy_of_the_run_takes_goals_and_skills(env, run):
    policy = load(run)
    assert policy.spec.parts == {"position": (0, 2), "velocity": (2, 4)}
    for prompt in (Prior(), Goal({"state": jnp.zeros(4)})):
        here, z = {"state": jnp.zeros((3, 4))}, jnp.asarray(policy.prompt(prompt).z)
        action, _ = policy.agent.act(policy.params, here, z, (), None)
        assert action.shape == (3, 2)
    assert len(policy.buffer.physics) == 30
    np.testing.assert_allclose(env.observe(policy.buffer.physics)[0]["state"], policy.buffer.obs["state"], atol=1e-6)


def test_ring_holds_the_latest_rollouts_from_the_start_of_episodes_with_their_latents_and_rewards(env, replayed):
    _, states = replayed
    assert [int(one.ring.written) for one in states] == [4, 8, 12]
    steps = jax.tree.map(lambda leaf: leaf.reshape(10, 21, *leaf.shape[1:]), states[-1].ring.steps)
    assert (steps.physics[:, 0, 0] == 0).all()  # time
    latents = steps.latent[:, 0]
    np.testing.assert_array_equal(steps.latent, np.repeat(latents[:, None], 21, 1))
    assert len({tuple(z) for z in latents.tolist()}) == 10
    np.testing.assert_allclose(env.observe(steps.physics[3])[0]["state"], steps.obs["state"][3], atol=1e-6)
    assert np.abs(steps.action).max() < 1  # draws of a squashed policy
    # The newest two have taken the place of the oldest two.
    np.testing.assert_array_equal(steps.physics[2:4], states[0].ring.steps.physics.reshape(10, 21, -1)[2:4])
    assert (steps.physics[:2, 0] != states[0].ring.steps.physics.reshape(10, 21, -1)[:2, 0]).any()
    ts = env.reset_to(steps.physics[:, 0])
    path = env.step(ts, steps.action[:, 0]).path
    for k, name in enumerate(("reach_top_left", "loop")):
        paid = np.asarray(env.tasks[name](path, None, path)).mean(1)
        np.testing.assert_allclose(steps.reward[:, 0, k], paid, atol=1e-5)


def test_replayed_transitions_bring_the_latent_and_the_rewards_of_their_own_episode(replayed):
    source, states = replayed
    state, batch = source.next(source.data, states[0], jax.random.key(5))
    ring = state.ring.steps
    assert batch.reward.shape == (16, 2)
    assert batch.latent.shape == (16, 2 + 2 + 1)
    for i in range(16):
        (row,) = np.flatnonzero((np.asarray(ring.obs["state"]) == np.asarray(batch.obs["state"][i])).all(-1))
        assert row // 21 < 4
        np.testing.assert_array_equal(batch.next_obs["state"][i], ring.obs["state"][row + 1])
        for got, stored in ((batch.reward, ring.reward), (batch.latent, ring.latent), (batch.action, ring.action)):
            np.testing.assert_array_equal(got[i], stored[row])


def test_run_of_replayed_rollouts_resumes_bit_for_bit(env, tmp_path):
    train.run(REPLAYED, None, tmp_path / "whole", quiet=True)
    shorter = dataclasses.replace(REPLAYED, train=dataclasses.replace(REPLAYED.train, updates=4))
    for experiment in (shorter, REPLAYED):
        train.run(experiment, None, tmp_path / "parts", quiet=True)
    one, other = (load(tmp_path / name) for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    np.testing.assert_array_equal(one.buffer.physics, other.buffer.physics)
    np.testing.assert_allclose(env.observe(one.buffer.physics)[0]["state"], one.buffer.obs["state"], atol=1e-6)
    rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert all(np.isfinite(row["reward/skill"]) for row in rows)


def test_replayed_rollouts_are_no_longer_than_an_episode(tmp_path):
    longer = dataclasses.replace(REPLAYED, online=Online(WORLDS, 101))
    with pytest.raises(InputError, match=r"online\.decisions: must be at most the 100 of an episode, got 101"):
        train.run(longer, None, tmp_path / "out", quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"online": Online(0, 50)}, "online.worlds: must be at least 1 .* got 0"),
        ({"online": Online(4, 30)}, "online.decisions: must divide the 100 decisions of an episode, got 30"),
        ({"train": TrainConfig(3, 64, 1)}, "train.batch_size: must be worlds x decisions of a rollout, 200, .* got 64"),
        ({"train": TrainConfig(4, 200, 2)}, "train.chunk: must be 1, .* got 2"),
        ({"agent": dataclasses.replace(CONFIG, channels=("reach_top_lef", "loop"))}, "did you mean 'reach_top_left'"),
        ({"agent": dataclasses.replace(CONFIG, moved=("positon",))}, "no part 'positon'; did you mean 'position'"),
    ],
)
def test_what_does_not_fit_is_refused_by_naming_the_field(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train.run(dataclasses.replace(EXPERIMENT, **changes), None, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_data_are_asked_for_where_an_agent_learns_from_them_and_refused_where_not(tmp_path, capsys):
    with pytest.raises(InputError, match="data: agent 'multi_critic' learns from rollouts of its own alone; leave"):
        train.run(EXPERIMENT, tmp_path, tmp_path / "out", quiet=True)
    with pytest.raises(InputError, match="data: agent 'td_jepa' learns from stored data; make some with"):
        train.run(PRESETS["point_maze-td_jepa-small"], None, tmp_path / "out", quiet=True)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "point_maze-fb-small", "--out", str(tmp_path / "out")])
    assert "data: agent 'fb' learns from stored data" in capsys.readouterr().err


def test_rollouts_shared_by_two_devices_teach_what_one_learns(tmp_path):
    learned = []
    for count in (1, 2):
        shared = dataclasses.replace(EXPERIMENT.train, updates=2, devices=count)
        train.run(dataclasses.replace(EXPERIMENT, train=shared), None, tmp_path / str(count), quiet=True)
        learned.append(load(tmp_path / str(count)).params)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-5), *learned)


def test_policy_over_skills_of_a_run_acts_by_them_and_finds_them_again(run, env, tmp_path, capsys):
    upper = dataclasses.replace(CONFIG, channels=("loop",), told="nothing", weights=(1.0,), discounts=(0.9,), moved=())
    size = {"online": Online(WORLDS, 5), "train": dataclasses.replace(EXPERIMENT.train, batch_size=WORLDS * 5)}
    above = dataclasses.replace(EXPERIMENT, agent=upper, skills=str(run), skill_decisions=20, **size)
    train.run(above, None, tmp_path / "upper", quiet=True)
    policy, world = resolve(str(tmp_path / "upper"))
    assert policy.spec.action == world.spec.action == 2
    assert world.spec.hold == 20 * env.spec.hold == policy.options["hold"]
    lower = load(run)
    z = world.latents(np.array([[0.3, -0.4]]))
    np.testing.assert_allclose(z, np.sqrt(5) * np.array([[0.6, -0.8, 0, 0, 0]]), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, world.params, lower.params)
    scores = evaluate_tasks(policy, world, episodes=2)
    assert all(np.isfinite(one.returns).all() for one in scores.values())
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(tmp_path / "upper"), "--out", str(tmp_path / "bundle")])
    assert "export: its actions are skills of" in capsys.readouterr().err
    for field, wrong in {"world": {"world": "walker"}, "hold": {"hold": 5}}.items():
        with pytest.raises(InputError, match=f"skills: {field} of "):
            train.run(dataclasses.replace(above, **wrong), None, tmp_path / "out", quiet=True)


def test_planner_over_skills_of_a_run_learns_what_they_lead_to_and_takes_goals(run, tmp_path):
    size, agent = {"online": Online(WORLDS, 5, capacity=10)}, planner.Config(moved=("position",)).tiny()
    above = dataclasses.replace(REPLAYED, agent=agent, skills=str(run), skill_decisions=20, **size)
    train.run(above, None, tmp_path, quiet=True)
    policy, world = resolve(str(tmp_path))
    assert policy.spec.action == world.spec.action == 2
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert all(np.isfinite(row["loss/world"]) for row in rows)
    z = jnp.asarray(policy.prompt(Goal({"state": jnp.zeros(4)})).z)
    start = world.reset(jax.random.key(0), 3)
    action, _ = policy.agent.act(policy.params, start.obs, z, (), None)
    assert action.shape == (3, 2)
    path = world.step(start, action).path["position"]
    figure = figures.maze_trajectories(
        world, [figures.Panel("a skill each", path)]
    )  # on the map of what skills move in
    assert figure.axes[0].patches


def test_skills_and_goals_of_a_run_go_into_a_bundle(run, tmp_path, capsys):
    main(["prompt", str(run), "--goal", "x=0.15,y=-0.15", "--out", str(tmp_path / "there.json"), "--episodes", "1"])
    main(["prompt", "check", str(tmp_path / "there.json"), str(run)])
    assert "evaluated return" in capsys.readouterr().out
    # The latent is a place: that of the buffer's state nearest to the goal.
    z = promptfile.read(tmp_path / "there.json").z
    place = np.asarray(load(run).buffer.obs["state"])[:, :2]
    mean, std = (np.asarray(leaf["state"][:2]) for leaf in (load(run).spec.mean, load(run).spec.std))
    nearest = place[np.argmin(np.square((place - [0.15, -0.15]) / place.std(0)).sum(1))]
    np.testing.assert_allclose(z[2:4] / z[4] * std + mean, nearest, atol=1e-4)
    with pytest.raises(SystemExit, match="2"):
        main(["prompt", str(run), "--task", "loop", "--search", "cem"])
    assert "search and bootstraps need rewards" in capsys.readouterr().err
    main(["export", str(run), "--out", str(tmp_path / "skills"), "--episodes", "1"])
    goal = ["--prompt", str(tmp_path / "there.json")]
    main(["export", str(run), "--out", str(tmp_path / "goal"), "--episodes", "1", *goal])
    drawn = {f"skill_{i}" for i in range(8)}
    assert set(bundle.load(tmp_path / "skills").prompts) == drawn | set(envs.make("point_maze").tasks)
    assert set(bundle.load(tmp_path / "goal").prompts) == {"there"}
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(run), "--out", str(tmp_path / "task"), "--task", "loop"])
    assert "told what to do by prompts" in capsys.readouterr().err
