"""Published numbers are measured ones: result files are complete, and pages show what the files say.

A number in README.md or docs/ is tied to a result by a comment right after it, as in
`0.93<!-- results/maze.json:success.corners -->`. It must equal that value at the precision shown; `93 %`
stands for 0.93. With a Python format after the key (`:rate:,.0f`) the text must be what that format gives.
"""

import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIELDS = {
    "command": str,
    "commit": str,
    "date": str,
    "hardware": dict,
    "versions": dict,
    "seeds": list,
    "wall_seconds": (int, float),
    "metrics": dict,
}
COMMENT = re.compile(r"<!--\s*results/")
MARKER = re.compile(
    r"(?P<shown>[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?:\s?%)?)\**"
    r"<!--\s*(?P<file>results/[\w./-]+\.json):(?P<key>[^\s:]+)(?::(?P<format>\S+))?\s*-->"
)


def load(name: str) -> Any:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def missing_fields(record: dict) -> list[str]:
    """Fields that a result must carry and does not, or that are empty or of the wrong kind."""
    present = {name for name, kind in FIELDS.items() if isinstance(record.get(name), kind)}
    empty = {name for name in ("command", "commit", "seeds", "metrics") if not record.get(name)}
    return [name for name in FIELDS if name not in present or name in empty]


def value_at(record: Any, key: str) -> Any:
    """The value under a dotted key; a number selects from a list, and names may have dots. KeyError where none is."""
    parts = key.split(".")
    for count in range(1, len(parts) + 1):
        name: Any = ".".join(parts[:count])
        try:
            found = record[int(name)] if isinstance(record, list) else record[name]
            return value_at(found, ".".join(parts[count:])) if count < len(parts) else found
        except (TypeError, ValueError, IndexError, KeyError):
            continue
    raise KeyError(key)


def agrees(shown: str, value: float, spec: str | None) -> bool:
    """Whether `shown` is `value` rounded to the digits shown, or is `value` written in the format `spec`."""
    if spec is not None:
        return shown == format(value, spec)
    percent = shown.endswith("%")
    number = Decimal(shown.rstrip("% ").replace(",", ""))
    exact = Decimal(repr(value)) * (100 if percent else 1)
    return abs(number - exact) <= Decimal(5).scaleb(number.as_tuple().exponent - 1)


def wrong_numbers(page: str, read: Callable[[str], Any]) -> list[str]:
    """One line for every result comment that follows no number, names nothing, or disagrees with its file."""
    found = list(MARKER.finditer(page))
    complaints = [] if len(found) == len(COMMENT.findall(page)) else ["a result comment follows no number"]
    for marker in found:
        try:
            value = value_at(read(marker["file"]), marker["key"])
        except (OSError, KeyError) as error:
            complaints.append(f"{marker['file']}:{marker['key']} is not there ({error!r})")
            continue
        if not agrees(marker["shown"], value, marker["format"]):
            complaints.append(f"{marker['file']}:{marker['key']} is {value}, the page shows {marker['shown']}")
    return complaints


def unmarked_rows(page: str) -> list[str]:
    """Rows of tables under a heading with "Results" that are tied to no result; headers are not rows."""
    rows, level, header = [], 0, True
    for line in page.splitlines():
        if heading := re.match(r"(#+)\s+(.*)", line):
            depth = len(heading[1])
            if "results" in heading[2].lower():
                level = level or depth
            elif depth <= level:
                level = 0
        if not line.lstrip().startswith("|"):
            header = True
        elif re.fullmatch(r"[\s|:-]+", line):
            header = False
        elif level and not header and not MARKER.search(line):
            rows.append(line)
    return rows


def test_a_complete_record_misses_nothing_and_each_gap_is_named():
    record = dict(command="c", commit="ab12", date="2026-01-01", hardware={}, versions={}, seeds=[0])
    record |= dict(wall_seconds=1, metrics={"a": 1})
    assert missing_fields(record) == []
    assert missing_fields(record | {"seeds": 3, "metrics": {}}) == ["seeds", "metrics"]
    assert missing_fields({k: v for k, v in record.items() if k != "commit"}) == ["commit"]


def test_dotted_keys_walk_dicts_and_lists():
    record = {"a": {"b": [1, {"c/d": 2}]}}
    assert value_at(record, "a.b.0") == 1
    assert value_at(record, "a.b.1.c/d") == 2
    assert value_at({"sum_0.2": {"cells": 3}}, "sum_0.2.cells") == 3
    for absent in ("a.x", "a.b.7", "a.b.c", "a.b.0.c"):
        with pytest.raises(KeyError):
            value_at(record, absent)


@pytest.mark.parametrize("shown", ["0.934", "0.93", "0.9", "93 %", "93.4%", "9.3e-1"])
def test_a_number_agrees_at_any_precision_shown(shown):
    assert agrees(shown, 0.934, None)


@pytest.mark.parametrize("shown", ["0.94", "0.930", "0.92", "94 %", "93.0%", "0.93%", "-0.93", "93"])
def test_a_number_that_differs_in_a_shown_digit_disagrees(shown):
    assert not agrees(shown, 0.934, None)


def test_thousands_may_be_grouped():
    assert agrees("1,234", 1233.6, None)
    assert not agrees("1,233", 1233.6, None)


def test_a_given_format_must_give_the_shown_text():
    assert agrees("1,234", 1233.6, ",.0f")
    assert not agrees("1234", 1233.6, ",.0f")
    assert agrees("93.4%", 0.934, ".1%")


def test_pages_are_compared_with_their_files():
    def read(name):
        return {"results/a.json": {"metrics": {"x": 0.5, "y": 1e3}}}[name]

    right = "x is **0.50**<!-- results/a.json:metrics.x -->, y 1,000<!--results/a.json:metrics.y-->"
    assert wrong_numbers(right, read) == []
    assert wrong_numbers("0.6<!-- results/a.json:metrics.x -->", read) == [
        "results/a.json:metrics.x is 0.5, the page shows 0.6"
    ]
    assert "metrics.z is not there" in wrong_numbers("1<!-- results/a.json:metrics.z -->", read)[0]
    assert "b.json:x is not there" in wrong_numbers("1<!-- results/b.json:x -->", read)[0]
    assert wrong_numbers("much<!-- results/a.json:metrics.x -->", read) == ["a result comment follows no number"]


def test_only_rows_under_a_results_heading_need_a_marker():
    table = "| a | b |\n|---|---|\n| maze | 1 |\n| walker | 2<!-- results/a.json:x --> |\n"
    assert unmarked_rows(f"# Install\n{table}") == []
    assert unmarked_rows(f"## Results\ntext\n\n{table}") == ["| maze | 1 |"]
    assert unmarked_rows(f"## Results\n### CPU\n{table}\n## Limits\n{table}") == ["| maze | 1 |"]


def test_every_result_file_tells_how_it_was_made():
    gaps = {path.name: missing_fields(json.loads(path.read_text())) for path in ROOT.glob("results/**/*.json")}
    assert {name: fields for name, fields in gaps.items() if fields} == {}


def test_every_published_number_is_the_measured_one():
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    complaints = [f"{page.name}: {text}" for page in pages for text in wrong_numbers(page.read_text(), load)]
    assert not complaints, "\n" + "\n".join(complaints)


def test_every_row_of_the_result_tables_is_tied_to_a_file():
    rows = unmarked_rows((ROOT / "README.md").read_text())
    assert not rows, "\n" + "\n".join(rows)
