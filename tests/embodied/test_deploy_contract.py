"""Contracts: what is written is read back, by JSON and by YAML readers, and what contradicts itself is refused."""

import dataclasses

import pytest
import yaml

from embodied.deploy import contract
from embodied.deploy.contract import History, Observation, Term
from embodied.deploy.errors import InputError
from tests.embodied import robots


def test_contract_survives_its_file_exactly(tmp_path):
    agreed = robots.contract(slew={"left_hip": 1e-05, "right_hip": 1 / 3})
    (tmp_path / "contract.yaml").write_text(contract.write(agreed))
    assert contract.read(tmp_path / "contract.yaml") == agreed


def test_yaml_readers_see_the_same_numbers_as_json_readers():
    agreed = robots.contract(slew={"left_hip": 1e-05, "right_hip": 1.5e30})
    loaded = yaml.safe_load(contract.write(agreed))
    assert loaded["safety"]["slew"] == {"left_hip": 1e-05, "right_hip": 1.5e30}
    assert loaded["action"]["limit"]["left_hip"] == [-0.45, 0.45]


def test_width_counts_every_frame_of_every_term():
    assert robots.contract().width == 2 + 2 + 3 + 3 * 3 + 3 * 2


def test_readings_are_addressed_by_name_and_element():
    agreed = robots.contract(("right_hip", "left_hip"))
    position, velocity, gravity, *_ = agreed.observation.terms
    assert contract.source_columns(agreed, position) == [1, 0]
    assert contract.source_columns(agreed, velocity) == [3, 2]
    assert contract.source_columns(agreed, gravity) == [4, 5, 6, 7]
    one = Term("w", ("sensor/orientation[3]", "joint_position/left_hip"))
    assert contract.source_columns(agreed, one) == [7, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "contract: format 2 is not 1"),
        ({"timing": contract.Timing(0.005, 4, 0.03)}, "timing: control_dt 0.03 is not sim_dt"),
        ({"imu": None}, "safety: tilt needs an imu"),
        ({"imu": contract.Imu("sensor/orientatoin", "sensor/gyro")}, "did you mean 'sensor/orientation'"),
        ({"terms": (Term("a", ("joint_position/left_hipp",)),)}, "did you mean 'joint_position/left_hip'"),
        ({"terms": (Term("a", ("sensor/gyro[3]",)),)}, "'sensor/gyro' has elements 0 to 2"),
        ({"terms": (Term("a", ("sensor/gyro[x]",)),)}, "'sensor/gyro' has elements 0 to 2"),
        ({"terms": (Term("a", ("last_action", "sensor/gyro")),)}, "term 'a' mixes last_action with readings"),
        ({"terms": (Term("a", ("sensor/gyro",), function="projected_gravity"),)}, "needs a quaternion of 4"),
        ({"terms": (Term("a", ("sensor/gyro",), offset=(1.0, 2.0)),)}, "offset of term 'a' must have 3 numbers"),
        ({"terms": (Term("a", ("sensor/gyro",), scale=(1.0, 2.0)),)}, "scale of term 'a' must have 1 or 3"),
        ({"terms": (Term("a", ("sensor/gyro",), history=History(0)),)}, "history of term 'a' must have length 1"),
        ({"limit": {"left_hip": (-1.0, 1.0)}}, "action: limit must name exactly left_hip, right_hip"),
        ({"limit": {"left_hip": (1.0, -1.0), "right_hip": (-1.0, 1.0)}}, "limit of 'left_hip' must be (low, high)"),
    ],
)
def test_contradictions_are_refused_by_name(change, message):
    agreed = robots.contract()
    if "terms" in change:
        change = {"observation": Observation(change["terms"])}
    if "limit" in change:
        change = {"action": dataclasses.replace(agreed.action, **change)}
    with pytest.raises(InputError) as error:
        dataclasses.replace(agreed, **change)
    assert message in str(error.value)


def test_frame_by_frame_layout_needs_one_history_length():
    agreed = robots.contract()
    with pytest.raises(InputError, match="one history length"):
        dataclasses.replace(agreed, observation=Observation(agreed.observation.terms, "per_time"))


def test_unknown_field_of_a_contract_file_is_named_with_the_nearest(tmp_path):
    text = contract.write(robots.contract()).replace('"decimation"', '"decimatoin"')
    (tmp_path / "contract.yaml").write_text(text)
    with pytest.raises(InputError, match="did you mean 'decimation'"):
        contract.read(tmp_path / "contract.yaml")
