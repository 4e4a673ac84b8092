"""Pages that are made from the code: `python -m experiments.pages` writes docs/agents.md anew."""

import ast
import dataclasses
import inspect
from pathlib import Path

import agents
from agents import discovery
from embodied import actor, planning, sight

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "agents.md"
HEAD = """# Agents

Made by `python -m experiments.pages` from the docstring and the `Config` of each file under `agents/`.
Change a value of a run with `--agent.FIELD VALUE`, of what holds its actor to the data with
`--agent.imitation.FIELD VALUE` ([imitation](#imitation)), of what reads pixels with `--agent.image.FIELD VALUE`
([image](#image), [pixels](pixels.md)), of how skills are discovered with `--agent.skill.FIELD VALUE`
([discovery](#discovery), [skills](skills.md)), of how plans are searched for with `--agent.planning.FIELD VALUE`
([planning](#planning)).
How to add a row is told in [add_an_agent.md](add_an_agent.md).
"""


def agents_page() -> str:
    """The text of docs/agents.md: one section per registered agent, and per part that several share."""
    rows = [_section(name, module, agents.module(name).Config) for name, module in agents.AGENTS.items()]
    parts = {
        "imitation": actor.Imitation,
        "image": sight.Image,
        "discovery": discovery.Config,
        "planning": planning.Planning,
    }
    shared = [_section(name, part.__module__, part) for name, part in parts.items()]
    return "\n".join([HEAD, *rows, *shared])


def write() -> None:
    """Nothing; writes the page."""
    PAGE.write_text(agents_page(), encoding="utf-8")


def _section(name: str, module: str, config: type) -> str:
    path = f"{module.replace('.', '/')}.py"
    found: dict[str, tuple[str, str]] = {}
    for one in reversed([one for one in config.__mro__ if dataclasses.is_dataclass(one)]):
        found |= _fields(inspect.getsource(one))  # a field that is declared again keeps its place
    rows = [f"| `{field}` | `{default}` | {comment} |" for field, (default, comment) in found.items()]
    docstring = (ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or "").strip()
    table = ["| field | default | meaning |", "|---|---|---|", *rows]
    return "\n".join([f"## {name}", "", f"`{path}`", "", "```text", docstring, "```", "", *table, ""])


def _fields(source: str) -> dict[str, tuple[str, str]]:
    """name -> (default, comment) of every field that the source of a `Config` declares, as it stands there."""
    lines = source.splitlines()
    config = ast.parse(source).body[0]
    assert isinstance(config, ast.ClassDef)
    found = {}
    for node in config.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            comment = lines[node.value.end_lineno - 1][node.value.end_col_offset :].partition("#")[2].strip()
            default = ast.get_source_segment(source, node.value) or ""
            found[node.target.id] = (default, comment.replace("|", "\\|"))
    return found


if __name__ == "__main__":
    write()
