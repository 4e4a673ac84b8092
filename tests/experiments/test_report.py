"""The page is whole, safe and complete: nothing from elsewhere, everything escaped, every number where it belongs."""

import base64
import html.parser
import json

import jax
import numpy as np
import pytest

import envs
from agents import td_jepa
from embodied.evaluate import Scores
from embodied.policy import Buffer, Policy
from embodied.types import InputError, Spec
from experiments import evaluate, figures, report
from experiments.commands import report as command
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


@pytest.fixture(scope="module")
def policy():
    env = envs.make("point_maze", threads=1)
    spec = Spec(obs=env.spec.obs, action=env.spec.action, mean={"state": (0.0,) * 4}, std={"state": (0.2,) * 4})
    config = td_jepa.Config(inputs="standardized").tiny()
    start = env.reset(jax.random.key(0), 40)
    params = jax.jit(td_jepa.make(config, spec).init)(jax.random.key(1), spec.example()).params
    buffer = Buffer({"state": start.obs["state"]}, start.physics)
    return Policy("td_jepa", config, spec, "point_maze", {"hold": env.spec.hold}, params, buffer)


@pytest.fixture
def run(tmp_path, policy, monkeypatch):
    """A run directory, with evaluation replaced by fixed scores."""
    policy.save(tmp_path / "policy")
    rows = [{"step": 100 * i, "loss/world": 1.0 / i, "speed/updates_per_second": 50.0} for i in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    record = {"experiment": {"world": "point_maze", "train": {"seed": 7}}, "made": {"commit": "abc"}}
    (tmp_path / "experiment.json").write_text(json.dumps(record))
    scores = {"loop": Scores(np.array([41.25, 41.25]))}
    monkeypatch.setattr(report, "evaluate_tasks", lambda policy, env, episodes: scores)
    monkeypatch.setattr(report, "baselines", lambda policy, env, episodes: {"random actions": scores})
    return tmp_path


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


def test_task_features_are_those_of_the_encoder(policy):
    from embodied import nets
    from embodied.data.normalize import observation_inputs

    encoder = nets.encoders.encoder(policy.config.psi_hidden, policy.config.psi_layers, policy.config.z_dim)
    inputs = observation_inputs("standardized", policy.spec)(jax.tree.map(jax.numpy.asarray, policy.buffer.obs))
    expected = encoder.apply(policy.params["psi"], inputs)
    np.testing.assert_allclose(evaluate.task_features(policy), expected, atol=2e-4)


def test_report_command_writes_scores_curves_and_health(run, capsys):
    (run / "top.json").write_text(json.dumps({"TD3": {"loop": {"iqm": 77.5}}, "random": {"loop": {"iqm": 1.0}}}))
    command.main([str(run), "--episodes", "2", "--topline", str(run / "top.json")])
    assert f"wrote {run / 'report.html'}" in capsys.readouterr().out
    page = Page((run / "report.html").read_text())
    assert len(page.all("img")) == 3
    assert {"TD3", "77.5", "random actions", "Latent health", "6 s", "300"} <= set(page.text)
    assert {"41.2 ", "41.2 to 41.2"} <= set(page.text)
    assert "random" not in page.text
    assert any("train.seed: 7" in text for text in page.text)


def test_bad_input_is_named_in_one_line(run):
    (run / "top.json").write_text("[1]")
    with pytest.raises(InputError, match=r"topline: .*policy -> task"):
        report.read_topline(run / "top.json")
    with pytest.raises(InputError, match="episodes: must be at least 1"):
        command.main([str(run), "--episodes", "0"])
    (run / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"run: .*metrics\.jsonl is missing"):
        command.main([str(run)])
