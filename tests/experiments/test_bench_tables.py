"""The numbers of zero-shot tables: what scores become, and what was published."""

import numpy as np
import pytest

from embodied.evaluate import Scores
from experiments.bench import suites, tables


@pytest.mark.parametrize("suite", suites.SUITES)
def test_published_rows_are_those_of_the_suite_and_average_to_the_published_average(suite):
    found = suites.published()["suites"][suite]
    assert set(found) == {"average", *suites.SUITES[suite].rows}
    for method, (mean, _) in found["average"].items():
        assert method in suites.METHODS
        rows = [found[row][method][0] for row in suites.SUITES[suite].rows]
        assert np.mean(rows) == pytest.approx(mean, abs=0.06)


def test_average_over_some_rows_of_a_suite_has_no_published_error():
    assert suites.published_value("dmc-state", ["walker"], "fb") == (811.5, 5.9)
    assert suites.published_value("dmc-state", list(suites.SUITES["dmc-state"].rows), "td_jepa") == (661.2, 6.3)
    mean, error = suites.published_value("dmc-state", ["walker", "cheetah"], "fb")
    assert (mean, error) == (pytest.approx((811.5 + 672.7) / 2), None)
    assert suites.published_value("dmc-state", ["walker"], "onestep_fb") is None


def test_tasks_weigh_the_same_and_errors_are_over_seeds():
    first = {"a": Scores(np.array([0.0, 2.0])), "b": Scores(np.array([10.0, 12.0]))}
    second = {"a": Scores(np.array([4.0, 6.0])), "b": Scores(np.array([14.0, 16.0]))}
    entry = tables.summarise([[first], [second]], "return")
    assert entry["seed_means"] == [6.0, 10.0]
    assert (entry["mean"], entry["standard_error"]) == (8.0, 2.0)
    assert entry["pooled"] == 8.0  # of 0 2 4 6 10 12 14 16, the middle half
    assert entry["low"] < 8.0 < entry["high"]
    assert tables.summarise([[first]], "return")["standard_error"] is None


def test_success_is_a_rate_in_percent_with_a_wilson_interval():
    column = {
        "a": Scores(np.zeros(4), np.array([True, True, False, True])),
        "b": Scores(np.zeros(4), np.zeros(4, bool)),
    }
    entry = tables.summarise([[column]], "success")
    assert (entry["mean"], entry["pooled"]) == (37.5, 37.5)
    assert (entry["low"], entry["high"]) == (pytest.approx(13.68, abs=0.01), pytest.approx(69.43, abs=0.01))


def test_average_weighs_rows_the_same_over_the_seeds_that_all_of_them_have():
    made = lambda value: {"t": Scores(np.full(2, value))}  # noqa: E731
    scores = {
        "walker": {"fb": {0: made(10.0), 1: made(20.0)}, "td3": {0: made(900.0)}},
        "cheetah": {"fb": {0: made(30.0), 1: made(50.0), 2: made(999.0)}},
    }
    found = tables.metrics(scores, "dmc-state", "return")
    assert list(found) == ["walker", "cheetah", "average"]
    average = found["average"]["fb"]
    assert (average["seeds"], average["seed_means"]) == ([0, 1], [20.0, 35.0])
    assert average["rows"] == ["walker", "cheetah"]
    assert average["published"] == {"mean": pytest.approx(742.1), "standard_error": None}
    assert "td3" not in found["average"]
    lines = tables.table(found, {"walker": {"fb": [61.0]}})
    assert lines[0].split("  ")[0] == "row"
    assert lines[-2].split()[:6] == ["average", "of", "2", "fb", "27.5", "±"]


def scores(*returns):
    return {task: Scores(np.float64(row)) for task, row in zip(("stand", "walk"), returns, strict=True)}


def test_margin_is_the_mean_over_tasks_of_what_the_same_starts_gain():
    ours = [scores([30, 50], [10, 20]), scores([40, 40], [20, 20])]
    theirs = [scores([20, 20], [0, 10]), scores([30, 30], [10, 10])]
    margin = tables.margin(ours, theirs)
    assert margin["seeds"] == [15.0, 10.0]
    assert margin["mean"] == 12.5
    # Both seeds twice, with the start that gains least or most: (10 + 10) / 2, and (30 + 10) / 2 of the first seed.
    assert (margin["low"], margin["high"]) == (10.0, 20.0)
    alike = tables.margin(ours, ours)
    assert (alike["mean"], alike["low"], alike["high"]) == (0.0, 0.0, 0.0)


def test_pooled_returns_keep_the_mean_of_each_seed():
    rows = tables.pooled([scores([1, 3], [0, 0]), scores([5, 7], [0, 0])])
    assert rows["stand"]["seed_means"] == [2.0, 6.0]
    assert rows["stand"]["iqm"] == 4.0
    assert rows["stand"]["low"] < 4.0 < rows["stand"]["high"]
    assert (rows["walk"]["low"], rows["walk"]["high"]) == (0.0, 0.0)
