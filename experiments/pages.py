"""Pages that are made from the code: `python -m experiments.pages` writes docs/agents.md anew."""

import ast
from pathlib import Path

from agents import AGENTS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "agents.md"
HEAD = """# Agents

Made by `python -m experiments.pages` from the docstring and the `Config` of each file under `agents/`.
Change a value of a run with `--agent.FIELD VALUE`; how to add a row is told in [add_an_agent.md](add_an_agent.md).
"""


def agents_page() -> str:
    """The text of docs/agents.md: one section per registered agent."""
    return "\n".join([HEAD, *(_section(name, module) for name, module in AGENTS.items())])


def write() -> None:
    """Nothing; writes the page."""
    PAGE.write_text(agents_page(), encoding="utf-8")


def _section(name: str, module: str) -> str:
    path = f"{module.replace('.', '/')}.py"
    source = (ROOT / path).read_text(encoding="utf-8")
    tree = ast.parse(source)
    rows = [f"| `{field}` | `{default}` | {comment} |" for field, default, comment in _fields(source, tree)]
    docstring = (ast.get_docstring(tree) or "").strip()
    table = ["| field | default | meaning |", "|---|---|---|", *rows]
    return "\n".join([f"## {name}", "", f"`{path}`", "", "```text", docstring, "```", "", *table, ""])


def _fields(source: str, tree: ast.Module) -> list[tuple[str, str, str]]:
    """(name, default, comment) of every field of `Config`, as they stand in the source."""
    lines = source.splitlines()
    config = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config")
    found = []
    for node in config.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            comment = lines[node.value.end_lineno - 1][node.value.end_col_offset :].partition("#")[2].strip()
            default = ast.get_source_segment(source, node.value) or ""
            found.append((node.target.id, default, comment.replace("|", "\\|")))
    return found


if __name__ == "__main__":
    write()
