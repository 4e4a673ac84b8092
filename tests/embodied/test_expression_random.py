"""Random reward texts: valid ones mean the same in NumPy and JAX, damaged ones never break the checker."""

import string

import jax
import jax.numpy as jnp
import numpy as np

from embodied.rewards.expression import parse
from embodied.rewards.functions import SIGMOIDS
from embodied.types import InputError, Quantity

QUANTITIES = {
    "height": Quantity((), "m", "height"),
    "speed": Quantity((), "m/s", "speed"),
    "position": Quantity((3,), "m", "position"),
    "target": Quantity((3,), "m", "target"),
}
SCALARS = ["height", "speed", "previous_speed"]
VECTORS = ["position", "target", "previous_position", "action"]


def transitions(rng, count):
    """Random (before, action, after) whose values are exact in float32."""

    def quantities():
        return {name: rng.standard_normal((count, *q.shape), np.float32) for name, q in QUANTITIES.items()}

    return quantities(), rng.standard_normal((count, 3), np.float32), quantities()


def program_of(text):
    return parse(text, QUANTITIES, action=3)


class Generator:
    """Random texts; every expression is of the right shape, so all are valid."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def pick(self, choices):
        return choices[self.rng.integers(len(choices))]

    def number(self):
        return f"{self.rng.integers(1, 40) / 8:g}"

    def vector(self, depth):
        if depth == 0:
            return self.pick(VECTORS)
        x = self.vector(depth - 1)
        y = self.pick([self.vector, self.scalar])(depth - 1)
        forms = [f"({x} {self.pick('+-*/')} {y})", f"minimum({x}, {y})", f"tanh({x})", f"-{x}", f"abs({x})"]
        return self.pick([*forms, f"where({x} > {y}, {y}, {x})", f"clip({x}, -{self.number()}, inf)"])

    def scalar(self, depth):
        if depth == 0:
            return self.pick([*SCALARS, self.number()])
        x, y, v = self.scalar(depth - 1), self.scalar(depth - 1), self.vector(depth - 1)
        kind, lower = self.pick(list(SIGMOIDS)), self.number()
        forms = [
            f"({x} {self.pick(['+', '-', '*', '/', '<', '<=', '>', '>='])} {y})",
            f"({x}){self.pick(['**2', '**3', '**0.5'])}",
            f"{self.pick(['norm', 'mean', 'sum'])}({v})",
            f"component({v}, {self.rng.integers(3)})",
            f"distance({v}, -{lower}, 0, 1/3)",
            f"dot({v}, {self.vector(depth - 1)})",
            f"tolerance({x}, {lower}, inf, {self.number()}, {kind}, 0.25)",
            f"tol({x}, hi={lower}, margin={self.number()}, kind={kind})",
            f"{self.pick(['exp', 'log1p', 'tanh', 'sigmoid', 'sqrt', 'abs'])}({x})",
            f"{self.pick(['sin', 'cos'])}(tanh({x}))",
            f"where({x}, {y}, {lower})",
            f"maximum({x}, -{y})",
        ]
        return self.pick(forms)

    def text(self):
        depth = self.pick([1, 1, 1, 2, 2, 2, 2, 3])
        return f"first = {self.scalar(1)}; {self.scalar(depth)} + first * {self.pick(SCALARS)}"


def test_random_valid_texts_agree_in_numpy_and_jax():
    generator = Generator(seed=0)
    sample = transitions(np.random.default_rng(2), 3)
    with jax.enable_x64(True):
        in_jax = jax.tree.map(jnp.asarray, sample)
        for _ in range(2000):
            text = generator.text()
            program = program_of(text)
            expected = program("reward", *sample)
            got = program("reward", *in_jax)
            assert got.shape == expected.shape == (3,)
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6, err_msg=text)


def test_random_damage_is_accepted_or_refused_but_never_breaks():
    generator, rng = Generator(seed=1), np.random.default_rng(3)
    words = ["==", "**", ":=", " if ", " for ", "lambda ", "1e999", "\u00e9", "__"]
    damage = [*string.printable, *"([{;=.'\"@:", *words]
    messages = []
    for _ in range(2000):
        text = generator.text()
        for _ in range(rng.integers(1, 4)):
            start = int(rng.integers(len(text)))
            text = text[:start] + damage[rng.integers(len(damage))] + text[start + int(rng.integers(3)) :]
        try:
            program_of(text)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 1500
    assert not any("\n" in message for message in messages)
