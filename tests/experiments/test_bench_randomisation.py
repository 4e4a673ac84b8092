"""The comparison of training with and without randomisation sums up what each seed kept of its own score."""

import numpy as np
import pytest

from embodied.evaluate import Scores
from experiments.bench import randomisation
from experiments.sim2sim import Result


def result(returns, fallen):
    return Result(Scores(np.array(returns)), np.array(fallen), (), np.zeros((2, 3)))


def test_each_seed_is_measured_against_itself():
    columns = {
        "nominal": [result([8.0, 12.0], [False, False]), result([100.0, 100.0], [False, False])],
        "late": [result([5.0, 5.0], [True, False]), result([90.0, 90.0], [False, False])],
    }
    rows = randomisation.summarise(columns)
    assert rows["late"]["kept"] == pytest.approx([0.5, 0.9])
    assert rows["late"]["median_kept"] == pytest.approx(0.7)
    assert rows["late"]["seed_means"] == [5, 90]
    assert rows["late"]["down"]["rate"] == 0.25
    assert rows["late"]["low"] >= 5
    assert rows["late"]["high"] <= 90
    assert rows["nominal"]["kept"] == [1, 1]
    lines = randomisation.table({"none": rows, "standard": rows})
    assert lines[0].count("kept") == 2
    assert lines[2].startswith("late")
    assert lines[2].endswith("70%")
