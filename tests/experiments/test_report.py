"""The page is whole, safe and complete: nothing from elsewhere, everything escaped, every number where it belongs."""

import base64
import html.parser

import numpy as np
import pytest

from experiments import figures, report
from experiments.report import Code, Facts, Figure, Section, Table, Video

PIXEL = figures.png(figures.spectrum({"x": np.eye(2)}))


class Page(html.parser.HTMLParser):
    """Tags with attributes, text, and whether every tag that was opened was closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def written(path, blocks, made=None):
    text = report.write(path / "r.html", "A <b>", "B & C", [Section("One", blocks)], made or {}).read_text()
    return Page(text), text


def test_everything_that_was_said_is_escaped(tmp_path):
    hostile = '<script>alert("x")</script>'
    blocks = [hostile, Code(hostile), Table((hostile,), [[hostile]], hostile), Facts([(hostile, hostile)])]
    page, text = written(tmp_path, [*blocks, Figure(PIXEL, hostile)], {hostile: {hostile: hostile}})
    assert page.all("script") == []
    assert page.open == []
    assert "".join(page.text).count(hostile) == 11
    assert "<script" not in text


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"film")
    page, text = written(tmp_path, [Figure(PIXEL, "f"), Video(tmp_path / "a.mp4", "v")])
    assert base64.b64decode(page.all("img")[0]["src"].removeprefix("data:image/png;base64,")) == PIXEL
    assert base64.b64decode(page.all("video")[0]["src"].removeprefix("data:video/mp4;base64,")) == b"film"
    assert page.all("link") == page.all("script") == []
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert "url(" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_figures_have_their_size_and_photographs_are_not_inverted(tmp_path):
    page, _ = written(tmp_path, [Figure(PIXEL, "f"), Figure(PIXEL, "g", photograph=True)])
    drawing, photograph = page.all("img")
    assert (drawing["width"], drawing["height"]) == (str(round(figures.WIDTH * 100)), "290")
    assert (drawing["class"], photograph["class"]) == ("drawing", "photograph")


def test_a_missing_video_leaves_no_trace(tmp_path):
    page, _ = written(tmp_path, [Video(None, "never made")])
    assert page.all("video") == []
    assert "never made" not in page.text


def test_columns_of_numbers_are_set_to_the_right_and_words_are_not(tmp_path):
    page, _ = written(
        tmp_path, [Table(("task", "return", "note"), [["walk", ("9.5", "9 to 10"), "x"], ["1", "-2", "3"]])]
    )
    head = page.all("th")[:3]
    assert [cell.get("class") for cell in head] == [None, "number", None]
    assert "9 to 10" in page.text


def test_provenance_is_the_last_section_and_nested_values_are_named(tmp_path):
    page, _ = written(tmp_path, [], {"command": "embodied demo", "made": {"a": {"b": 1}, "c": [], "d": [1, 2]}})
    assert page.all("a")[-1]["href"] == "#s1"
    assert "a.b: 1\nc: none\nd: 1, 2" in page.text


def test_provenance_tells_what_a_reader_needs_to_repeat_it():
    made = report.provenance("embodied demo", [3], 3725.0, model="ab12")
    assert made["wall time"] == "1 h 02 min"
    assert made["seeds"] == [3]
    assert list(made) == ["command", "commit", "seeds", "wall time", "model", "hardware", "versions"]


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12 s"), (200, "3 min 20 s"), (59.7, "1 min 00 s")])
def test_durations_are_read_at_a_glance(seconds, text):
    assert report.duration(seconds) == text


def test_score_table_shows_intervals_where_known_and_says_none_where_nothing_was_scored():
    scored = {"walk": {"iqm": 9.96, "low": 9.0, "high": 11.0}, "run": {"iqm": 1.0}}
    table = report.score_table({"ours": scored, "other": {"run": {"iqm": 2.0}}})
    assert table.rows == [["walk", ("10.0", "9.0 to 11.0"), "none"], ["run", "1.0", "2.0"]]
