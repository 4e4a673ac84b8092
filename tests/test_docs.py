"""The pages are true: their Python runs, their commands parse, their links and paths lead somewhere.

A fenced Python block runs where the line before it is `<!-- runs -->`; the blocks of a page share their names, and
`# prints ...` says what a print shows. `<!-- file: PATH -->` instead means: this is a whole file of that name.
"""

import contextlib
import importlib
import io
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
import envs
from embodied.rewards import expression, functions, source
from embodied.train import init_run, make_chunk
from embodied.types import Batch, Goal, Prior, Reward, Source, Spec
from experiments import cli, demo, pages

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^>]+?) -->\n)?```(?P<language>\w+)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE
)
# Prints the command lines among its input that the command line does not take; parses them and does no more.
PARSER = """
import shlex, sys, tyro
from embodied.deploy import __main__ as deploy
from experiments import cli

class Parsed(Exception):
    pass

def parse(*arguments, real=tyro.cli, **options):
    real(*arguments, **options)
    raise Parsed

tyro.cli = parse
deploy.load = lambda path: parse(real=lambda: None)
for line in sys.stdin.read().splitlines():
    try:
        cli.main(shlex.split(line)[1:])
    except Parsed:
        continue
    except SystemExit:
        print(line)
"""
FOLDERS = ("embodied", "agents", "envs", "experiments", "tests", "docs", "results")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(page: str, language: str, mark: str = "") -> list[str]:
    """Fenced blocks of a language whose mark begins so."""
    found = [match for match in BLOCK.finditer(page) if match["language"] == language]
    return [match["body"] for match in found if (match["mark"] or "").startswith(mark)]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return BLOCK.sub("", page)


def spans(page: str) -> list[str]:
    """Inline code."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def command_lines(page: str) -> list[str]:
    lines = [line.strip() for body in blocks(page, "bash") for line in body.splitlines()]
    return [line.removeprefix(".venv/bin/") for line in lines if re.match(r"(\.venv/bin/)?embodied\s", line)]


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def file_of(page: str, path: str) -> str:
    return blocks(page, "python", f"file: {path}")[0]


@pytest.fixture
def taught(tmp_path, monkeypatch):
    """A function that puts the file of a page into its package and imports it, as if it lay there."""

    def place(page: str, path: str):
        package, _, name = path.removesuffix(".py").partition("/")
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(file_of(text(page), path))
        parent = sys.modules[package]
        monkeypatch.setattr(parent, "__path__", [*parent.__path__, str(tmp_path / package)])
        monkeypatch.setitem(parent.AGENTS if package == "agents" else parent.WORLDS, name, f"{package}.{name}")
        monkeypatch.setattr(parent, name, None, raising=False)
        monkeypatch.delitem(sys.modules, f"{package}.{name}", raising=False)
        return importlib.import_module(f"{package}.{name}")

    yield place
    for name in ("agents.imitate", "envs.cart"):
        sys.modules.pop(name, None)


def test_block_reader_takes_marks_and_languages():
    page = (
        "a\n<!-- runs -->\n```python\nx = 1\n```\n\n```python\ny\n```\n```bash\nembodied list\n  embodied demo\n```\n"
    )
    assert blocks(page, "python", "runs") == ["x = 1\n"]
    assert blocks(page, "python") == ["x = 1\n", "y\n"]
    assert command_lines(page) == ["embodied list", "embodied demo"]
    assert prose(page).split() == ["a"]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page.read_text(), "python", "runs")], ids=str)
def test_marked_python_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for body in blocks(page.read_text(), "python", "runs"):
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            exec(compile(body, page.name, "exec"), names)
        promised = re.findall(r"^# prints (.*)$", body, re.MULTILINE)
        if promised:
            assert shown.getvalue().splitlines() == promised


def test_commands_parse_with_the_options_that_they_show():
    lines = [line for page in PAGES for line in command_lines(page.read_text())]
    wrong = "embodied prompt walker --rewrad 1"
    finished = subprocess.run(
        [sys.executable, "-c", PARSER], input="\n".join([*lines, wrong]), capture_output=True, text=True, cwd=ROOT
    )
    assert len(lines) > 10
    assert finished.stdout.splitlines() == [wrong], finished.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_and_make_targets_exist(page):
    content = page.read_text()
    named = [span.split()[1] for span in spans(content) if re.match(r"embodied\s+[a-z]", span)]
    assert set(named) <= cli.COMMANDS.keys()
    inside = [*spans(content), *(line for body in blocks(content, "bash") for line in body.splitlines())]
    targets = {match[1] for line in inside if (match := re.match(r"make\s+([a-z-]+)$", line))}
    assert targets <= set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path) if path else page
        assert goal.exists(), target
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.*)$", goal.read_text(), re.MULTILINE)), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_code_spans_exist_or_are_taught_on_the_page(page):
    content = page.read_text()
    taught = re.findall(r"<!-- file: (\S+) -->", content)
    taught += [f"tests/{path.replace('/', '/test_')}" for path in taught]
    paths = [span for span in spans(content) if re.match(rf"({'|'.join(FOLDERS)})/[\w./]+$", span)]
    missing = [path for path in paths if path not in taught and not (ROOT / path).exists()]
    assert not missing


def test_every_page_can_be_reached_from_the_index():
    linked = set(re.findall(r"\]\(([\w.]+\.md)\)", text("docs/index.md")))
    assert linked == {page.name for page in PAGES[1:]} - {"index.md"}


def test_page_of_agents_is_the_one_that_the_code_makes():
    assert pages.PAGE.read_text(encoding="utf-8") == pages.agents_page(), "run: python -m experiments.pages"


def test_page_of_agents_reads_names_defaults_and_comments():
    page = pages.agents_page()
    assert "| `discount` | `0.98` | per decision, in [0, 1) |" in page
    assert "| `lr_phi` | `1e-4` |" in page
    sections = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert sections == [*agents.AGENTS, "imitation", "image", "discovery", "planning"]


def test_function_table_is_the_one_of_the_reward_language():
    shown = re.findall(r"^\| `(\w+)\(([^)]*)\)` \|", text("docs/prompting.md"), re.MULTILINE)
    declared = [
        (name, ", ".join([*(parameter.name for parameter in one.parameters), *["..."] * one.repeats]))
        for name, one in functions.FUNCTIONS.items()
    ]
    assert shown == declared
    sigmoids = re.search(r"Sigmoids: (.*?)\.", text("docs/prompting.md"))
    assert re.findall(r"`(\w+)`", sigmoids[1]) == list(functions.SIGMOIDS)


def test_limits_and_protocol_on_the_pages_are_those_of_the_code():
    language = " ".join(text("docs/prompting.md").split())
    limits = (source.MAX_CHARACTERS, source.MAX_TERMS, source.MAX_NODES, source.MAX_DEPTH)
    sentence = "at most {} characters, {} terms, {} numbers, names and operations, nested {} deep"
    assert sentence.format(*limits) in language
    assert f"up to {expression.MAX_CONSTANT:.0f} in size" in language
    assert f"capped at {functions.LARGEST_EXPONENT:g}" in language
    assert f"at least {functions.SMALLEST_DIVISOR:f} away from 0" in language
    protocol = " ".join(text("docs/evaluation.md").split())
    assert f"last {demo.LAST} control steps" in protocol
    assert f"within {demo.CORNER_RADIUS:.2f} m of the room" in protocol
    assert f"5 episodes each, within {demo.GOAL_RADIUS:.2f} m" in protocol
    corner, goal = (100 * demo.FLOOR[f"{name}_success_mean"] for name in ("corner", "goal"))
    assert f"below {corner:.0f} % on the corners or {goal:.0f} % on the goals" in protocol
    assert {f"{100 * ceiling:.0f}" for ceiling in demo.CEILING.values()} == {"15"}
    assert "above 15 %" in protocol


def test_taught_agent_learns_which_action_leads_to_a_goal(taught):
    (body,) = blocks(text("docs/add_an_agent.md"), "python", "file: agents/imitate.py")
    assert sum(map(bool, body.splitlines())) <= 40
    taught("docs/add_an_agent.md", "agents/imitate.py")
    module = agents.module("imitate")
    spec = Spec(obs={"state": (2,)}, action=2)
    agent = module.make(module.Config().tiny(), spec)

    def sample(data, state, key):
        key_obs, key_action = jax.random.split(key)
        obs = jax.random.normal(key_obs, (64, 2))
        action = jax.random.uniform(key_action, (64, 2), minval=-0.9, maxval=0.9)
        moved = {"state": obs + action}
        return state, Batch({"state": obs}, action, moved, jnp.zeros(64), jnp.ones(64))

    endless = Source(data=(), init=lambda key: (), next=sample)
    run = init_run(agent, endless, spec.example(), seed=0)
    before = run.agent.params["head"]["kernel"] + 0
    run, metrics = make_chunk(agent, endless, 600)((), run, jax.random.key(0))
    params = run.agent.params
    assert not np.array_equal(before, params["head"]["kernel"])
    assert int(metrics["loss/world"][1]) == -1

    z = agent.prompt(params, Goal({"state": jnp.array([0.5, -0.5])}), jax.random.key(0))
    act = jax.jit(lambda obs, z, key: agent.act(params, {"state": obs}, z, agent.carry(3), key)[0])
    here = jnp.array([[0.0, 0.0], [1.0, -0.5], [0.5, 0.2]])
    quiet = act(here, z, None)
    np.testing.assert_allclose(quiet, [[0.5, -0.5], [-0.5, 0.0], [0.0, -0.7]], atol=0.2)
    assert np.abs(act(here, z, jax.random.key(1)) - quiet).max() > 0.01
    assert agent.prompt(params, Prior(), jax.random.key(0)).shape == (2,)
    with pytest.raises(TypeError, match="Goal or Prior"):
        agent.prompt(params, Reward({"state": jnp.zeros((3, 2))}, jnp.zeros(3)), jax.random.key(0))


def test_taught_world_steps_and_pays_as_its_texts_say(taught):
    taught("docs/add_a_world.md", "envs/cart.py")
    env = envs.make("cart", threads=1)
    ts = env.reset(jax.random.key(0), 3)
    assert ts.obs["state"].shape == (3, 2)
    for _ in range(50):
        ts = env.step(ts, np.array([[1.0], [-1.0], [0.0]]))
    np.testing.assert_allclose(ts.quantities["position"][:2], [1, -1], atol=0.02)
    np.testing.assert_allclose(ts.quantities["control"], [[1], [-1], [0]])
    pay = {name: task(ts.quantities, None, ts.quantities) for name, task in env.tasks.items()}
    np.testing.assert_allclose(pay["right_end"][:2], [1, 0], atol=1e-6)
    middle = env.reset_to(np.array([[0.0, 0.0, 0.0, 0.0]])).quantities
    assert env.tasks["centre"](middle, None, middle) == 1
