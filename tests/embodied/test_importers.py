import numpy as np
import pytest

from embodied.data.importers import complete_physics, read_exorl, read_ogbench
from embodied.data.store import read_episodes, write_episodes
from embodied.types import InputError


def _exorl(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Three transitions: state 10, 11, 12, 13; action 0.1 leads to state 11 and earns 1."""
    arrays = {
        "observation": np.array([[10.0, 0], [11, 0], [12, 0], [13, 0]], np.float32),
        "action": np.array([[0.0], [0.1], [0.2], [0.3]], np.float32),
        "reward": np.array([[0.0], [1], [2], [3]], np.float32),
        "discount": np.array([[1.0], [1], [1], [0]], np.float32),
        "physics": np.array([[5.0, 6], [7, 8], [9, 10], [11, 12]]) + 1e-12,
    }
    return arrays | changes


def _ogbench(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Trajectories of rows 0-2 and 3-4."""
    arrays = {
        "observations": np.arange(10, dtype=np.float32).reshape(5, 2),
        "actions": np.array([[0.1], [0.2], [0.9], [0.3], [0.9]], np.float32),
        "terminals": np.array([0, 0, 1, 0, 1], np.float32),
        "qpos": np.arange(15.0).reshape(5, 3),
        "qvel": -np.arange(5.0).reshape(5, 1),
    }
    return arrays | changes


def test_exorl_actions_move_one_row_earlier(tmp_path):
    np.savez(tmp_path / "episode_000000_3.npz", **_exorl())
    (episode,) = read_exorl(tmp_path)
    np.testing.assert_array_equal(episode["state"][:, 0], [10, 11, 12, 13])
    np.testing.assert_array_equal(episode["action"][:, 0], np.float32([0.1, 0.2, 0.3]))
    np.testing.assert_array_equal(episode["reward"], [1, 2, 3])
    np.testing.assert_array_equal(episode["discount"], [1, 1, 0])
    np.testing.assert_array_equal(episode["physics"], _exorl()["physics"])
    assert {name: values.dtype for name, values in episode.items()} == {
        "state": np.float32,
        "action": np.float32,
        "reward": np.float32,
        "discount": np.float32,
        "physics": np.float64,
    }


def test_exorl_episodes_come_in_the_order_of_their_names_up_to_the_limit(tmp_path):
    for index in (2, 0, 1):
        np.savez(tmp_path / f"episode_{index:06d}_3.npz", **_exorl(reward=np.full((4, 1), float(index))))
    assert [episode["reward"][0] for episode in read_exorl(tmp_path)] == [0, 1, 2]
    assert [episode["reward"][0] for episode in read_exorl(tmp_path, limit=2)] == [0, 1]


def test_imported_episodes_can_be_stored(tmp_path):
    np.savez(tmp_path / "episode_000000_3.npz", **_exorl())
    write_episodes(tmp_path / "stored", "exorl", read_exorl(tmp_path), {"collector": "rnd"})
    (stored,) = read_episodes(tmp_path / "stored")
    (episode,) = read_exorl(tmp_path)
    for name, values in episode.items():
        np.testing.assert_array_equal(stored[name], values)


def test_exorl_without_physics_gives_empty_physics(tmp_path):
    arrays = _exorl()
    del arrays["physics"]
    np.savez(tmp_path / "episode.npz", **arrays)
    (episode,) = read_exorl(tmp_path)
    assert episode["physics"].shape == (4, 0)


def test_ogbench_trajectories_lose_the_action_of_their_last_row(tmp_path):
    np.savez(tmp_path / "cube.npz", **_ogbench())
    first, second = read_ogbench(tmp_path / "cube.npz")
    np.testing.assert_array_equal(first["state"], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(first["action"][:, 0], np.float32([0.1, 0.2]))
    np.testing.assert_array_equal(second["state"], [[6, 7], [8, 9]])
    np.testing.assert_array_equal(second["action"][:, 0], np.float32([0.3]))
    np.testing.assert_array_equal(second["discount"], [1])
    np.testing.assert_array_equal(second["physics"], [[9, 10, 11, -3], [12, 13, 14, -4]])
    assert [len(e["action"]) for e in read_ogbench(tmp_path / "cube.npz", limit=1)] == [2]


def test_ogbench_without_simulator_states_gives_empty_physics(tmp_path):
    arrays = {name: values for name, values in _ogbench().items() if name not in ("qpos", "qvel")}
    np.savez(tmp_path / "cube.npz", **arrays)
    assert [episode["physics"].shape for episode in read_ogbench(tmp_path / "cube.npz")] == [(3, 0), (2, 0)]


def test_ogbench_buttons_stand_behind_the_velocities(tmp_path):
    np.savez(tmp_path / "puzzle.npz", **_ogbench(button_states=np.arange(10).reshape(5, 2) % 3))
    first, second = read_ogbench(tmp_path / "puzzle.npz")
    np.testing.assert_array_equal(first["physics"][:2], [[0, 1, 2, 0, 0, 1], [3, 4, 5, -1, 2, 0]])
    np.testing.assert_array_equal(second["physics"], [[9, 10, 11, -3, 0, 1], [12, 13, 14, -4, 2, 0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": np.array([[None], [0.1], [0.2], [0.3]])}, "'action' holds Python objects"),
        ({"action": np.zeros((3, 1))}, "'action' has 3 rows, 'observation' has 4"),
        ({"reward": np.zeros(4)}, r"'reward' has shape \[4\], expected 2 dimensions"),
        ({"discount": np.array([["1"]] * 4)}, "'discount' has dtype <U1, expected numbers"),
    ],
)
def test_exorl_refuses_what_does_not_fit(tmp_path, changes, message):
    file = tmp_path / "episode.npz"
    np.savez(file, **_exorl(**changes))
    with pytest.raises(InputError, match=f"^dataset: {file} {message}$"):
        list(read_exorl(tmp_path))


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_truncated_npz_is_refused(tmp_path, part):
    file = tmp_path / "episode.npz"
    np.savez(file, **_exorl())
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    with pytest.raises(InputError, match=f"^dataset: {file} is not a readable npz file"):
        list(read_exorl(tmp_path))
    with pytest.raises(InputError, match=f"^dataset: {file} is not a readable npz file"):
        list(read_ogbench(file))


def test_a_changed_value_in_an_npz_is_refused(tmp_path):
    file = tmp_path / "episode.npz"
    np.savez(file, **_exorl())
    content = bytearray(file.read_bytes())
    content[content.index(np.float32(12).tobytes())] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"^dataset: {file} 'observation' is unreadable"):
        list(read_exorl(tmp_path))


def test_a_folder_without_episodes_names_one_that_has_some(tmp_path):
    (tmp_path / "buffer").mkdir()
    with pytest.raises(InputError, match=r"one \.npz file per episode"):
        read_exorl(tmp_path)
    np.savez(tmp_path / "buffer" / "episode.npz", **_exorl())
    with pytest.raises(InputError, match=f"did you mean {tmp_path / 'buffer'}"):
        read_exorl(tmp_path)


def test_ogbench_rows_behind_the_last_end_are_refused(tmp_path):
    np.savez(tmp_path / "cube.npz", **_ogbench(terminals=np.array([0, 0, 1, 0, 0])))
    with pytest.raises(InputError, match="'terminals' row 3 begins a trajectory without an end"):
        read_ogbench(tmp_path / "cube.npz")


def test_a_trajectory_of_one_row_is_refused(tmp_path):
    np.savez(tmp_path / "cube.npz", **_ogbench(terminals=np.array([0, 0, 1, 1, 1])))
    with pytest.raises(InputError, match="'terminals' row 3 ends a trajectory of one row"):
        list(read_ogbench(tmp_path / "cube.npz"))


def test_completed_physics_has_time_and_the_command_that_led_to_each_row():
    physics = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    full = complete_physics(physics, 2, 1, 1, 2, np.array([[0.1, 0.2], [0.3, 0.4]]), 0.5)
    expected = [
        [0.0, 1, 2, 3, 0, 0.0, 0.0],
        [0.5, 4, 5, 6, 0, 0.1, 0.2],
        [1.0, 7, 8, 9, 0, 0.3, 0.4],
    ]
    np.testing.assert_array_equal(full, expected)


def test_stored_activations_are_kept_and_other_widths_refused():
    physics = np.arange(8.0).reshape(2, 4)
    full = complete_physics(physics, 2, 1, 1, 1, np.array([[0.5]]), 0.1)
    np.testing.assert_array_equal(full, [[0, 0, 1, 2, 3, 0], [0.1, 4, 5, 6, 7, 0.5]])
    with pytest.raises(InputError, match=r"4 columns, expected nq \+ nv \(\+ na\) = 5"):
        complete_physics(physics, 3, 2, 0, 1, np.array([[0.5]]), 0.1)
    with pytest.raises(InputError, match=r"actions: shape \[2, 1\], expected \[1, 1\]"):
        complete_physics(physics, 2, 2, 0, 1, np.zeros((2, 1)), 0.1)


def test_completed_physics_puts_a_mujoco_model_where_the_data_say():
    import mujoco

    text = """<mujoco><option timestep="0.01"/><worldbody><body><joint name="a" type="slide"/>
    <geom size="1"/></body></worldbody><actuator><motor joint="a" gear="50"/></actuator></mujoco>"""
    model = mujoco.MjModel.from_xml_string(text)
    data = mujoco.MjData(model)
    actions = np.array([[0.5], [-1.0], [0.25]])
    rows = [np.concatenate([data.qpos, data.qvel])]
    states = [np.zeros(3)]
    for action in actions:
        data.ctrl[:] = action
        mujoco.mj_step(model, data)
        rows.append(np.concatenate([data.qpos, data.qvel]))
        states.append(np.zeros(3))
        mujoco.mj_getState(model, data, states[-1], mujoco.mjtState.mjSTATE_FULLPHYSICS)
    full = complete_physics(np.stack(rows), model.nq, model.nv, model.na, model.nu, actions, 0.01)
    np.testing.assert_allclose(full[:, :3], np.stack(states), atol=1e-12)
    np.testing.assert_array_equal(full[1:, 3:], actions)
