"""The house stands: floors, walls, sizes, registered parts, and nothing that belongs to one machine."""

import ast
import dataclasses
import functools
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import agents
import envs

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "embodied": {"embodied"},
    "agents": {"agents", "embodied"},
    "envs": {"envs", "embodied"},
    "experiments": {"experiments", "agents", "envs", "embodied"},
}
LONGEST_FILE = {"embodied": 300, "agents": 400, "envs": 300, "experiments": 300, "tests": 300}
LONGEST_FUNCTION = 60
# `load` names an agent in a file; resolving that name is the one import that goes up.
LATE_IMPORTS = {("embodied/policy.py", "agents")}
# "path" or "path::function" -> why it may be longer than its limit
EXCEPTIONS: dict[str, str] = {}
LOCKED = ("dev", "tensorboard", "export", "serve", "ogbench", "metaworld")  # extras that requirements.lock holds


@functools.cache
def tracked() -> tuple[str, ...]:
    """Files that git holds or would take."""
    command = ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple(sorted(name for name in set(names) if (ROOT / name).is_file()))


def sources(*folders: str) -> list[str]:
    return [name for name in tracked() if name.endswith(".py") and name.split("/")[0] in folders]


@functools.cache
def parse(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def module_name(name: str) -> str:
    """The dotted name of a source file; a package is its folder."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(tree: ast.Module, package: str = "") -> list[str]:
    """Dotted names imported anywhere in a module, `from a import b` as "a.b"; relative ones made absolute."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            found += [f"{base}.{alias.name}" for alias in node.names]
    return found


def file_imports(name: str) -> list[str]:
    package = module_name(name) if name.endswith("__init__.py") else module_name(name).rpartition(".")[0]
    return imports(parse(name), package)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of the graph, its first node repeated at the end; empty where there is none."""
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> list[str]:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node not in done:
            for after in sorted(graph.get(node, ())):
                if found := visit(after, [*trail, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def functions(tree: ast.AST) -> list[tuple[str, int]]:
    """Name and lines of every function; a nested one counts for itself, not for the one around it."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)

    def nested(node: ast.AST) -> int:
        children = ast.iter_child_nodes(node)
        return sum(c.end_lineno - c.lineno + 1 if isinstance(c, kinds) else nested(c) for c in children)

    return [(n.name, n.end_lineno - n.lineno + 1 - nested(n)) for n in ast.walk(tree) if isinstance(n, kinds)]


def refuse(offenders: list) -> None:
    """Fails with one offender per line."""
    assert not offenders, "\n" + "\n".join(map(str, offenders))


def test_import_reader_sees_late_and_relative_imports():
    tree = ast.parse("import a.b\ndef f():\n    from c import d\nfrom . import e\nfrom ..g import h\n")
    assert imports(tree, "top.pack") == ["a.b", "top.pack.e", "top.g.h", "c.d"]


def test_circle_finder_names_the_circle_and_passes_a_diamond():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}}) == []


def test_function_lengths_leave_out_what_is_nested():
    tree = ast.parse("def outer():\n    def inner():\n        return 1\n    return inner\n")
    assert functions(tree) == [("outer", 2), ("inner", 2)]


def test_imports_only_go_down_and_never_across_the_wall():
    wrong = [
        f"{name} imports {target}"
        for name in sources(*MAY_IMPORT)
        for target in file_imports(name)
        if (top := target.split(".")[0]) in {*MAY_IMPORT, "tests"} - MAY_IMPORT[name.split("/")[0]]
        and (name, top) not in LATE_IMPORTS
    ]
    refuse(wrong)


def test_no_modules_import_each_other_in_a_circle():
    modules = {module_name(name): name for name in sources(*MAY_IMPORT)}
    graph = {
        module: {
            target if target in modules else target.rpartition(".")[0]
            for target in file_imports(name)
            if (name, target.split(".")[0]) not in LATE_IMPORTS
        }
        & modules.keys()
        for module, name in modules.items()
    }
    refuse(circle(graph))


def test_flax_layers_stay_behind_the_network_seam():
    layers = re.compile(r"flax\.(linen|nnx)\b")
    outside = [name for name in sources(*MAY_IMPORT) if not name.startswith("embodied/nets/")]
    refuse([name for name in outside if any(map(layers.match, file_imports(name)))])


def test_what_runs_on_a_robot_needs_only_numpy_and_onnxruntime():
    allowed = {"numpy", "onnxruntime", *sys.stdlib_module_names}
    simulated = {"embodied/deploy/simulation.py": {"mujoco"}}
    wrong = [
        f"{name} imports {target}"
        for name in sources("embodied")
        if name.startswith("embodied/deploy")
        for target in file_imports(name)
        if target.split(".")[0] not in allowed | simulated.get(name, set()) and not target.startswith("embodied.deploy")
    ]
    refuse(wrong)


def test_no_file_is_longer_than_its_floor_allows():
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in sources(*LONGEST_FILE)}
    limits = {name: LONGEST_FILE[name.split("/")[0]] for name in lengths}
    refuse([(n, k) for n, k in lengths.items() if k > limits[n] and n not in EXCEPTIONS])


def test_no_function_is_longer_than_sixty_lines():
    long = [
        (f"{name}::{function}", length)
        for name in sources(*LONGEST_FILE)
        for function, length in functions(parse(name))
        if length > LONGEST_FUNCTION and f"{name}::{function}" not in EXCEPTIONS
    ]
    refuse(long)


@pytest.mark.parametrize("name", agents.AGENTS)
def test_every_registered_agent_offers_a_frozen_config_and_make(name):
    module = importlib.import_module(agents.AGENTS[name])
    assert callable(module.make)
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen


@pytest.mark.parametrize("name", envs.WORLDS)
def test_every_registered_world_offers_make(name):
    assert callable(importlib.import_module(envs.WORLDS[name]).make)


def test_no_file_is_called_utils():
    refuse([name for name in tracked() if re.search(r"(^|/)utils?(\.py)?(/|$)", name)])


def test_no_file_names_a_package_index_or_a_path_of_one_machine():
    index = r"https?://[\w.-]*(?:pypi|pythonhosted)|-(?:index-url|find-links)"
    leak = re.compile(index + r"|(?<![\w.*])/(?:work|root)/")
    text = re.compile(r"(\.(py|toml|lock|md|cff|ya?ml|json|xml|txt|cfg|sh|svg)|Makefile|run|\.gitignore)$")
    lines = [
        f"{name}:{number}"
        for name in tracked()
        if text.search(name)
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        if leak.search(line)
    ]
    refuse(lines)


def test_no_test_is_skipped_or_expected_to_fail():
    given_up = {"skip", "skipif", "xfail", "importorskip"}
    wrong = [
        f"{name}:{node.lineno}"
        for name in sources("tests")
        for node in ast.walk(parse(name))
        if getattr(node, "attr", getattr(node, "id", None)) in given_up
    ]
    refuse(wrong)


def test_wheel_holds_exactly_the_four_floors():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {name.split("/")[0] for name in tracked() if name.endswith(".py") and "/" in name} - {"tests"}
    assert sorted(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == sorted(folders)
    assert set(MAY_IMPORT) == folders


def test_lock_satisfies_the_declared_dependencies_with_hashes_and_without_addresses():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, flags=re.MULTILINE))
    extras = project["optional-dependencies"]
    declared = map(Requirement, [*project["dependencies"], *(line for name in LOCKED for line in extras[name])])
    refuse([str(r) for r in declared if not r.specifier.contains(locked.get(r.name.lower(), "0"))])
    assert "://" not in lock
    assert lock.count("--hash=sha256:") >= len(locked)
    assert not {"torch", "tensorflow", "warp-lang"} & locked.keys()
