"""Skills are measured by what they do: hand-made episodes, a policy whose skills are known, tables and drawings."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents import multi_critic, td3
from embodied.policy import Buffer, Policy
from embodied.types import Agent, InputError, Spec
from experiments import skill_report, skills
from experiments.bench import skills as bench
from experiments.skills import CELL, Played

CONFIG = dataclasses.replace(multi_critic.Config(("reach_top_left", "loop"), moved=("position",)).tiny())


def played(places, latents=None) -> Played:
    """Episodes with these places [S, R, T + 1, M]; skills differ by their number alone."""
    places = np.asarray(places, float)
    count, starts, steps, _ = places.shape
    latents = np.arange(count, dtype=float)[:, None] if latents is None else latents
    nothing = np.zeros((count, starts, steps, 0))
    return Played(latents, places, nothing, {}, None, None)


def lines(ends, starts=((0.0, 0.0), (1.0, 1.0)), steps=21):
    """Straight ways [S, R, T + 1, 2] from each start by each of `ends` [S, 2]."""
    share = np.linspace(0, 1, steps)[:, None]
    return np.array([[np.asarray(start) + share * np.asarray(end) for start in starts] for end in ends])


def directed(env) -> Policy:
    """A policy that pushes in the direction of its skill, whatever it sees, but learned nothing."""

    class Pushing(Policy):
        @property
        def agent(self) -> Agent:
            made = super().agent
            act = lambda params, obs, z, carry, key: (jnp.sign(z[:, :2]) * 0.5, carry)  # noqa: E731
            return made._replace(act=act)

    spec = Spec(env.spec.obs, env.spec.action, {"state": (0.0,) * 4}, {"state": (0.1,) * 4}, env.spec.parts)
    params = multi_critic.make(CONFIG, spec).init(jax.random.key(0), spec.example()).params
    start = env.reset(jax.random.key(0), 3)
    return Pushing("multi_critic", CONFIG, spec, "point_maze", {}, params, Buffer(start.obs, start.physics))


@pytest.fixture(scope="module")
def env():
    return envs.make("point_maze", threads=1)


@pytest.fixture(scope="module")
def pushed(env):
    return skills.play(directed(env), env, skills=6, starts=3)


def test_coverage_counts_cells_of_displacement_of_all_skills_from_each_start():
    # Ten cells to the right and ten upwards, and the one in which both begin, wherever that is.
    far = 10 * CELL
    found = skills.coverage(played(lines([(far, 0), (0, far)], starts=((0, 0), (0.33, -0.21)))))
    np.testing.assert_array_equal(found, [21, 21])
    np.testing.assert_array_equal(skills.coverage(played(lines([(0, 0), (0, 0)]))), [1, 1])


def test_diversity_is_the_distance_of_skills_less_that_of_starts():
    apart = skills.measures(played(lines([(0.3, 0), (0, 0.4)])))
    assert apart["diversity"] == pytest.approx(0.5)
    assert apart["spread"] == pytest.approx(0, abs=1e-12)
    # Two starts that end 0.2 apart from each other, whatever the skill.
    places = lines([(0.3, 0), (0, 0.4)])
    places[:, 1, -1] += [0.0, 0.2]
    loose = skills.measures(played(places))
    assert loose["diversity"] == pytest.approx(0.3)
    assert loose["spread"] == pytest.approx(0.1)


def test_skill_is_recognised_where_displacements_are_a_linear_map_of_it():
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(12, 2))
    ends = latents @ np.array([[0.1, 0.02], [-0.03, 0.2]])
    assert skills.measures(played(lines(ends), latents))["recognisable"] == pytest.approx(1.0)
    unrelated = rng.normal(size=(12, 2))
    assert skills.measures(played(lines(unrelated), latents))["recognisable"] < 0.5
    assert skills.measures(played(lines(np.zeros((12, 2))), latents))["recognisable"] == 0


def test_violations_and_contacts_are_shares_of_decisions():
    one = played(np.zeros((2, 2, 5, 2)))
    broken = np.zeros((2, 2, 4), bool)
    broken[0, 1, :2] = True
    found = skills.measures(dataclasses.replace(one, broken=broken, touched=~broken))
    assert found["violations"] == pytest.approx(125)
    assert found["contact"] == pytest.approx(14 / 16)
    assert {"violations", "contact"}.isdisjoint(skills.measures(one))


def test_every_skill_acts_from_the_same_starts_and_moves_as_it_says(env, pushed):
    assert pushed.places.shape == (6, 3, env.spec.decisions + 1, 2)
    assert (pushed.places[:, :, 0] == pushed.places[:1, :, 0]).all()
    way = pushed.displacement[:, :, 5]
    direction = np.sign(pushed.latents[:, None, :2])
    # A wall may stand in the way, but nothing goes backwards.
    assert (way * direction > -1e-6).all()
    assert (np.abs(way).sum(-1) > 0.01).mean() > 0.8
    positions = pushed.physics[..., 1:3]
    np.testing.assert_allclose(pushed.places, positions, atol=1e-6)


def test_channels_are_paid_what_their_tasks_say(env, pushed):
    flat = pushed.physics[0, 0]
    quantities = env.observe(flat)[1]
    ends = np.asarray(env.tasks["reach_top_left"](quantities, None, quantities))[1:]
    assert set(pushed.paid) == {"reach_top_left", "loop"}
    assert pushed.paid["reach_top_left"][0, 0] == pytest.approx(ends.mean(), abs=0.02)
    assert pushed.broken is None  # the maze has no limits


def test_policy_without_skills_is_refused(env):
    spec = Spec(env.spec.obs, env.spec.action)
    config = td3.Config().tiny()
    params = td3.make(config, spec).init(jax.random.key(0), spec.example()).params
    start = env.reset(jax.random.key(0), 3)
    policy = Policy("td3", config, spec, "point_maze", {}, params, Buffer(start.obs, start.physics))
    assert not skills.is_skilled(policy)
    with pytest.raises(InputError, match="agent 'td3' was not trained to have skills"):
        skills.play(policy, env)


def test_part_of_the_page_has_numbers_maps_cosines_and_says_what_is_missing(env, tmp_path):
    rows = [{"step": i, "cosine/reach_top_left_loop": 0.5 * i} for i in range(2)]
    rows = [row | {"cosine/reach_top_left_skill": -0.2, "cosine/loop_skill": 0.1} for row in rows]
    made = skill_report.section(directed(env), env, rows, tmp_path)
    about, table, *pictures, last = made.blocks
    assert "48 skills" in about
    assert next(name for name, _ in table.rows).startswith("cells of displacement")
    assert len(pictures) == 2
    assert all(one.png.startswith(b"\x89PNG") for one in pictures)
    assert "No pictures" in last  # tests draw nothing


def test_cosines_of_the_last_updates_are_averaged():
    rows = [{"cosine/a_b": 1.0}] * 18 + [{"cosine/a_b": -0.5}, {"cosine/a_b": -0.1}]
    np.testing.assert_allclose(skill_report.interference(("a", "b"), rows), [[1, -0.3], [-0.3, 1]])


def test_weights_of_the_sum_are_those_of_most_coverage_among_the_safe_ones():
    rows = {
        "a": {"coverage": 50.0, "violations": 90.0},
        "b": {"coverage": 20.0, "violations": 9.0},
        "c": {"coverage": 10.0, "violations": 1.0},
    }
    assert bench.choose(rows, violations=10.0) == "b"
    assert bench.choose(rows, violations=0.0) == "c"


def test_bench_names_the_nearest_suite_and_every_variant_is_a_setting_of_its_preset():
    with pytest.raises(InputError, match="did you mean 'objectives'"):
        bench.main(["objective"])
    summary = bench.summary([played(lines([(0.5, 0), (0, 0.5)])), played(lines([(0.1, 0), (0, 0.1)]))])
    assert summary["coverage"]["low"] <= summary["coverage"]["value"] <= summary["coverage"]["high"]
    assert "violations" not in summary
    assert "coverage" in bench.line("name", summary)
    assert json.dumps(summary)
