"""`embodied data check|info|import|render`: datasets on disk, ours and those of others."""

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

import envs
from embodied.data import importers, store
from embodied.data.check import check
from embodied.data.rlds import Episode
from embodied.types import Env, InputError, nearest
from envs.pixels import setting
from experiments.collect import with_frames

ACTIONS = ("check", "info", "import", "render")
READERS = {"exorl": importers.read_exorl, "ogbench": importers.read_ogbench}
STEP = 500  # episodes between two lines of progress


@dataclasses.dataclass(frozen=True)
class Check:
    """Reads a dataset to the end and says what is wrong with it; exits with 1 where something is."""

    path: tyro.conf.Positional[Path]  # dataset directory, folder of ExoRL episodes or OGBench file


@dataclasses.dataclass(frozen=True)
class Info:
    """What a dataset directory says of itself."""

    path: tyro.conf.Positional[Path]  # dataset directory


@dataclasses.dataclass(frozen=True)
class Import:
    """Public offline data as a dataset directory."""

    kind: tyro.conf.Positional[Literal["exorl", "ogbench"]]
    source: tyro.conf.Positional[Path]  # folder of ExoRL episodes, or one OGBench file
    world: str  # where the data comes from
    out: Path  # new directory of the dataset
    limit: int | None = None  # episodes; default: all


@dataclasses.dataclass(frozen=True)
class Render:
    """A dataset again, with an image of each of its states."""

    path: tyro.conf.Positional[Path]  # dataset directory
    out: Path  # new directory of the dataset with frames
    pixels: int = 64  # side of the frames


def main(arguments: list[str]) -> None:
    """Runs one of the four; raises InputError for another word."""
    if not arguments or arguments[0] not in (*ACTIONS, "-h", "--help"):
        hint = nearest(arguments[0], ACTIONS) if arguments else f"choose one of: {', '.join(ACTIONS)}"
        raise InputError(f"data: expected what to do first; {hint}")
    action, *rest = arguments
    program = f"embodied data {action}"
    match action:
        case "check":
            report = check(tyro.cli(Check, args=rest, prog=program).path)
            print("\n".join(report.lines()))
            if report.problems:
                raise SystemExit(1)
        case "info":
            print("\n".join(info(tyro.cli(Info, args=rest, prog=program).path)))
        case "import":
            chosen = tyro.cli(Import, args=rest, prog=program)
            if chosen.limit is not None and chosen.limit < 1:
                raise InputError(f"limit: must be at least 1, got {chosen.limit}")
            convert(chosen)
            print("\n".join([*info(chosen.out), f"check it:  embodied data check {chosen.out}"]))
        case "render":
            drawn = tyro.cli(Render, args=rest, prog=program)
            render(drawn)
            print("\n".join([*info(drawn.out), f"check it:  embodied data check {drawn.out}"]))
        case _:
            print(f"{__doc__}\n\n" + "\n".join(f"  embodied data {name} --help" for name in ACTIONS))


def info(directory: Path) -> list[str]:
    """The description of a dataset as lines of text. Raises InputError where there is none."""
    metadata = store.read_metadata(directory)
    size = sum(shard["bytes"] for shard in metadata["shards"])
    fields = {
        "name": metadata["name"],
        "made": f"{metadata['date']}{'' if metadata['complete'] else ', by a writer that was not closed'}",
        "episodes": f"{metadata['episodes']:,}",
        "transitions": f"{metadata['transitions']:,}",
        "columns": ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in metadata["shapes"].items()),
        "size": f"{size / 2**20:.1f} MiB in {len(metadata['shards'])} shards",
        "sha256": store.state_digest(directory),
    }
    own = {"date", "complete", "shapes", "shards", "versions", *fields}
    given = {name: str(value) for name, value in metadata.items() if name not in own}
    versions = ", ".join(f"{name} {version}" for name, version in metadata["versions"].items())
    return [f"{name:12} {value}" for name, value in {**fields, **given, "versions": versions}.items()]


def convert(chosen: Import) -> None:
    """Nothing; writes the episodes of `source` to `out`, with physics vectors of ours where the world is known.

    One control step becomes one decision. Raises InputError where the data does not fit the world.
    """
    episodes = READERS[chosen.kind](chosen.source, chosen.limit)
    known = envs.WORLDS | envs.EXTRA_WORLDS
    if chosen.world in known:
        env = envs.make(chosen.world, hold=1, threads=1)
        episodes = (_fit(episode, env) for episode in episodes)
    else:
        _note(f"world '{chosen.world}' is not one of ours ({nearest(chosen.world, known)}); physics is kept")
    name = re.sub(r"\W+", "_", f"{chosen.world}_{chosen.kind}".lower(), flags=re.ASCII)
    metadata = {"world": chosen.world, "options": {"hold": 1}, "collector": {"imported_from": chosen.kind}}
    with store.Writer(chosen.out, name, metadata) as writer:
        for count, episode in enumerate(_checked(episodes), 1):
            writer.add(episode)
            if count % STEP == 0:
                _note(f"{count:,} episodes")


def render(chosen: Render) -> None:
    """Nothing; writes the episodes of a dataset with frames, drawn by the world that its metadata name.

    Raises InputError for data of another world, without physics, or where nothing can be drawn.
    """
    metadata = store.read_metadata(chosen.path)
    world, options = metadata.get("world"), {**metadata.get("options", {}), "pixels": chosen.pixels}
    env = envs.make(str(world), **options)
    if not env.spec.takes(metadata["shapes"]["physics"][0]):
        raise InputError(f"data: the states of {chosen.path} carry no physics vector of world '{world}' to draw")
    kept = {name: value for name, value in metadata.items() if name not in store.WRITTEN}
    made = {"frames": setting(env, chosen.pixels), "rendered_from": store.state_digest(chosen.path)}
    with store.Writer(chosen.out, metadata["name"], {**kept, **made}) as writer:
        episodes = store.read_episodes(chosen.path, frames=False)
        for count, episode in enumerate(with_frames(env, episodes, chosen.pixels), 1):
            writer.add(episode)
            if count % STEP == 0:
                _note(f"{count:,} of {metadata['episodes']:,} episodes")


def _checked(episodes: Iterator[Episode]) -> Iterator[Episode]:
    """The episodes; says once where rewards cannot be computed anew because no physics is stored."""
    for index, episode in enumerate(episodes):
        if index == 0 and not episode["physics"].shape[1]:
            _note("the source holds no physics: rewards of other tasks cannot be computed from it")
        yield episode


def _fit(episode: Episode, env: Env) -> Episode:
    """The episode with a whole physics vector. Raises InputError where its columns are not those of the world."""
    expected = {"state": env.spec.obs["state"][0], "action": env.spec.action}
    for name, columns in expected.items():
        if episode[name].shape[1] != columns:
            raise InputError(
                f"data: '{name}' has {episode[name].shape[1]} columns, world '{env.spec.name}' has {columns}"
            )
    if not episode["physics"].shape[1]:
        return episode
    world = env.world
    command = world.command(episode["action"], np)
    sizes = [part.stop - part.start for part in (world.qpos, world.qvel, world.act, world.ctrl)]
    physics = importers.complete_physics(episode["physics"], *sizes, command, env.spec.control_dt)
    return {**episode, "physics": physics}


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
