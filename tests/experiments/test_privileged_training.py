"""From data without privileged observations to a policy trained on them, prompted, evaluated, served and exported."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import envs
from agents import fb, rnd, td_jepa
from embodied import promptfile
from embodied.data import dataset, store
from embodied.deploy import bundle
from embodied.policy import Prompted
from embodied.promptfile import Request
from embodied.serve.policy import PolicyServable
from embodied.train import TrainConfig
from embodied.types import InputError
from experiments import collect, export, prompt, train
from experiments.evaluate import evaluate_tasks
from experiments.experiment import Collect, Experiment, Online
from experiments.models import resolve
from tests.embodied.served import alone

AGENTS = {
    "fb": dataclasses.replace(fb.Config().tiny(), inputs="standardized"),
    "td_jepa": dataclasses.replace(td_jepa.Config().tiny(), inputs="standardized"),
}
ONLINE = Online(worlds=4, decisions=6, latent_hold=3, capacity=12, quantities=("x", "speed"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data of a curious explorer."""
    folder = tmp_path_factory.mktemp("privileged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(envs.WORLDS, "cart", "tests.envs.carts")
        jax.config.update("jax_disable_most_optimizations", True)
        explorer = rnd.Config().tiny()
        made = Collect(
            "cart",
            "rnd",
            8,
            decisions=6,
            worlds=4,
            explorer_config=explorer,
            updates=2,
            batch_size=8,
            randomise="standard",
        )
        collect.run(made, folder / "data", quiet=True)
        yield folder
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def run_of(place):
    """Agent -> the folder of its run, which is made when it is first asked for."""

    @functools.cache
    def run(name):
        online = ONLINE if name == "fb" else Online()
        budget = TrainConfig(updates=4, batch_size=16, chunk=2)
        experiment = Experiment("cart", AGENTS[name], budget, online=online, buffer=30, randomise="standard")
        train.run(experiment, place / "data", place / name, quiet=True)
        return place / name

    return run


@pytest.fixture(params=["fb", pytest.param("td_jepa", marks=pytest.mark.slow)])
def trained(request, run_of):
    """(policy, world) of a finished run."""
    return resolve(str(run_of(request.param)))


def test_stored_episodes_keep_the_state_and_the_physics_alone(place):
    episode = store.read_episodes(place / "data")[0]
    assert episode["state"].shape == (7, 1)
    assert set(episode) == {"state", "action", "physics", "reward", "discount"}


@pytest.mark.parametrize("chunk", [5, 50_000])
def test_privileged_observations_are_read_of_stored_physics(place, chunk):
    env = collect.make_env("cart", None, "standard")
    stored = dataset.from_episodes(store.read_episodes(place / "data"))
    steps = train.add_privileged(stored, env, chunk).steps
    expected = env.observe(stored.steps.physics.astype(np.float64))[0]["privileged"]
    np.testing.assert_array_equal(steps.obs["privileged"], expected)
    np.testing.assert_array_equal(steps.obs["state"], stored.steps.obs["state"])
    bare = stored.replace(steps=stored.steps.replace(physics=stored.steps.physics[:, :0]))
    with pytest.raises(InputError, match="data: its states carry no physics vector, so what only training sees"):
        train.add_privileged(bare, env)


def test_policy_keeps_statistics_and_buffer_of_both_names(trained):
    policy, env = trained
    assert dict(policy.spec.obs) == {"state": (1,), "privileged": (4,)}
    assert {name: len(values) for name, values in policy.spec.std.items()} == {"state": 1, "privileged": 4}
    expected = env.observe(policy.buffer.physics.astype(np.float64))[0]["privileged"]
    np.testing.assert_allclose(policy.buffer.obs["privileged"], expected, atol=1e-5)


def test_policy_is_prompted_evaluated_and_acts_on_the_state_alone(trained, tmp_path):
    policy, env = trained
    scores = evaluate_tasks(policy, env, episodes=2)
    assert np.isfinite(scores["right"].returns).all()
    for request, told in (
        (Request("reward", "tolerance(speed, 0.1, inf, 0.2)", samples=30), {"predicted_return", "evaluated_return"}),
        (Request("row", row=3), {"distance"}),
        (Request("state", state=tuple(policy.buffer.physics[0].tolist())), {"distance"}),
    ):
        prompted, found, _ = prompt.run(policy, env, request, tmp_path / "prompt.json", episodes=1)
        assert told <= found.keys()
        promptfile.check(tmp_path / "prompt.json", policy, env)
        action, _ = prompted.act({"state": np.zeros(1)}, prompted.carry())
        assert action.shape == (1,)


def test_served_policy_asks_for_the_state_alone(trained):
    policy, env = trained
    prompted, _ = promptfile.infer(Request("row", row=3), policy, env)
    servable = PolicyServable(policy, {"there": prompted}, env.spec.control_dt)
    assert servable.schema == {"state": (1,)}
    state = {"state": np.array([0.2], np.float32)}
    actions, _ = alone(servable, state, servable.start())
    np.testing.assert_allclose(actions[0], prompted.act(state, prompted.carry())[0], atol=1e-6)


def test_exported_policy_acts_on_the_state_alone_and_has_no_encoder_of_goals(run_of, tmp_path):
    policy, env = resolve(str(run_of("fb")), "none")
    verdict = export.run(policy, env, export.choose_prompts(policy, env, ()), tmp_path / "bundle", episodes=2)
    assert verdict.passed
    loaded = bundle.load(tmp_path / "bundle")
    assert "encoder.onnx" not in loaded.content
    golden = loaded.arrays(bundle.GOLDEN)
    assert golden["obs"].shape[1] == 1
    expected, _ = Prompted(policy, golden["z"][5]).act({"state": golden["obs"][5]}, (0, ()))
    np.testing.assert_allclose(golden["action"][5], expected, atol=1e-5)
