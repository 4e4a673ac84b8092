"""One HTML page that shows a run: everything inside it, nothing loaded from elsewhere, readable in years.

    write(path, title, lead, [Section("Maze", ["what happened", Figure(png, "caption"), score_table(columns)])], made)

A block of a section is a paragraph (plain text), Facts, Table, Figure, Video or Code, in the order of reading.
"""

import base64
import dataclasses
import struct
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments import figures, results
from experiments.page import PAGE

Cell = str | tuple[str, str]  # text, or (text, detail): the detail is set smaller, such as an interval
Summaries = Mapping[str, Mapping[str, Any]]  # task -> summary of its scores


@dataclasses.dataclass(frozen=True)
class Facts:
    """A few numbers worth a large font."""

    items: Sequence[tuple[str, str]]  # (number, what it is)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells; the first column is set to the left, columns of numbers to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A PNG. `photograph` tells images of a world from drawings, which a dark page shows inverted."""

    png: bytes
    caption: str = ""
    photograph: bool = False


@dataclasses.dataclass(frozen=True)
class Video:
    """An mp4 of `experiments.video.record`; nothing is shown for None."""

    path: Path | None
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Code:
    """Text to be copied into a terminal."""

    text: str


Block = str | Facts | Table | Figure | Video | Code


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


def write(path: Path, title: str, lead: str, sections: Sequence[Section], provenance: Mapping[str, Any]) -> Path:
    """The path of the written page; provenance (nested mappings allowed) is its last section."""
    rows = [(name, _text(value)) for name, value in provenance.items()]
    every = [*sections, Section("Provenance", [Table(("", ""), rows)])]
    links = "".join(f'<a href="#s{i}">{escape(one.title)}</a>' for i, one in enumerate(every))
    bodies = "".join(
        f'<section id="s{i}"><h2>{escape(one.title)}</h2>{"".join(map(_block, one.blocks))}</section>\n'
        for i, one in enumerate(every)
    )
    page = PAGE.substitute(title=escape(title), lead=escape(lead), links=links, sections=bodies, last=len(sections))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(page, encoding="utf-8")
    draft.replace(path)
    return path


def provenance(command: str, seeds: Sequence[int], seconds: int | float, **extra: Any) -> dict[str, Any]:
    """What a reader needs to make the page again: command, code, seeds, time, machine, versions."""
    return {
        "command": command,
        "commit": results.commit(),
        "seeds": list(seeds),
        "wall time": duration(seconds),
        **extra,
        "hardware": results.hardware(),
        "versions": results.versions(),
    }


def score_table(columns: Mapping[str, Summaries], caption: str = "") -> Table:
    """Tasks down, policies across: interquartile mean returns, with intervals and success rates where known."""

    def cell(summary: Mapping[str, Any] | None) -> Cell:
        if summary is None:
            return "none"
        text = f"{summary['iqm']:.1f}"
        under = [f"{summary['low']:.1f} to {summary['high']:.1f}"] if "low" in summary else []
        if "success" in summary:
            rate, low, high = (f"{100 * summary[name]:.0f}" for name in ("success", "success_low", "success_high"))
            under.append(f"solved {rate} %, {low} to {high}")
        return (text, "; ".join(under)) if under else text

    tasks = list(dict.fromkeys(task for column in columns.values() for task in column))
    rows = [[task, *(cell(column.get(task)) for column in columns.values())] for task in tasks]
    return Table(("", *columns), rows, caption)


def duration(seconds: int | float) -> str:
    """Hours and minutes, minutes and seconds, or seconds: '1 h 02 min', '3 min 20 s', '12 s'."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _text(value: Any) -> str:
    """Nested values as lines of 'name: value'."""
    if isinstance(value, Mapping):
        inner = {name: _text(one).split("\n") for name, one in value.items()}
        return "\n".join(
            f"{name}.{line}" if isinstance(value[name], Mapping) else f"{name}: {line}"
            for name, lines in inner.items()
            for line in lines
        )
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return str(value)


def _block(block: Block) -> str:
    match block:
        case str():
            return f"<p>{escape(block)}</p>"
        case Code(text):
            return f"<pre><code>{escape(text)}</code></pre>"
        case Facts(items):
            cells = "".join(f"<div><b>{escape(number)}</b><span>{escape(what)}</span></div>" for number, what in items)
            return f'<div class="facts">{cells}</div>'
        case Table():
            return _table(block)
        case Figure(png, caption, photograph):
            width, height = (side // figures.SCALE for side in struct.unpack(">II", png[16:24]))
            image = (
                f'<img class="{"photograph" if photograph else "drawing"}" width="{width}" height="{height}" '
                f'alt="{escape(caption)}" src="data:image/png;base64,{_base64(png)}">'
            )
            return f'<figure><div class="scroll">{image}</div>{_caption(caption)}</figure>'
        case Video(None):
            return ""
        case Video(path, caption):
            source = f"data:video/mp4;base64,{_base64(path.read_bytes())}"
            return f'<figure><video controls loop muted playsinline src="{source}"></video>{_caption(caption)}</figure>'
    raise TypeError(f"a block of a section is text, Facts, Table, Figure, Video or Code, got {type(block).__name__}")


def _table(table: Table) -> str:
    numeric = [column > 0 and all(_is_number(row[column]) for row in table.rows) for column in range(len(table.head))]
    mark = [' class="number"' if right else "" for right in numeric]
    head = "".join(f"<th{m}>{escape(cell)}</th>" for m, cell in zip(mark, table.head, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{m}>{_cell(cell)}</td>" for m, cell in zip(mark, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(table.head) else ""
    grid = f"<table>{head}<tbody>{rows}</tbody></table>"
    return f'<figure><div class="scroll">{grid}</div>{_caption(table.caption)}</figure>'


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, tuple) or cell.lstrip("-+")[:1].isdigit() or cell in ("none", "")


def _cell(cell: Cell) -> str:
    text, detail = cell if isinstance(cell, tuple) else (cell, "")
    return escape(text) + (f" <small>{escape(detail)}</small>" if detail else "")


def _caption(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>" if text else ""


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
