"""A served bundle gives the targets that its runtime would, episode by episode."""

import numpy as np
import pytest

from embodied.deploy import bundle
from embodied.serve.bundle import BundleServable
from embodied.serve.client import Client
from embodied.serve.server import ServeConfig, running
from embodied.types import InputError
from experiments.commands import serve as command
from tests.embodied import robots
from tests.embodied.served import alone


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return robots.write_bundle(tmp_path_factory.mktemp("bundle") / "biped")


def test_golden_readings_give_golden_targets(folder):
    loaded = bundle.load(folder)
    golden, servable = loaded.arrays(bundle.GOLDEN), BundleServable(loaded)
    carry = None
    for index, readings in enumerate(golden["readings"]):
        carry = servable.start() if golden["reset"][index] else carry
        targets, carry = alone(servable, {"readings": readings.astype(np.float32), "prompt": "lean"}, carry)
        np.testing.assert_allclose(targets[0], golden["target"][index], atol=1e-5)


def test_latents_and_prompts_that_do_not_fit_are_named(folder):
    servable = BundleServable(bundle.load(folder))
    readings = np.zeros(11, np.float32)
    for extra, message in [
        ({"prompt": "leen"}, "did you mean 'lean'"),
        ({"prompt": 3}, "the bundle has no '3'"),
        ({"z": np.zeros(2, np.float32)}, "length 1.41421"),
        ({"z": np.ones(3, np.float32)}, "must have shape"),
        ({"z": np.ones(2, np.float32), "prompt": "lean"}, "not both"),
    ]:
        with pytest.raises(InputError, match=message):
            alone(servable, {"readings": readings, **extra}, servable.start())


def test_clients_are_served_from_a_bundle(folder):
    servable = command.load(str(folder), ())
    with running(servable, ServeConfig(port=0)) as server, Client(f"ws://127.0.0.1:{server.port}") as client:
        chunk = client.infer({"readings": np.zeros(11, np.float32), "prompt": "rock"})
        assert client.metadata["targets"] == ["left_hip", "right_hip"]
        assert chunk.actions.shape == (1, 2)
        assert np.abs(chunk.actions).max() <= 0.45
    with pytest.raises(InputError, match="brings its own prompts"):
        command.load(str(folder), (folder / "x.json",))
