"""Numbers in text files of other runtimes: YAML without tags, and CSV; both give back the number that was written."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml


def write_yaml(path: Path, value: Any) -> None:
    """Nothing; writes plain YAML, lists of numbers on one line; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=110)
    path.write_text(text, encoding="utf-8")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def csv(values: Iterable[Any]) -> str:
    """One line, comma-separated; numbers in full."""
    return ",".join(value if isinstance(value, str) else repr(float(value)) for value in values)
