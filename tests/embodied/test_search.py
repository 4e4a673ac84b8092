"""Search over latents: it climbs where the best latent is known, stays on its part of the sphere, and may be redone."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied import promptfile
from embodied.evaluate import EvaluateConfig
from embodied.promptfile import Request
from embodied.rewards import Task
from embodied.search import Search, in_simulator, search, starts, within
from embodied.types import InputError
from tests.embodied.toys import Adder, policy

START = np.array([2.0, 0.0, 0.0, 0.0], np.float32)
BEST = np.array([1.0, 1.0, 1.0, 1.0])  # 60 degrees away, on the sphere of radius sqrt(4)
WISH = Request("reward", "tolerance(x, 0.5, inf, 1)", samples=20, search=Search(iterations=2, population=3, elites=1))


class ShiftedAdder(Adder):
    """Worlds at random x: starts differ with their seed."""

    def reset(self, key, count):
        return self.reset_to(np.asarray(jax.random.normal(key, (count, 1))))


@pytest.fixture(scope="module")
def toy():
    return policy()


@pytest.fixture(scope="module")
def world():
    return ShiftedAdder(jittable=False)


def angle(a, b) -> float:
    return float(np.degrees(np.arccos(np.clip(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b), -1.0, 1.0))))


def closeness(latents):
    """A quadratic with its top in `BEST`."""
    return -np.square(latents - BEST).sum(-1)


@pytest.mark.parametrize("method", ["cem", "gradient"])
def test_search_comes_within_ten_degrees_of_the_best_latent(method):
    found = search(closeness, START, Search(method, iterations=20, population=16, trust=90.0))
    assert angle(found.z, BEST) < 10.0
    assert max(found.progress) > found.progress[0] + 3.5  # of 4, the square of the distance at the start
    np.testing.assert_allclose(closeness(found.z), max(found.progress), atol=1e-5)


@pytest.mark.parametrize("method", ["cem", "gradient"])
def test_every_latent_that_is_scored_lies_on_the_sphere_and_within_the_trusted_angle(method):
    seen = []

    def score(latents):
        seen.append(latents)
        return closeness(latents)

    found = search(score, START, Search(method, iterations=5, spread=1.0, trust=30.0))
    seen = np.concatenate(seen)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), 2.0, rtol=1e-6)
    assert max(angle(z, START) for z in seen) == pytest.approx(30.0, abs=0.01)  # the wish lies further away
    np.testing.assert_array_equal(seen[0], START)
    assert angle(found.z, BEST) == pytest.approx(30.0, abs=5.0)


def test_latent_outside_the_trusted_angle_comes_to_its_rim_on_the_shortest_way():
    moved = within(np.array([[0.0, 5.0], [5.0, 0.1]]), np.array([1.0, 0.0]), 45.0)
    np.testing.assert_allclose(moved[0], [1.0, 1.0])
    np.testing.assert_allclose(moved[1], 2**0.5 * np.array([5.0, 0.1]) / np.hypot(5.0, 0.1))


@pytest.mark.parametrize("method", ["cem", "gradient"])
def test_search_that_finds_nothing_better_returns_its_start_bit_for_bit(method):
    start = np.array([0.1, 0.7, 1.9, -0.3], np.float32)
    found = search(lambda latents: -np.abs(latents - start).sum(1), start, Search(method, iterations=3))
    np.testing.assert_array_equal(found.z, start)
    assert found.progress[0] == 0.0 == max(found.progress)
    assert found.rollouts == (3 * (Search.population + 1) + 1) * Search.episodes


def test_first_step_of_the_gradient_is_the_one_of_a_leave_one_out_baseline():
    config = Search("gradient", iterations=1, population=3, elites=1, spread=0.5, trust=180.0)
    noise = np.random.Generator(np.random.PCG64(0)).normal(size=(3, 4))
    means = []

    def score(latents):
        means.append(latents[0])
        return np.array([0.0, 1.0, 5.0, 3.0])[: len(latents)] if len(latents) > 1 else np.array([1.0])

    found = search(score, START, config)
    ascent = (1 - 4.0) * noise[0] + (5 - 2.0) * noise[1] + (3 - 3.0) * noise[2]
    moved = START + 0.5 * 0.5 * 2.0 * ascent / np.linalg.norm(ascent)
    np.testing.assert_allclose(means[1], 2.0 * moved / np.linalg.norm(moved), rtol=1e-5)
    np.testing.assert_array_equal(found.z, means[1])


def test_same_seed_finds_the_same_latent_and_another_seed_another():
    runs = [search(closeness, START, Search(iterations=2, seed=seed)).z for seed in (4, 4, 5)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()


def test_no_state_is_both_searched_on_and_scored_on(world):
    scored = world.reset(jax.random.key(EvaluateConfig().seed), 50).physics
    for seed in (0, 1, EvaluateConfig().seed - 1):
        searched = starts(world, Search(episodes=50, seed=seed)).physics
        assert not np.isin(searched, scored).any()
    with pytest.raises(InputError, match=r"search: seed must be in \[0, 1000003\), got 1000003"):
        Search(seed=EvaluateConfig().seed)


def test_score_is_the_mean_return_of_each_latent_over_the_same_starts(toy, world):
    config = Search(episodes=3)
    task = Task.of("x", "x", world.spec.quantities)
    prompt, _ = promptfile.make_prompt(WISH, toy, world)
    score = in_simulator(toy, world, prompt, task, config)
    latents = np.stack([toy.prompt(prompt).z, -toy.prompt(prompt).z])
    together, alone = score(latents), [score(latents[i : i + 1])[0] for i in range(2)]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    first = starts(world, config).physics[:, 0]
    # Two control steps per decision: x grows by a, then by another a; at most 1 + 2 + ... + 8 in eight steps of 1.
    assert (np.abs(together - 8 * first.mean()) <= 36.0).all()
    assert together[0] != together[1]


def test_terminal_value_pays_for_the_steps_behind_the_horizon(toy, world):
    task = Task.of("x", "x", world.spec.quantities)
    prompt, _ = promptfile.make_prompt(WISH, toy, world)
    z = toy.prompt(prompt).z
    short = Search(episodes=3, horizon=2)
    without, with_value = (
        in_simulator(toy, world, prompt, task, config)(z[None])[0]
        for config in (short, dataclasses.replace(short, terminal=True))
    )
    begin = starts(world, short)
    action, _ = toy.agent.act(toy.params, begin.obs, jnp.asarray(z), (), None)
    after = world.step(begin, np.asarray(action))
    np.testing.assert_allclose(without, (begin.physics[:, 0] * 2 + 3 * np.asarray(action)[:, 0]).mean(), rtol=1e-4)
    ahead = np.asarray(toy.agent.value(toy.params, prompt, jnp.asarray(z), after.obs))
    np.testing.assert_allclose(with_value - without, 6 * ahead.mean(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["cem", "gradient"])
def test_file_of_a_searched_prompt_reproduces_it_bit_for_bit(toy, world, tmp_path, method):
    request = dataclasses.replace(WISH, search=dataclasses.replace(WISH.search, method=method, horizon=4))
    plain, _ = promptfile.infer(dataclasses.replace(request, search=None), toy, world)
    prompted, _ = promptfile.infer(request, toy, world)
    path = tmp_path / "searched.json"
    promptfile.save(path, request, prompted, {})
    content = promptfile.read(path)
    assert content.request == request
    assert content.z.shape == plain.z.shape
    assert (content.z != plain.z).any()
    promptfile.check(path, toy, world)
    loaded, _ = promptfile.load(path, toy, world)
    np.testing.assert_array_equal(loaded.z, prompted.z)
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"z": plain.z.astype(float).tolist()}))
    with pytest.raises(InputError, match="the latent does not follow from its request"):
        promptfile.check(path, toy, world)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "cemm"}, "search: unknown method 'cemm'; did you mean 'cem'?"),
        ({"iterations": 0}, r"search: iterations must be in \[1, inf\), got 0"),
        ({"population": 1, "elites": 1}, r"search: population must be in \[2, inf\), got 1"),
        ({"elites": 16}, "search: elites must be at most the population, 15, got 16"),
        ({"spread": float("nan")}, r"search: spread must be in \(0, inf\), got nan"),
        ({"trust": 181.0}, r"search: trust must be in \(0, 180\], got 181.0"),
        ({"horizon": -2}, r"search: horizon must be in \[0, inf\), got -2"),
    ],
)
def test_search_that_does_not_exist_cannot_be_asked_for(fields, message):
    with pytest.raises(InputError, match=message):
        Search(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"horizon": 3}, r"search: horizon must be 0 or a multiple of 2 control steps, at most the world's 8, got 3"),
        ({"horizon": 10}, r"horizon must be 0 or a multiple of 2 control steps, at most the world's 8, got 10"),
        ({"terminal": True}, "search: terminal must be False where the horizon is the whole episode, got True"),
    ],
)
def test_search_that_the_world_cannot_do_is_refused(toy, world, fields, message):
    with pytest.raises(InputError, match=message):
        promptfile.infer(dataclasses.replace(WISH, search=Search(**fields)), toy, world)


def test_agent_without_a_value_cannot_look_behind_the_horizon(toy, world):
    prompt, task = promptfile.make_prompt(WISH, toy, world)
    blind = dataclasses.replace(toy)
    blind.__dict__["agent"] = toy.agent._replace(value=None)
    with pytest.raises(InputError, match="search: terminal must be False where 'fb' has no value, got True"):
        in_simulator(blind, world, prompt, task, Search(terminal=True, horizon=4))


def test_return_that_is_not_finite_ends_the_search():
    with pytest.raises(InputError, match="search: the return of candidate 2 is not finite"):
        search(lambda latents: np.where(np.arange(len(latents)) == 2, np.nan, 1.0), START, Search())


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"kind": "row", "row": 3, "search": Search()}, "prompt: search needs a reward; a row prompt has none"),
        ({"kind": "state", "bootstraps": 2}, "prompt: bootstraps needs a reward; a state prompt has none"),
        ({"kind": "reward", "search": Search(), "bootstraps": 2}, "prompt: bootstraps must be 0 with a search"),
        ({"kind": "reward", "bootstraps": 65}, r"prompt: bootstraps must be in \[0, 64\], got 65"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(request_, message):
    with pytest.raises(InputError, match=message):
        Request(**request_)
