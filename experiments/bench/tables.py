"""Scores of zero-shot cells as the numbers of a published table, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from embodied import statistics
from embodied.evaluate import Scores
from experiments.bench.suites import AVERAGE, published, published_value
from experiments.report import duration

Measure = Literal["return", "success"]
Column = Mapping[str, Scores]  # task -> its episodes, of one trained seed
NAMED = ("row", "method", "mean ± s.e.", "pooled [95 %]", "published", "seeds", "training")


def episodes(column: Column, measure: Measure) -> np.ndarray:
    """What the table is about, [tasks, episodes]: returns, or 0 and 100 for success."""
    if measure == "return":
        return np.stack([scores.returns for scores in column.values()])
    return np.stack([100.0 * np.asarray(scores.success, np.float64) for scores in column.values()])


def summarise(seeds: Sequence[Sequence[Column]], measure: Measure) -> dict[str, Any]:
    """The entry of one method for one row, or for the average over several; `seeds` holds the rows' columns of each.

    Tasks weigh the same within a row, and rows within the average. "mean" and "standard_error" are over seeds, as
    published; "pooled" with "low" and "high" is the IQM of all episodes with its bootstrap interval, for success the
    rate with its Wilson interval.
    """
    made = [[episodes(column, measure) for column in rows] for rows in seeds]
    means = np.array([np.mean([one.mean() for one in rows]) for rows in made])
    flat = np.stack([np.concatenate([one.ravel() for one in rows]) for rows in made])
    if measure == "return":
        pooled = statistics.bootstrap(flat)
    else:
        pooled = statistics.Interval(*(100 * end for end in statistics.wilson(int((flat > 0).sum()), flat.size)))
    error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None
    entry = {"mean": float(means.mean()), "standard_error": error, "seed_means": means.tolist()}
    return entry | {"pooled": pooled.value, "low": pooled.low, "high": pooled.high}


def tasks(seeds: Sequence[Column], measure: Measure) -> dict[str, Any]:
    """Task -> its entry, as `summarise` makes it for a row of this task alone."""
    return {task: summarise([[{task: column[task]}] for column in seeds], measure) for task in seeds[0]}


def metrics(
    scores: Mapping[str, Mapping[str, Mapping[int, Column]]], suite: str, measure: Measure
) -> dict[str, dict[str, Any]]:
    """Row -> method -> entry, from row -> method -> seed -> column; last the average over the rows.

    The average of a method is over the rows that have scores of it and over the seeds that all of these have.
    """
    found: dict[str, dict[str, Any]] = {}
    for row, methods in scores.items():
        for method, seeds in methods.items():
            columns = list(seeds.values())
            entry = summarise([[column] for column in columns], measure) | {"tasks": tasks(columns, measure)}
            found.setdefault(row, {})[method] = entry | {"seeds": list(seeds), **_published(suite, [row], method)}
    for method in dict.fromkeys(method for methods in scores.values() for method in methods):
        rows = [row for row, methods in scores.items() if method in methods]
        shared = sorted(set.intersection(*(set(scores[row][method]) for row in rows)))
        if len(rows) > 1 and shared:
            entry = summarise([[scores[row][method][seed] for row in rows] for seed in shared], measure)
            more = {"seeds": shared, "rows": rows, **_published(suite, rows, method)}
            found.setdefault(AVERAGE, {})[method] = entry | more
    return found


def pooled(runs: Sequence[Column]) -> dict[str, dict[str, Any]]:
    """Per task: interquartile mean over seeds and episodes with its interval, and the mean of each seed."""
    rows = {}
    for task in runs[0]:
        returns = np.stack([scores[task].returns for scores in runs])
        iqm = statistics.bootstrap(returns)
        rows[task] = {"iqm": iqm.value, "low": iqm.low, "high": iqm.high, "seed_means": returns.mean(1).tolist()}
    return rows


def margin(ours: Sequence[Column], theirs: Sequence[Column], draws: int = 2000) -> dict[str, Any]:
    """Returns of ours less those of theirs, mean over tasks: of each seed and over all, with its 95 % interval.

    The interval draws seeds again, and the starts of each task within them; both are scored from the same starts.
    """
    gain = np.stack([episodes(a, "return") - episodes(b, "return") for a, b in zip(ours, theirs, strict=True)])
    seeds, _, count = gain.shape
    rng = np.random.default_rng(0)
    means = []
    for _ in range(draws):
        some = gain[rng.integers(seeds, size=seeds)]
        means.append(some[:, :, rng.integers(count, size=count)].mean())
    low, high = np.quantile(means, (0.025, 0.975))
    each = gain.mean((1, 2)).tolist()
    return {"mean": float(gain.mean()), "low": float(low), "high": float(high), "seeds": each}


def _published(suite: str, rows: list[str], method: str) -> dict[str, Any]:
    value = published_value(suite, rows, method)
    return {} if value is None else {"published": {"mean": value[0], "standard_error": value[1]}}


def table(found: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, Mapping[str, list[float]]]) -> list[str]:
    """The entries as lines of text, beside the published ones; `seconds` is row -> method -> of training each cell."""
    lines = [list(NAMED)]
    for row, methods in found.items():
        for method, entry in methods.items():
            pooled = f"{entry['pooled']:.1f} [{entry['low']:.1f}, {entry['high']:.1f}]"
            spent = seconds.get(row, {}).get(method)
            beside = [_with_error(entry["published"]) if "published" in entry else "", f"{len(entry['seeds'])}"]
            label = f"{row} of {len(entry['rows'])}" if row == AVERAGE else row
            cells = [label, method, _with_error(entry), pooled, *beside, duration(np.mean(spent)) if spent else ""]
            lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [*text, f"published: {published()['source']}, mean ± standard error over seeds"]


def _with_error(entry: Mapping[str, Any]) -> str:
    error = entry["standard_error"]
    return f"{entry['mean']:.1f}" + ("" if error is None else f" ± {error:.1f}")
