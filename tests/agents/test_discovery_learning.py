"""Skill objectives learn: features whose steps are as long as their bounds, and skills that end in different places."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents import discovery
from agents.discovery import Config
from tests.agents.chains import quick_jit
from tests.agents.test_discovery import KEY, NEXT_X, X, Z, evaluate, linear, random_params


def update(made, params, state, steps, key):
    """Parameters and optimiser state after one update on steps (x, x', z)."""
    weight = jnp.ones(len(steps[0]))
    grad = jax.grad(lambda params: made.loss(params, *steps, weight, key)[0])(params)
    delta, state = made.optimizer.update(grad, state, params)
    return optax.apply_updates(params, delta), state


def learn(made, params, sample, updates):
    """The parameters after so many updates on `sample(key)` -> (x, x', z)."""

    def one(carry, key):
        return update(made, *carry, sample(key), key), None

    start = params, made.optimizer.init(params)
    return quick_jit(lambda start: jax.lax.scan(one, start, jax.random.split(KEY, updates))[0])(start)[0]


@pytest.mark.parametrize(
    # A step is worth E[z | step] = 0.6. METRA makes it as long as it may be, CSF until 5 tanh(d) = 0.6.
    ("objective", "lr", "length"),
    [("metra", 1e-2, 1.0), ("csf", 3e-3, np.arctanh(0.6 / 5))],
)
def test_features_of_a_corridor_count_its_steps(objective, lr, length):
    made = discovery.make(Config(objective, skill_dim=1, layers=0, lr=lr), (5,))

    def sample(key):
        """Steps along a corridor of five places, in the direction of the skill four times out of five."""
        keys = jax.random.split(key, 3)
        z = made.draw(keys[0], 128)
        agrees = jnp.where(jax.random.bernoulli(keys[1], 0.8, (128,)), 1, -1)
        place = jax.random.randint(keys[2], (128,), 0, 4)
        forward = z[:, 0] * agrees > 0
        here, there = jnp.where(forward, place, place + 1), jnp.where(forward, place + 1, place)
        return jax.nn.one_hot(here, 5), jax.nn.one_hot(there, 5), z

    params = learn(made, random_params(made, 5, size=0.1, dual=1.0), sample, 500)
    position = np.asarray(params["features"]["head"]["kernel"])[:, 0]
    np.testing.assert_allclose(np.diff(position), length, rtol=0.15)


@pytest.mark.parametrize(
    ("objective", "norm", "length"), [("metra", "sum", 1.0), ("metra", "mean", 2**0.5), ("lsd", "sum", 0.3)]
)
def test_steps_in_the_plane_are_as_long_as_the_bound_allows_and_go_where_the_skill_goes(objective, norm, length):
    made = discovery.make(Config(objective, hidden=32, lr=3e-3, norm=norm), (2,))

    def sample(key):
        """Steps of length 0.3 roughly along the skill."""
        keys = jax.random.split(key, 3)
        z = made.draw(keys[0], 128)
        x = jax.random.uniform(keys[1], (128, 2), minval=-1.0)
        return x, x + 0.3 * discovery.on_sphere(z + 0.3 * jax.random.normal(keys[2], (128, 2))), z

    params = learn(made, random_params(made, 2), sample, 400)
    x, next_x, z = sample(jax.random.key(1))
    steps = quick_jit(lambda: made.embed(params, next_x) - made.embed(params, x))()
    lengths = np.linalg.norm(steps, axis=1)
    assert lengths.max() < 1.15 * length
    assert lengths.mean() > 0.8 * length
    assert quick_jit(made.reward)(params, x, next_x, z).mean() > 0.75 * length


def test_csd_density_learns_from_its_own_loss_alone():
    made, params = linear("csd")
    density = lambda z: evaluate(made, params, X, NEXT_X, z)[2]["density"]  # noqa: E731
    gradient = density(Z)
    assert np.abs(gradient["head"]["kernel"]).max() > 0.1
    jax.tree.map(np.testing.assert_array_equal, gradient, density(-3 * Z))


def test_csd_density_finds_where_steps_lead_and_how_much_they_vary():
    made = discovery.make(Config("csd", layers=0, lr=1e-2), (2,))

    def sample(key):
        keys = jax.random.split(key, 2)
        x = jax.random.normal(keys[0], (512, 2))
        return x, 0.8 * x + jax.random.normal(keys[1], (512, 2)) * jnp.array([[0.1, 0.4]]), jnp.ones((512, 2))

    head = learn(made, random_params(made, 2, size=0.1), sample, 400)["density"]["head"]
    np.testing.assert_allclose(head["kernel"][:, :2], -0.2 * np.eye(2), atol=0.05)
    low, high = discovery.LOG_STD
    std = np.exp(low + (high - low) / (1 + np.exp(-head["bias"][2:])))
    np.testing.assert_allclose(std, [0.1, 0.4], rtol=0.15)


def test_dusdi_pays_a_part_that_shows_its_own_skill_and_less_where_others_show_it_too():
    made = discovery.make(Config("dusdi", skill_dim=3, hidden=16, layers=1, lr=1e-2, disentangle=0.5), (3, 3))

    def sample(key):
        """The first part shows the first skill, the second part shows it too and nothing of its own."""
        z = made.draw(key, 64)
        x = jnp.concatenate([z[:, :3], z[:, :3]], -1)
        return jnp.zeros_like(x), x, z

    params = learn(made, random_params(made, 6), sample, 200)
    rewards = quick_jit(made.reward)(params, *sample(jax.random.key(1)))
    np.testing.assert_allclose(rewards.mean(0), [0.5 * np.log(3), 0.0], atol=0.1)
    np.testing.assert_allclose(rewards[:, 0], 0.5 * np.log(3), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["csf", "metra"])
def test_greedy_skills_of_a_point_leave_for_different_places_and_reach_goals(objective):
    made = discovery.make(Config(objective, hidden=64, lr=1e-3), (2,))
    angle = jnp.arange(8) * jnp.pi / 4
    directions = 0.2 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)

    def walk(params, start, choose, key, curious):
        """Places [21, E, 2] of a point in a room of side 4 that takes the best-paid of eight steps, or any one."""

        def step(x, key):
            after = jnp.clip(x[None] + directions[:, None], -2.0, 2.0)
            z = choose(params, x)
            pay = jax.vmap(lambda there: made.reward(params, x, there, z)[:, 0])(after)
            index = jnp.where(
                jax.random.bernoulli(key, curious, (len(x),)),
                jax.random.randint(jax.random.fold_in(key, 1), (len(x),), 0, 8),
                pay.argmax(0),
            )
            return after[index, jnp.arange(len(x))], x

        end, path = jax.lax.scan(step, start, jax.random.split(key, 20))
        return jnp.concatenate([path, end[None]])

    def one(carry, key):
        keys = jax.random.split(key, 3)
        z = made.draw(keys[0], 16)
        path = walk(carry[0], jnp.zeros((16, 2)), lambda params, x: z, keys[1], 0.2)
        steps = path[:-1].reshape(-1, 2), path[1:].reshape(-1, 2), jnp.tile(z, (20, 1))
        for i in range(4):
            carry = update(made, *carry, steps, jax.random.fold_in(keys[2], i))
        return carry, None

    params = random_params(made, 2)
    train = jax.jit(lambda start: jax.lax.scan(one, start, jax.random.split(KEY, 300))[0])
    params, _ = train((params, made.optimizer.init(params)))
    turn = jnp.arange(12) * jnp.pi / 6
    z = jnp.stack([jnp.cos(turn), jnp.sin(turn)], -1)
    ends = np.asarray(walk(params, jnp.zeros((12, 2)), lambda params, x: z, KEY, 0.0)[-1])
    # Skills that turn once lead once around the room, which is 4 wide, whether or not some meet in its corners.
    assert np.linalg.norm(ends, axis=1).min() > 1.0
    around = np.unwrap(np.arctan2(ends[:, 1], ends[:, 0]))
    assert abs(around[-1] - around[0]) > 1.4 * np.pi
    goals = jnp.asarray(np.random.default_rng(0).uniform(-1.5, 1.5, (20, 2)), jnp.float32)
    reached = walk(params, jnp.zeros((20, 2)), lambda params, x: made.toward(params, x, goals), KEY, 0.0)
    assert np.linalg.norm(reached - goals[None], axis=-1).min(0).mean() < 0.3
