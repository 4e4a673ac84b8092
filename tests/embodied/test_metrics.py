"""What a run writes while it goes on."""

import json

import pytest

from embodied.metrics import Logger

ROW = {"loss/world": 1.5, "speed/updates_per_second": 200.0}


def steps(directory) -> list[int]:
    return [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def written(directory, *updates: int, resume_at: int = 0) -> None:
    logger = Logger(directory, total=100, resume_at=resume_at, quiet=True)
    for update in updates:
        logger.write(update, ROW)
    logger.close()


def test_each_row_is_one_line_of_json_with_its_update(tmp_path):
    written(tmp_path / "new" / "run", 10, 20)
    lines = (tmp_path / "new" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 10, **ROW}, {"step": 20, **ROW}]


def test_row_is_on_disk_as_soon_as_it_is_written(tmp_path):
    logger = Logger(tmp_path, total=100, quiet=True)
    logger.write(10, ROW)
    assert steps(tmp_path) == [10]
    logger.close()


def test_rows_beyond_the_restored_update_are_dropped(tmp_path):
    written(tmp_path, 10, 20, 30)
    written(tmp_path, 30, 40, resume_at=20)
    assert steps(tmp_path) == [10, 20, 30, 40]


def test_row_that_a_killed_process_left_half_written_is_dropped(tmp_path):
    written(tmp_path, 10, 20)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 30, "loss/wo')
    written(tmp_path, 30, resume_at=20)
    assert steps(tmp_path) == [10, 20, 30]


@pytest.mark.parametrize("cut", range(1, 12))
def test_row_cut_anywhere_leaves_a_readable_file(tmp_path, cut):
    written(tmp_path, 10, 20)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-cut])
    written(tmp_path, 20, resume_at=10)
    assert steps(tmp_path) == [10, 20]


def test_run_that_starts_anew_drops_all_rows(tmp_path):
    written(tmp_path, 10, 20)
    written(tmp_path, 10)
    assert steps(tmp_path) == [10]


def test_progress_names_update_speed_loss_and_time_left(tmp_path, capsys):
    logger = Logger(None, total=2000)
    logger.start()
    logger.write(1000, ROW | {"speed/transitions_per_second": 51200.0})
    logger.write(1100, ROW)
    logger.write(2000, ROW)
    logger.note("done")
    logger.close()
    lines = capsys.readouterr().err.splitlines()
    # At most one line in ten seconds, and always the last.
    assert len(lines) == 3
    assert "1,000 / 2,000" in lines[0]
    assert "200 updates/s  51,200 transitions/s" in lines[0]
    assert "loss     1.500  ETA 0:0" in lines[0]
    assert "2,000 / 2,000" in lines[1]
    assert lines[2].strip() == "done"


def test_quiet_logger_prints_nothing_and_resumed_one_says_where(capsys):
    Logger(None, total=10, resume_at=5, quiet=True).write(10, ROW)
    assert capsys.readouterr() == ("", "")
    Logger(None, total=10_000, resume_at=5_000)
    assert "resumed at update 5,000" in capsys.readouterr().err


def test_tensorboard_gets_every_scalar(tmp_path):
    logger = Logger(tmp_path, total=100, quiet=True, tensorboard=True)
    logger.write(10, ROW)
    logger.close()
    (events,) = (tmp_path / "tensorboard").glob("events*")
    content = events.read_bytes()
    assert b"loss/world" in content
    assert b"speed/updates_per_second" in content
