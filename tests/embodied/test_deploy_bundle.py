"""Bundles: any change of any byte is noticed before anything runs."""

import dataclasses
import shutil

import numpy as np
import pytest

from embodied.deploy import bundle, contract
from embodied.deploy.__main__ import main
from embodied.deploy.errors import InputError
from embodied.deploy.network import Network
from embodied.deploy.verify import verify
from tests.embodied import robots


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    return robots.write_bundle(tmp_path_factory.mktemp("bundle") / "biped")


@pytest.fixture
def folder(sealed, tmp_path):
    return shutil.copytree(sealed, tmp_path / "biped")


def test_golden_vectors_are_reproduced(sealed):
    verdict = verify(bundle.load(sealed))
    assert verdict.passed
    assert (verdict.steps, verdict.unequal) == (24, 0)


def test_a_wrong_golden_vector_fails_the_verification(folder, capsys):
    loaded = bundle.load(folder)
    golden = loaded.arrays(bundle.GOLDEN)
    golden["action"][7, 1] += 1e-3
    golden["readings"][9, 0] += 1e-3
    np.savez(folder / bundle.GOLDEN, **golden)
    for name in (bundle.MANIFEST, bundle.SEAL):
        (folder / name).unlink()
    bundle.seal(folder, {})
    verdict = verify(bundle.load(folder))
    assert not verdict.passed
    assert verdict.unequal == 1
    assert verdict.action_error == pytest.approx(1e-3, rel=1e-2)
    assert main(["verify", str(folder)]) == 1
    assert "NOT verified" in capsys.readouterr().out


@pytest.mark.parametrize(("tolerance", "passed"), [(5e-3, True), (1e-4, False)])
def test_bundle_whose_actions_are_searched_for_says_how_far_they_may_be_off(folder, tolerance, passed):
    golden = bundle.load(folder).arrays(bundle.GOLDEN)
    golden["action"][7, 1] += 1e-3
    np.savez(folder / bundle.GOLDEN, **golden)
    for name in (bundle.MANIFEST, bundle.SEAL):
        (folder / name).unlink()
    bundle.seal(folder, {"tolerance": tolerance})
    assert verify(bundle.load(folder)).passed == passed


def test_bundle_that_asks_for_too_much_tolerance_is_refused(folder):
    for name in (bundle.MANIFEST, bundle.SEAL):
        (folder / name).unlink()
    bundle.seal(folder, {"tolerance": 0.5})
    with pytest.raises(InputError, match=r"manifest.json: tolerance must be in \(0, 0.01\], got 0.5"):
        verify(bundle.load(folder))


def test_every_single_bit_flip_is_detected_before_anything_runs(folder):
    rng = np.random.default_rng(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    size = np.array([path.stat().st_size for path in files])
    chosen = [*range(len(files)), *rng.choice(len(files), 100 - len(files), p=size / size.sum())]
    for index in chosen:
        path, original = files[index], files[index].read_bytes()
        flipped = bytearray(original)
        flipped[rng.integers(len(original))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(InputError):
            bundle.load(folder)
        path.write_bytes(original)
    assert bundle.load(folder).prompts == ("lean", "rock")


def test_missing_added_and_linked_files_are_refused_by_name(folder, tmp_path):
    (folder / "extra.txt").write_text("x")
    with pytest.raises(InputError, match=r"extra.txt: is not in the manifest"):
        bundle.load(folder)
    (folder / "extra.txt").unlink()
    prompt = folder / "prompts" / "lean.npz"
    prompt.rename(tmp_path / "lean.npz")
    with pytest.raises(InputError, match=r"lean.npz: is missing"):
        bundle.load(folder)
    prompt.symlink_to(tmp_path / "lean.npz")
    with pytest.raises(InputError, match="is a link"):
        bundle.load(folder)


def test_folder_that_is_no_bundle_is_told_in_one_line(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "no bundle, it has no manifest.json" in capsys.readouterr().err


def test_prompts_are_checked_against_the_contract(sealed):
    loaded = bundle.load(sealed)
    assert loaded.prompt("rock").tolist() == [-1, 1]
    with pytest.raises(InputError, match="did you mean 'lean'"):
        loaded.prompt("leam")
    for z, message in [
        (np.ones(3), "must have shape"),
        (np.array([np.nan, 1]), "non-finite"),
        (np.zeros(2), "length 1.41421"),
        (np.ones((0, 2)), "must have shape"),
    ]:
        with pytest.raises(InputError, match=message):
            bundle.check_latent(loaded.contract, z.astype(np.float32), "prompt")


def test_network_guards_against_numbers_that_are_none(sealed):
    loaded = bundle.load(sealed)
    network, z = Network(loaded), loaded.prompt("lean")
    obs = np.zeros(loaded.contract.width, np.float32)
    assert network(obs, z)[2]
    obs[3] = np.nan
    action, target, finite = network(obs, z)
    assert not finite
    np.testing.assert_allclose(action, 0)
    np.testing.assert_allclose(target, 0.1)  # the offset


def test_graph_that_does_not_fit_the_contract_is_refused(sealed):
    loaded = bundle.load(sealed)
    shorter = contract.Observation(loaded.contract.observation.terms[:-1])
    other = dataclasses.replace(loaded, contract=dataclasses.replace(loaded.contract, observation=shorter))
    with pytest.raises(InputError, match="the contract says"):
        Network(other)
    broken = dataclasses.replace(loaded, content={**loaded.content, bundle.POLICY: b"no graph"})
    with pytest.raises(InputError, match="onnxruntime refuses it"):
        Network(broken)
