"""How observations reach networks: image encoders, random shifts, and vectors that nothing changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import td_jepa
from embodied import sight
from embodied.data.normalize import frame_statistics
from embodied.nets import encoders, pixels
from embodied.sight import Image
from embodied.types import Batch, Chain, InputError, Spec

SPEC = Spec(obs={"pixels": (64, 64, 9)}, action=2)
CONFIG = td_jepa.Config().tiny()


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_published_encoder_has_the_published_number_of_parameters():
    net = pixels.image_encoder(32, (3,) * 4, (2, 1, 1, 1), 256)
    params = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 9), jnp.uint8))
    conv = [params[f"conv_{i}"] for i in range(4)]
    assert encoders.count(conv) == 30_368
    assert params["out"]["kernel"].shape == (20_000, 256)
    assert encoders.count([params["out"], params["norm"]]) == 5_120_768


def test_features_are_bounded_and_follow_the_image():
    net = pixels.image_encoder(4, (3,) * 4, (2, 2, 2, 1), 8)
    shown = images(3, 32, 32, 9)
    params = net.init(jax.random.key(0), shown)
    features = np.asarray(net.apply(params, shown))
    assert features.shape == (3, 8)
    assert (np.abs(features) < 1).all()
    assert np.abs(features[0] - features[1]).max() > 1e-3


def test_input_is_a_share_of_the_brightest_less_one_half():
    net = pixels.image_encoder(1, (3,), (1,), 2)
    params = net.init(jax.random.key(0), np.zeros((1, 3, 3, 1), np.uint8))
    params["conv_0"]["kernel"] = jnp.zeros((3, 3, 1, 1)).at[1, 1, 0, 0].set(1.0)
    params["out"]["kernel"] = jnp.array([[1.0, -1.0]])
    middle = np.zeros((2, 3, 3, 1), np.uint8)
    middle[:, 1, 1, 0] = (255, 51)  # 0.5 and -0.3, which ReLU makes 0
    # LayerNorm over (0.5, -0.5) and over (0, 0)
    np.testing.assert_allclose(net.apply(params, middle), np.tanh([[1.0, -1.0], [0.0, 0.0]]), atol=1e-4)


def test_patches_give_what_a_convolution_of_their_size_and_stride_gives():
    shown, kernel = images(2, 11, 10, 3).astype(np.float32), images(4, 4, 3, 5, seed=1) / 255.0
    convolved = jax.lax.conv_general_dilated(
        shown, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    assert convolved.shape == (2, 2, 2, 5)
    np.testing.assert_allclose(pixels.patches(jnp.asarray(shown), 4) @ kernel.reshape(48, 5), convolved, rtol=1e-5)


def test_many_images_are_read_in_pieces_with_the_same_result(monkeypatch):
    net = pixels.image_encoder(2, (3,) * 4, (2, 2, 2, 1), 4)
    shown = images(11, 32, 32, 3)
    params = net.init(jax.random.key(0), shown[:1])
    whole = net.apply(params, shown)
    monkeypatch.setattr(pixels, "AT_ONCE", 4)
    np.testing.assert_allclose(net.apply(params, shown), whole, atol=1e-6)


def test_shift_is_a_crop_of_the_image_with_repeated_borders():
    shown = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    offsets = [(2, 2), (0, 2), (4, 3)]  # none; down by 2; up by 2 and left by 1
    moved = pixels.shift(jnp.asarray(np.repeat(shown, 3, 0)), jnp.array(offsets), 2)[..., 0]
    np.testing.assert_array_equal(moved[0], shown[0, ..., 0])
    np.testing.assert_array_equal(moved[1], [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(moved[2], [[9, 10, 11, 11], [13, 14, 15, 15], [13, 14, 15, 15], [13, 14, 15, 15]])


def test_a_mean_frame_is_taken_from_each_frame_of_a_stack_before_it_moves():
    mean = np.arange(8 * 8 * 3, dtype=np.float64)
    spec = Spec(obs={"pixels": (8, 8, 9)}, action=1, mean={"pixels": tuple(mean)}, std={"pixels": (20.0,)})
    config = dataclasses.replace(CONFIG, inputs="standardized", image=Image(1, (3,), (1,), 4))
    look = sight.make(config, spec, ("pixels",), "phi_image")
    shown, at = images(5, 8, 8, 9), jnp.tile(jnp.array([[0, 3]]), (5, 1))
    params = look.init(jax.random.key(0))
    centred = jnp.asarray(shown.astype(np.int16) - np.tile(mean.reshape(8, 8, 3).astype(np.int16), 3))
    expected = pixels.image_encoder(1, (3,), (1,), 4, scale=20.0).apply(
        params["phi_image"], pixels.shift(centred, at, 2)
    )
    read = look.read(params, {"pixels": jnp.asarray(shown), "shift": at})
    np.testing.assert_allclose(read, expected, atol=1e-6)
    raw = sight.make(dataclasses.replace(config, inputs="raw"), spec, ("pixels",), "phi_image")
    assert np.abs(raw.read(params, {"pixels": jnp.asarray(shown), "shift": at}) - read).max() > 0.1


def test_signed_images_are_divided_by_the_scale_alone():
    net = pixels.image_encoder(1, (3,), (1,), 2, scale=10.0)
    params = net.init(jax.random.key(0), np.zeros((1, 3, 3, 1), np.uint8))
    params["conv_0"]["kernel"] = jnp.zeros((3, 3, 1, 1)).at[1, 1, 0, 0].set(1.0)
    params["out"]["kernel"] = jnp.array([[2.0, -2.0]])
    middle = np.zeros((2, 3, 3, 1), np.int16)
    middle[:, 1, 1, 0] = (5, -5)  # 0.5, and -0.5, which ReLU makes 0
    np.testing.assert_allclose(net.apply(params, middle), np.tanh([[1.0, -1.0], [0.0, 0.0]]), atol=1e-4)


def test_statistics_of_frames_are_a_mean_frame_and_one_deviation_from_it():
    frames = np.zeros((4, 1, 2, 3), np.uint8)
    frames[2:, 0, 1] = 40
    mean, std = frame_statistics(frames)
    assert mean == (0.0, 0.0, 0.0, 20.0, 20.0, 20.0)
    assert std == (pytest.approx(np.sqrt(200.0)),)
    assert frame_statistics(np.full((3, 2, 2, 3), 7, np.uint8)) == ((7.0,) * 12, (1.0,))


def test_all_frames_of_a_stack_move_alike():
    one = images(1, 8, 8, 3)
    moved = np.asarray(pixels.shift(jnp.asarray(np.tile(one, 3)), jnp.array([[0, 3]]), 2))
    np.testing.assert_array_equal(moved[..., :3], moved[..., 6:])
    assert (moved[..., :3] != one).any()


def pixel_batch(count: int, names: tuple[str, ...] = ("pixels",)) -> Batch:
    obs = {name: jnp.zeros((count, 8, 8, 9), jnp.uint8) for name in names}
    ahead = {name: jnp.zeros((count, 2, 8, 8, 9), jnp.uint8) for name in names}
    chain = Chain(jnp.zeros((count, 2, 1)), ahead, *[jnp.ones((count, 2))] * 3)
    nothing = jnp.zeros(count)
    return Batch(obs, jnp.zeros((count, 1)), obs, nothing, nothing, future=obs, chain=chain)


def test_every_image_of_a_batch_gets_a_shift_of_its_own():
    moved = sight.shifted(CONFIG, pixel_batch(500), jax.random.key(0))
    found = [one["shift"] for one in (moved.obs, moved.next_obs, moved.future)]
    assert {one.shape for one in found} == {(500, 2)}
    assert moved.chain.next_obs["shift"].shape == (500, 2, 2)
    assert all(sorted(np.unique(one)) == [0, 1, 2, 3, 4] for one in found)
    correlation = np.corrcoef(np.concatenate(found, -1).T) - np.eye(6)
    assert np.abs(correlation).max() < 0.2  # 4.5 standard deviations


def test_vectors_and_images_that_should_stay_are_left_as_they_are():
    still = dataclasses.replace(CONFIG, image=dataclasses.replace(CONFIG.image, shift=0))
    for config, batch in ((CONFIG, pixel_batch(3, ("state",))), (still, pixel_batch(3))):
        assert sight.shifted(config, batch, jax.random.key(0)) is batch


def test_shifts_change_what_is_read_but_not_what_was_observed():
    look = sight.make(CONFIG, SPEC, SPEC.trained_on, "phi_image")
    params, shown = look.init(jax.random.key(0)), jnp.asarray(images(1, 64, 64, 9))
    centre, corner = ({"pixels": shown, "shift": jnp.array([at])} for at in ((2, 2), (0, 4)))
    np.testing.assert_array_equal(look.read(params, centre), look.read(params, {"pixels": shown}))
    assert np.abs(look.read(params, centre) - look.read(params, corner)).max() > 1e-4
    np.testing.assert_array_equal(look.same(centre), look.same(corner))


def test_sight_of_vectors_has_no_parameters_and_changes_nothing():
    spec = Spec(obs={"state": (3,), "privileged": (2,)}, action=1)
    state, more = jnp.ones((2, 3)), jnp.zeros((2, 2))
    look = sight.make(CONFIG, spec, spec.trained_on, "phi_image")
    assert (look.groups, look.init(jax.random.key(0))) == ((), {})
    np.testing.assert_array_equal(look.read({}, {"state": state, "privileged": more}), [[1, 1, 1, 0, 0]] * 2)


def test_encoders_of_two_groups_begin_apart():
    first, second = (sight.make(CONFIG, SPEC, SPEC.acted_on, name) for name in ("phi_image", "psi_image"))
    kernels = [one.init(jax.random.key(0))[one.groups[0]]["conv_0"]["kernel"] for one in (first, second)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1


@pytest.mark.parametrize(
    ("kernels", "strides", "least"),
    [((3, 3, 3, 3), (2, 1, 1, 1), 15), ((3, 3, 3, 3), (2, 2, 2, 1), 31), ((3,), (1,), 3), ((4, 2, 2), (4, 2, 2), 16)],
)
def test_smallest_image_leaves_one_pixel_behind_the_convolutions(kernels, strides, least):
    assert pixels.smallest(kernels, strides) == least
    side = least
    for kernel, stride in zip(kernels, strides, strict=True):
        side = (side - kernel) // stride + 1
    assert side == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strides": ()}, r"image: strides must be one or more numbers of at least 1, got \(\)"),
        ({"strides": (2, 0)}, r"image: strides must be one or more numbers of at least 1, got \(2, 0\)"),
        ({"kernels": (3, 0, 3, 3)}, r"image: kernels must be one or more numbers of at least 1, got \(3, 0, 3, 3\)"),
        ({"kernels": (3, 3)}, r"image: kernels must be as many as strides, 4, got \(3, 3\)"),
        ({"channels": 0}, r"image: channels must be in \[1, inf\), got 0"),
        ({"shift": -1}, r"image: shift must be in \[0, inf\), got -1"),
    ],
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        Image(**fields)


def test_images_too_small_for_the_convolutions_are_refused():
    config = dataclasses.replace(CONFIG, image=Image(kernels=(3,) * 5, strides=(2,) * 5))
    with pytest.raises(InputError, match=r"image: kernels \(3, .*\) with strides \(2, .*\) need pixels of at least 63"):
        sight.make(config, Spec(obs={"pixels": (48, 48, 9)}, action=1), ("pixels",), "phi_image")
