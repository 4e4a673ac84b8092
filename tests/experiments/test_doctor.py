"""The doctor finds what is wrong, says how to mend it, and knows what a preset takes."""

import dataclasses
import json

import jax
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from agents import td3
from embodied.types import EnvSpec, InputError
from experiments import doctor
from experiments.commands import doctor as command
from experiments.doctor import Check, Estimate
from experiments.presets import COLLECT, PRESETS

WALKER = EnvSpec("walker", {"state": (24,)}, 6, 0.025, 1, 1000, {}, physics=25, jittable=False)
NEED = Estimate(params=100, target=80, optimizer=200, rows=10, data=1000, copies=2, work=300)


def test_package_within_its_range_is_ok_and_others_fail_with_the_installing_command():
    wanted = Requirement("mujoco==3.16.0")
    assert doctor.check_package(wanted, "3.16.0") == Check("ok", "mujoco", "3.16.0")
    fix = "python -m pip install 'mujoco==3.16.0'"
    assert doctor.check_package(wanted, "4.0.0") == Check("fail", "mujoco", "4.0.0, needs ==3.16.0", fix)
    assert doctor.check_package(wanted, None) == Check("fail", "mujoco", "is missing, needs ==3.16.0", fix)


def test_python_outside_the_range_fails():
    wanted = SpecifierSet(">=3.11,<3.15")
    assert doctor.check_python("3.11.7", wanted).status == "ok"
    assert doctor.check_python("3.10.1", wanted).status == "fail"


def test_namesake_of_our_package_is_named_with_its_folder(tmp_path):
    found = {"embodied": tmp_path / "embodied", "agents": tmp_path / "other" / "agents"}
    check = doctor.check_floors(found, tmp_path)
    assert check.status == "fail"
    assert check.value == f"'import agents' reads {tmp_path}/other/agents"
    assert doctor.check_floors(found | {"agents": tmp_path / "agents"}, tmp_path).status == "ok"


def test_idle_graphics_card_is_a_warning():
    assert doctor.check_backend("cpu", ["cpu", "cpu"], nvidia=False) == Check("ok", "jax backend", "cpu: 2 x cpu")
    assert doctor.check_backend("gpu", ["H200"], nvidia=True).value == "gpu: 1 x H200"
    assert "cuda" in doctor.check_backend("cpu", ["cpu"], nvidia=True).fix


def test_lost_digits_are_a_warning_on_a_cpu_alone():
    assert doctor.check_precision(None, 6e-7, "cpu").value == "default, relative error 6e-07"
    assert doctor.check_precision("bfloat16", 4e-3, "cpu").status == "warn"
    assert doctor.check_precision(None, float("nan"), "cpu").status == "warn"
    assert doctor.check_precision(None, 3e-4, "gpu").status == "ok"


def test_renderer_in_use_is_tried_first_then_the_others():
    tried = []

    def only_osmesa(renderer):
        tried.append(renderer)
        return renderer == "osmesa"

    check = doctor.check_renderer("egl", only_osmesa)
    assert (check.status, check.fix) == ("warn", "export MUJOCO_GL=osmesa")
    assert tried == ["egl", "osmesa"]
    assert doctor.check_renderer("osmesa", only_osmesa) == Check("ok", "renderer", "MUJOCO_GL=osmesa draws")
    assert tried[2:] == ["osmesa"]


def test_missing_renderer_is_a_warning_that_names_the_system_packages():
    check = doctor.check_renderer("disable", lambda renderer: False)
    assert check.status == "warn"
    assert {"libegl1", "libgl1-mesa-dri"} <= set(check.fix.split())
    assert "libosmesa6" in check.fix


def test_process_that_cannot_draw_is_told_from_one_that_can(monkeypatch):
    monkeypatch.setattr(command, "DRAW", "print('drawn')")
    assert command.draws("egl")
    monkeypatch.setattr(command, "DRAW", "import os; os.abort()")
    assert not command.draws("egl")


def test_little_disk_and_memory_are_warnings(tmp_path):
    gib = 2**30
    assert doctor.check_disk(tmp_path, 6 * gib).status == "ok"
    assert doctor.check_disk(tmp_path, 4 * gib).status == "warn"
    assert doctor.check_memory(16 * gib, 8 * gib) == Check("ok", "memory", "8 GiB of 16 GiB available")
    assert doctor.check_memory(16 * gib, 3 * gib).status == "warn"


def test_compile_cache_is_counted_and_its_absence_a_warning(tmp_path):
    (tmp_path / "entry").write_bytes(bytes(2048))
    assert doctor.check_cache(tmp_path) == Check("ok", "compile cache", f"{tmp_path}, 1 files, 2 KiB")
    assert doctor.check_cache(tmp_path / "later" / "made").status == "ok"
    assert doctor.check_cache(None).fix.startswith("export JAX_COMPILATION_CACHE_DIR=")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1010 * 1024, "1010 KiB"), (7 * 2**29, "3.5 GiB")],
)
def test_sizes_are_written_for_people(count, text):
    assert doctor.size(count) == text


def test_exit_code_is_one_only_where_something_fails():
    good, odd, bad = (Check(status, "a", "b") for status in ("ok", "warn", "fail"))
    assert doctor.exit_code([good, odd]) == 0
    assert doctor.exit_code([good, bad, odd]) == 1


def test_a_line_has_status_name_value_and_fix():
    line = str(Check("warn", "disk", "1 GiB free", "du -sh ."))
    assert line.split() == ["warn", "disk", "1", "GiB", "free", "->", "du", "-sh", "."]
    assert "->" not in str(Check("ok", "disk", "9 GiB free"))


def test_estimated_state_is_that_of_the_parameters_counted_by_hand():
    preset = dataclasses.replace(PRESETS["walker-td3"], agent=td3.Config().tiny())
    need = doctor.estimate(preset, WALKER)
    hidden, norm = 16 * 16 + 16, 16 + 16
    actor = (24 * 16 + 16) + norm + hidden + (16 * 6 + 6)
    critic = ((24 + 6) * 16 + 16) + norm + hidden + (16 + 1)
    parameters = actor + 2 * critic
    assert need.params == need.target == 4 * parameters
    assert need.optimizer == 4 * (2 * parameters + 3)  # two moments each, two step counts, the agent's own count


def test_ring_is_counted_twice_on_the_device_and_once_in_a_checkpoint():
    need = doctor.estimate(PRESETS["walker-fb-small"], WALKER)
    assert need.rows == PRESETS["walker-fb-small"].online.capacity * 101
    assert need.data == need.rows * 4 * (24 + 6 + 25 + 1 + 1)  # and reward, discount
    assert NEED.device == 100 + 80 + 200 + 2 * 1000 + 300
    assert NEED.checkpoint == 100 + 80 + 200 + 1000
    assert NEED._replace(copies=1).checkpoint == 380


def test_stored_data_is_as_much_as_the_collect_preset_of_the_world_makes():
    assert doctor.estimate(PRESETS["walker-fb"], WALKER).rows == COLLECT["walker-rnd"].episodes * 101
    assert doctor.estimate(PRESETS["walker-fb"], WALKER).copies == 1


def test_layer_outputs_count_each_ensemble_member():
    shapes = {"kernel": (24, 256), "bias": (256,), "ensemble": (2, 256, 50)}
    tree = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    assert doctor.layer_outputs(tree) == 256 + 2 * 50


def test_work_of_the_published_update_is_near_what_xla_allocated():
    # XLA's temporaries of the compiled update, CPU backend of jax 0.10.2, in MiB.
    measured = {"walker-td_jepa": 358, "walker-fb": 187, "walker-td3": 117, "walker-td_jepa-small": 25.7}
    for name, mebibytes in measured.items():
        assert doctor.estimate(PRESETS[name], WALKER).work / 2**20 == pytest.approx(mebibytes, rel=0.33)


def test_preset_that_does_not_fit_fails_and_the_larger_part_is_cut():
    assert doctor.check_device_memory(NEED, 3000).status == "ok"
    check = doctor.check_device_memory(NEED, 2000)
    assert (check.status, "--online.capacity" in check.fix) == ("fail", True)
    assert "--train.batch-size" in doctor.check_device_memory(NEED._replace(copies=1, data=100), 600).fix
    assert doctor.check_checkpoints(NEED, keep=2, free=3 * 1380).status == "ok"
    assert doctor.check_checkpoints(NEED, keep=2, free=3 * 1380 - 1).status == "fail"


def test_declared_requirements_are_those_of_the_project():
    python, requirements = command.declared()
    assert python.contains("3.11.0")
    assert not python.contains("3.10.0")
    assert {"jax", "mujoco", "tyro"} <= {one.name for one in requirements}
    assert "pytest" not in {one.name for one in requirements}


def _checks(*found):
    return lambda *_: list(found)


def test_command_prints_one_line_per_check_and_exits_with_one_where_one_fails(monkeypatch, capsys):
    monkeypatch.setattr(command, "examine", _checks(Check("ok", "python", "3.11.7")))
    command.main([])
    assert capsys.readouterr().out.split() == ["ok", "python", "3.11.7"]
    monkeypatch.setattr(command, "examine", _checks(Check("fail", "jax", "is missing", "pip install jax")))
    with pytest.raises(SystemExit) as stop:
        command.main([])
    assert stop.value.code == 1
    assert "-> pip install jax" in capsys.readouterr().out


def test_json_holds_the_same_findings(monkeypatch, capsys):
    monkeypatch.setattr(command, "examine", _checks(Check("warn", "ffmpeg", "is missing", "do")))
    monkeypatch.setattr(command, "examine_preset", _checks(Check("ok", "checkpoint", "1 MiB")))
    command.main(["--json", "--preset", "walker-fb"])
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert found["checks"][0] == {"status": "warn", "name": "ffmpeg", "value": "is missing", "fix": "do"}
    assert found["checks"][1]["name"] == "checkpoint"


def test_unknown_preset_is_refused_before_anything_is_tried():
    with pytest.raises(InputError, match="did you mean 'walker-fb-small'"):
        command.main(["--preset", "walker-fb-smal"])


def test_this_installation_has_every_declared_package_and_its_own_names(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "draws", lambda renderer: False)
    checks = command.examine(tmp_path)
    by_name = {check.name: check.status for check in checks}
    assert by_name["own packages"] == by_name["jax"] == by_name["mujoco"] == by_name["matmul precision"] == "ok"
    assert by_name["renderer"] == "warn"
    assert doctor.exit_code(checks) == 0
