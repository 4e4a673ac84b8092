"""Values of reward texts: against dm_control, by hand, and at awkward points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_control.utils import rewards as dm_rewards

from embodied.rewards.expression import OPERATORS, parse
from embodied.rewards.functions import FUNCTIONS, SIGMOIDS, tolerance
from embodied.types import Quantity

QUANTITIES = {
    "torso_height": Quantity((), "m", "height of the torso"),
    "velocity_x": Quantity((), "m/s", "forward velocity"),
    "contact": Quantity((), "1", "1 in contact"),
    "position": Quantity((3,), "m", "position of the hand"),
    "target": Quantity((3,), "m", "position of the target"),
    "joints": Quantity((2,), "rad", "joint angles"),
}
HUMANOID = (
    "stand = tolerance(torso_height, 1.2, inf, 0.6); "
    "move = tolerance(velocity_x, 1, inf, 0.5, linear, 0.5); stand * (5*move + 1) / 6"
)
ROBOT_TEXTS = [
    HUMANOID,
    "tolerance(torso_height, 1.2, inf, 0.6) * tolerance(velocity_x, 1, inf, 0.5)",
    "tol(distance(position, 0.5, -0.25, 1), hi=0.25, margin=1, kind=long_tail) - 0.125 * norm(action)**2",
    "exp(-norm(position - target)) + sigmoid(velocity_x) * (contact > 0.5)",
    "where(torso_height < 1, -1, tanh(velocity_x - previous_velocity_x)) + mean(cos(joints)) / 2",
    "sqrt(dot(position, target)) / (1 + abs(component(joints, 1))) + log1p(norm(position)) / 4",
    "minimum(clip(velocity_x, lower=-1, upper=1), 1 - tolerance(torso_height, 0, 1, 0.5, cosine, 0))",
    "tolerance(sum(action**2), upper=1, margin=2, sigmoid=quadratic, value_at_margin=0)",
]


def transitions(rng, *batch, scale=1.0):
    """Random (before, action, after) whose values are exact in float32."""

    def draw(*shape):
        return (scale * rng.standard_normal((*batch, *shape))).astype(np.float32)

    def quantities():
        return {name: draw(*quantity.shape) for name, quantity in QUANTITIES.items()}

    return quantities(), draw(3), quantities()


def program_of(text):
    return parse(text, QUANTITIES, action=3)


def to_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_tolerance_equals_dm_control(sigmoid):
    x = np.linspace(-3, 3, 601)
    values = (0.01, 0.1, 0.5, 0.9) + ((0.0,) if sigmoid in ("cosine", "linear", "quadratic") else ())
    for bounds in [(-1.0, 0.5), (0.25, 0.25), (-np.inf, 0.5), (0.5, np.inf)]:
        for margin in (0.0, 0.3, 2.0):
            for value in values:
                expected = dm_rewards.tolerance(x, bounds, margin, sigmoid, value)
                got = tolerance(x, *bounds, margin, sigmoid, value)
                np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)


def test_tolerance_in_a_text_equals_dm_control_with_positional_and_keyword_arguments():
    x = np.linspace(-3, 3, 301)
    expected = dm_rewards.tolerance(x, (-1.0, 0.5), 0.3, "linear", 0.2)
    for text in (
        "tolerance(velocity_x, -1, 0.5, 0.3, linear, 0.2)",
        "tol(velocity_x, lo=-1, hi=0.5, margin=0.3, kind=linear, value_at_margin=0.2)",
        "tolerance(velocity_x, upper=1/2, lower=-1, value_at_margin=0.2, sigmoid=linear, margin=0.3)",
    ):
        np.testing.assert_allclose(program_of(text)("reward", None, None, {"velocity_x": x}), expected, 1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2*contact", 7.0),
        ("-contact - -2", -1.0),
        ("2**3 * contact**2 + contact**3", 72.0 + 27.0),
        ("(contact + 1)**0.5", 2.0),
        ("(contact > 2) + (contact < 3) + 2*(contact <= 3) + 4*(contact >= 4)", 3.0),
        ("norm(position)", 13.0),
        ("dot(position, target)", 3 * 1 + 4 * 2 + 12 * 3),
        ("mean(joints) + sum(target)", 0.25 + 6.0),
        ("component(position, 2) - component(position, 0)", 9.0),
        ("distance(position, 3, 4, 10)", 2.0),
        ("distance(target, -1, 2 - 4, 6/2)", np.sqrt(4 + 16)),
        ("norm(position - contact)", np.sqrt(0 + 1 + 81)),
        ("norm(maximum(position, 2*target) * (position > 3))", np.sqrt(16 + 144)),
        ("sum(where(target > 1.5, position, -1))", -1 + 4 + 12),
        ("clip(contact, 0, 1) + clip(contact, lower=10) + clip(contact, hi=2)", 13.0),
        ("contact - previous_contact", 2.0),
        ("norm(action)", 5.0),
        ("sqrt(-contact) + log1p(contact - 3) + sin(contact - 3)", 0.0),
        ("tolerance(contact, 0, pi)", 1.0),
        ("half = 1/2; double = half * 4\ncontact * double", 6.0),
        ("reach = norm(\n  position\n)\n\n\t;reward = reach + 1;", 14.0),
        ("distance = norm(position); distance + distance(position, 3, 4, 12)", 13.0),
        ("contact / 0.0000001", 3e6),
        ("contact / -0.0000001", -3e6),
        ("contact / -0.5", -6.0),
        ("sigmoid(contact - 3) + tanh(contact - 3) + cos(contact - 3) + exp(contact - 3)", 2.5),
        ("minimum(contact, 2) + abs(-contact)", 5.0),
    ],
)
def test_value_equals_hand_computation(text, expected):
    after = {
        "contact": np.array(3.0),
        "position": np.array([3.0, 4.0, 12.0]),
        "target": np.array([1.0, 2.0, 3.0]),
        "joints": np.array([0.0, 0.5]),
    }
    value = program_of(text)("reward", {"contact": 1.0}, np.array([0.0, 3.0, 4.0]), after)
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", ROBOT_TEXTS)
def test_float32_jax_equals_float64_numpy(text):
    sample = transitions(np.random.default_rng(0), 4, 50)
    program = program_of(text)
    value = program("reward", *sample)
    assert value.dtype == np.float64
    assert value.shape == (4, 50)
    in_jax = jax.jit(program, static_argnums=0)("reward", *to_jax(sample))
    np.testing.assert_allclose(in_jax, value, rtol=0, atol=1e-6)


def test_vmap_equals_batch_and_jit_traces_once():
    traces = 0

    def reward(before, action, after):
        nonlocal traces
        traces += 1
        return program_of(HUMANOID)("reward", before, action, after)

    sample = to_jax(transitions(np.random.default_rng(1), 16))
    batched = program_of(HUMANOID)("reward", *sample)
    jitted = jax.jit(jax.vmap(reward))
    np.testing.assert_allclose(jitted(*sample), batched, rtol=1e-5, atol=1e-7)
    jitted(*sample)
    assert traces == 1


AWKWARD = {
    "torso_height": [0.0, 1.2, 1e6, -1e6, 1e-20],
    "position": [[0.0, 0.0, 0.0], [1e-22, 0.0, 0.0], [1e6, -1e6, 0.0], [1e-6, 0.0, 0.0], [-1.0, -1.0, -1.0]],
}


@pytest.mark.parametrize(
    "text",
    [
        *[f"tolerance(torso_height, 1.2, inf, 0.6, {kind})" for kind in SIGMOIDS],
        *[f"tolerance(torso_height, -inf, 0, 0.000001, {kind}, 0.9)" for kind in SIGMOIDS],
        *[f"tolerance(torso_height, 0, 0, 1000, {kind}, 0.01)" for kind in SIGMOIDS],
        "tolerance(torso_height, 0, 1)",
        "norm(position)",
        "distance(position, 0, 0, 0)**0.5",
        "sqrt(torso_height) + torso_height**0.5",
        "1 / torso_height + norm(position / torso_height)",
        "exp(torso_height) + exp(-torso_height) + exp(torso_height)**2",
        "log1p(torso_height) + log1p(-torso_height)",
        "sigmoid(torso_height) + tanh(torso_height) + abs(torso_height)",
        "where(torso_height > 0, sqrt(torso_height), 1 / torso_height)",
        "clip(torso_height, 0, 1) + minimum(torso_height, 0) + maximum(torso_height, 0)",
        "sin(torso_height) * cos(torso_height) + torso_height**3",
        "dot(position, position) + mean(position)**2 + sum(position)**3",
    ],
)
def test_values_and_gradients_are_finite_at_awkward_points(text):
    after = {name: jnp.array(values) for name, values in AWKWARD.items()}
    program = program_of(text)
    value, gradient = jax.value_and_grad(lambda after: program("reward", None, None, after).sum())(after)
    assert np.isfinite(value)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()


def test_not_a_number_is_not_hidden():
    after = {"torso_height": np.array(np.nan), "position": np.full(3, np.nan)}
    for text in ("sqrt(torso_height)", "norm(position)", "1/torso_height", "tol(torso_height, 0, 1, 1)"):
        assert np.isnan(program_of(text)("reward", None, None, after))


def test_jaxpr_holds_arithmetic_only():
    allowed = {
        *(
            "abs",
            "add",
            "and",
            "cos",
            "div",
            "eq",
            "exp",
            "ge",
            "gt",
            "integer_pow",
            "le",
            "log1p",
            "lt",
            "max",
        ),
        *("min", "mul", "ne", "neg", "reduce_sum", "select_n", "sin", "sqrt", "square", "sub", "tanh"),
        *("broadcast_in_dim", "convert_element_type", "jit", "reshape", "slice", "squeeze"),
    }
    vector_functions = {"norm", "sum", "mean"}
    arguments = {"component": "position, 1", "distance": "position, 1, 2, 3", "dot": "position, target"}
    arguments |= {"where": "velocity_x, 1, torso_height", "tolerance": "velocity_x, 0, 1, 1"}
    arguments |= {"tol": "velocity_x, 0, 1", "clip": "velocity_x, 0, 1"}
    arguments |= dict.fromkeys(("minimum", "maximum"), "velocity_x, torso_height")
    sample = to_jax(transitions(np.random.default_rng(0), 2))

    def primitives(jaxpr):
        for equation in jaxpr.eqns:
            yield equation.primitive.name
            for parameter in equation.params.values():
                if hasattr(parameter, "jaxpr"):
                    yield from primitives(parameter.jaxpr)

    for name in FUNCTIONS:
        default = "position" if name in vector_functions else "velocity_x"
        program = program_of(f"{name}({arguments.get(name, default)})")
        used = set(primitives(jax.make_jaxpr(lambda *args, p=program: p("reward", *args))(*sample).jaxpr))
        assert used <= allowed, (name, used - allowed)
    assert len(OPERATORS) == 8
