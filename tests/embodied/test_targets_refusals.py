"""What other runtimes cannot do is refused in one line that names it."""

import dataclasses

import numpy as np
import pytest

from embodied.deploy import bundle
from embodied.deploy.contract import Action, Contract, History, Reading, Term, Timing
from embodied.deploy.errors import InputError
from embodied.export import targets
from tests.embodied import humanoid, robots

EVERY = tuple(targets.TARGETS)


def plain() -> Contract:
    """A contract that every target takes."""
    agreed = robots.contract()
    terms = tuple(dataclasses.replace(term, history=History()) for term in agreed.observation.terms)
    scale = {"left_hip": 0.3, "right_hip": 0.3}
    return dataclasses.replace(
        agreed,
        observation=dataclasses.replace(agreed.observation, terms=terms),
        action=dataclasses.replace(agreed.action, scale=scale),
    )


def acting(**changes) -> Contract:
    return dataclasses.replace(plain(), action=dataclasses.replace(plain().action, **changes))


def bodied(**changes) -> Contract:
    return dataclasses.replace(plain(), robot=dataclasses.replace(plain().robot, **changes))


def observing(*terms: Term, **changes) -> Contract:
    """The plain contract with further terms, of two further readings."""
    agreed = plain()
    readings = (*agreed.readings, Reading("sensor/height", 1, "needs_estimator"), Reading("sensor/foot", 3))
    observation = dataclasses.replace(agreed.observation, terms=agreed.observation.terms + terms)
    return dataclasses.replace(agreed, readings=readings, observation=observation, **changes)


def walker_like() -> Contract:
    """Motors that take commands, where the policy knows no positions of joints as targets."""
    motors = ("left_motor", "right_motor")
    same = lambda value: dict.fromkeys(motors, value)  # noqa: E731
    action = Action(motors, "actuator_command", same(1.0), same(0.0), same((-1.0, 1.0)))
    return dataclasses.replace(plain(), action=action)


def blind() -> Contract:
    return observing(imu=None, safety=dataclasses.replace(plain().safety, tilt=None))


def test_plain_contract_is_taken_by_every_target():
    assert targets.check(plain(), EVERY) is None


@pytest.mark.parametrize("target", EVERY)
@pytest.mark.parametrize(
    ("agreed", "message"),
    [
        (walker_like(), "action.target is 'actuator_command'"),
        (
            observing(Term("height", ("sensor/height",))),
            "term 'height' reads 'sensor/height', which needs an estimator",
        ),
        (observing(Term("foot", ("sensor/foot[1]",))), "term 'foot' reads 'sensor/foot', which this runtime does not"),
        (blind(), "term 'gravity' reads 'sensor/orientation', which this runtime does not give"),
        (blind(), "the contract has no imu"),
        (observing(Term("turn", ("sensor/orientation",))), "term 'turn' reads 'sensor/orientation'"),
        (observing(Term("soft", ("sensor/gyro",), function="arcsinh")), "term 'soft' is the arcsinh of its readings"),
        (observing(Term("bias", ("sensor/gyro",), offset=(0.1, 0.0, 0.0))), "term 'bias' has an offset"),
        (
            observing(Term("raw", ("joint_position/left_hip",))),
            "term 'raw' subtracts 0.0 from the position of 'left_hip'",
        ),
        (bodied(joints=(*robots.JOINTS, "neck")), "joint 'neck' is not commanded"),
    ],
)
def test_what_no_target_can_do_is_refused_by_name(target, agreed, message):
    with pytest.raises(InputError) as error:
        targets.check(agreed, [target])
    assert str(error.value).startswith(f"target {target}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


LOOKS_BACK = Term("past", ("sensor/gyro",), history=History(2))
OTHER_OFFSET = {"left_hip": 0.1, "right_hip": 0.0}


@pytest.mark.parametrize(
    ("target", "agreed", "message"),
    [
        ("unitree_rl", bodied(kp={"left_hip": 20.0}), "robot.kp has no number for joint 'right_hip'"),
        ("mjlab", bodied(kd={}), "robot.kd has no number for joint 'left_hip'"),
        ("bfm_zero", dataclasses.replace(plain(), command=dataclasses.replace(plain().command, width=0)), "no latent"),
        ("bfm_zero", dataclasses.replace(plain(), timing=Timing(0.005, 2, 0.01)), "control_dt is 0.01 s; this runtime"),
        ("bfm_zero", acting(offset=OTHER_OFFSET), "action.offset of 'right_hip' is 0.0, and 0.1 is subtracted"),
        ("mjlab", acting(last_action="target"), "term 'action' is the last target"),
        ("mjlab", acting(rescale=2.0), "joint 'left_hip' can be sent from -0.5 to 0.7, its limit is -0.45 to 0.45"),
        ("playground", acting(clip=1.5), "joint 'left_hip' can be sent from -0.35 to 0.55"),
        ("playground", observing(LOOKS_BACK), "term 'past' looks back 1 ticks"),
    ],
)
def test_what_one_target_cannot_do_is_refused_by_name(target, agreed, message):
    with pytest.raises(InputError, match=f"^target {target}: ") as error:
        targets.check(agreed, [target])
    assert message in str(error.value)


def test_what_only_the_others_cannot_do_is_taken_by_unitree():
    for agreed in (
        acting(offset=OTHER_OFFSET),
        acting(last_action="target"),
        acting(rescale=2.0),
        observing(LOOKS_BACK),
    ):
        targets.check(agreed, ["unitree_rl"])
    with pytest.raises(InputError, match="can be sent from"):
        targets.check(humanoid.contract(), ["mjlab"])


def test_unknown_target_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="target: unknown target 'unitree_lab'; did you mean 'unitree_rl'"):
        targets.check(plain(), ["unitree_lab"])
    with pytest.raises(InputError, match="choose one of: bfm_zero, mjlab, playground, unitree_rl"):
        targets.check(plain(), ["ros"])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return bundle.load(robots.write_bundle(tmp_path_factory.mktemp("bundle") / "biped", plain()))


def test_motions_and_missing_prompts_cannot_be_baked(loaded, tmp_path, monkeypatch):
    motion = np.ones((3, 2), np.float32)
    monkeypatch.setattr(bundle.Bundle, "prompt", lambda self, name: motion)
    for target in ("unitree_rl", "mjlab", "playground"):
        with pytest.raises(InputError, match=f"target {target}: prompt 'lean' is a motion of 3 latents"):
            targets.write(loaded, target, tmp_path / target)
    bare = dataclasses.replace(loaded, content={n: c for n, c in loaded.content.items() if "prompts/" not in n})
    with pytest.raises(InputError, match="the bundle has none"):
        targets.write(bare, "mjlab", tmp_path / "mjlab")
    assert not any((tmp_path / target).exists() for target in EVERY)


def test_folder_that_exists_is_left_alone(loaded, tmp_path):
    with pytest.raises(InputError, match="exists; choose another folder"):
        targets.write(loaded, "mjlab", tmp_path)
