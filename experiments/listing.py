"""What this installation offers, as readable tables: presets, worlds, quantities, tasks, agents, models."""

import contextlib
import importlib
import io
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import agents
import envs
from embodied.types import Env, InputError, Spec, nearest
from envs.forms import FORMS
from experiments.experiment import Experiment
from experiments.models import shipped
from experiments.presets import COLLECT, PRESETS

WIDTH = 90  # characters of names in a line of the overview


def overview() -> list[str]:
    """The names of all there is, by kind, and how to see more."""
    names = {
        "presets": PRESETS,
        "collect presets": COLLECT,
        "worlds": envs.WORLDS,
        "extra worlds": envs.EXTRA_WORLDS,
        "agents": agents.AGENTS,
        "models": shipped() or ["none in this installation"],
    }
    lines = []
    for kind, found in names.items():
        text = textwrap.wrap(", ".join(found), WIDTH, break_on_hyphens=False)
        lines += [f"{head:15}  {line}" for head, line in zip([kind, *[""] * len(text)], text, strict=False)]
        if kind == "extra worlds" and (missing := dict.fromkeys(filter(None, map(envs.needs, found)))):
            lines += [f"{'':15}  needs: {command}" for command in missing]
    return [*lines, "", "more: embodied list presets|worlds|quantities|tasks|agents|models [--world NAME]"]


def presets(worlds: Sequence[str]) -> list[str]:
    """The training presets and the collect presets of these worlds."""
    training = [
        [
            name,
            type(preset.agent).__module__.rpartition(".")[2],
            preset.world,
            f"{preset.train.updates:,}",
            f"{preset.train.batch_size}",
            _hold(preset.hold),
            _data_of(preset),
        ]
        for name, preset in PRESETS.items()
        if preset.world in worlds
    ]
    collecting = [
        [name, preset.explorer, preset.world, f"{preset.episodes:,}", f"{preset.decisions}", _hold(preset.hold)]
        for name, preset in COLLECT.items()
        if preset.world in worlds
    ]
    return [
        "embodied train PRESET --data DIR --out DIR",
        *_table(["preset", "agent", "world", "updates", "batch", "hold", "learns from"], training),
        "",
        "embodied collect PRESET --out DIR",
        *_table(["preset", "explorer", "world", "episodes", "decisions", "hold"], collecting),
    ]


def _hold(hold: int | None) -> str:
    return "world's" if hold is None else f"{hold}"


def _data_of(preset: Experiment) -> str:
    if preset.own_data:
        return "own rollouts"
    data = "stored data and own rollouts" if preset.online.worlds else "stored data"
    return f"{data}, rewards of '{preset.task}'" if preset.task else data


def worlds(worlds: Sequence[str]) -> list[str]:
    """Shapes, forms and tasks of these worlds; of a single one its quantities and reward texts as well.

    A world whose package is not there is only named, with what it needs.
    """
    header = ["world", "obs", "action", "decision", "per episode", "forms", "tasks"]
    lines = _table(header, [_row(world) for world in worlds])
    return (
        [*lines, "", *quantities(worlds), "", *tasks(worlds)]
        if not envs.needs(worlds[0]) and len(worlds) == 1
        else lines
    )


def _row(world: str) -> list[str]:
    if command := envs.needs(world):
        return [world, *[""] * 5, f"needs: {command}"]
    env = _make(world)
    return [
        world,
        ", ".join(f"{name} {list(shape)}" for name, shape in env.spec.obs.items()),
        f"{env.spec.action}",
        f"{env.spec.control_dt:g} s x {env.spec.hold}",
        f"{env.spec.decisions:,}",
        ", ".join(forms(world)),
        ", ".join(env.tasks),
    ]


def forms(world: str) -> list[str]:
    """The forms in which a world can be made here."""
    found = []
    for form in FORMS:
        # MJX prints a line about Warp, which no world needs.
        with contextlib.suppress(InputError), contextlib.redirect_stdout(io.StringIO()):
            envs.make(world, form)
            found.append(form)
    return found


def quantities(worlds: Sequence[str]) -> list[str]:
    """What reward texts may name in these worlds, with unit and meaning."""
    rows = [row for world in worlds for row in _quantity_rows(world)]
    return _table(["world", "quantity", "shape", "unit", "about"], rows)


def _quantity_rows(world: str) -> list[list[str]]:
    if command := envs.needs(world):
        return [[world, "", "", "", f"needs: {command}"]]
    declared = _make(world).spec.quantities.items()
    return [[world, name, f"{list(one.shape) if one.shape else ''}", one.unit, one.about] for name, one in declared]


def tasks(worlds: Sequence[str]) -> list[str]:
    """The tasks of these worlds, each with its reward text below it."""
    lines = []
    for world in worlds:
        if command := envs.needs(world):
            lines.append(f"{world} needs: {command}")
            continue
        for name, task in _make(world).tasks.items():
            lines += [f"{world} {name}: {task.about}", f"    {task.text}"]
    return lines


def agent_table() -> list[str]:
    """The algorithms, the prompts that each takes and its first docstring line."""
    rows = []
    for name in agents.AGENTS:
        module = agents.module(name)
        agent = module.make(module.Config().tiny(), Spec(obs={"state": (2,)}, action=1))
        about = (importlib.import_module(agents.AGENTS[name]).__doc__ or "").partition("\n")[0]
        rows.append([name, ", ".join(kind.__name__ for kind in agent.prompts), about])
    return _table(["agent", "prompts", "about"], rows)


def models(worlds: Sequence[str]) -> list[str]:
    """The trained policies that come with this installation."""
    rows = []
    for name, folder in shipped().items():
        head = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if head["world"] in worlds:
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            rows.append([name, head["world"], head["agent"], f"{size / 2**20:.1f} MiB", _card(folder)])
    if not rows:
        return ["no models come with this installation for that choice; train one: embodied demo"]
    return _table(["model", "world", "agent", "size", "card"], rows)


def select(world: str | None) -> list[str]:
    """The worlds that `--world` means: one, or all of them where it is None. Raises InputError for an unknown one."""
    known = envs.WORLDS | envs.EXTRA_WORLDS
    if world is not None and world not in known:
        raise InputError(f"list: unknown world '{world}'; {nearest(world, known)}")
    return list(known) if world is None else [world]


def _make(world: str) -> Env:
    return envs.make(world, threads=1)


def _card(folder: Path) -> str:
    path = folder / "card.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.lstrip("# ") for line in lines if line.strip()), "")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned columns under a header, the last one as long as it likes."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width for width in widths[:-1]] + ["-" * len(header[-1])]
    cells = [header, rule, *rows]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
