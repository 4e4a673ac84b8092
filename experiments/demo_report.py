"""The page that `embodied demo` ends with."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embodied.policy import Policy
from embodied.rollout import Trajectory
from embodied.statistics import wilson
from embodied.types import Env
from experiments import figures, report, video
from experiments.evaluate import task_features
from experiments.report import Code, Facts, Figure, Section, Table, Video
from experiments.run_report import read_metrics


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Success of one policy over a group of prompts."""

    success: np.ndarray  # [prompts, episodes] bool
    distance: np.ndarray  # [prompts, episodes]: largest distance to the goal over the last control steps, metres
    trajectories: Mapping[str, Trajectory]

    def summary(self) -> dict[str, float]:
        """Mean success with its Wilson interval, and success at three radii."""
        rate = wilson(int(self.success.sum()), self.success.size)
        within = {f"within_{radius:.2f}m": float((self.distance <= radius).mean()) for radius in (0.05, 0.10, 0.15)}
        return {"mean": rate.value, "low": rate.low, "high": rate.high, "episodes": self.success.size, **within}


@dataclasses.dataclass(frozen=True)
class Walk:
    """What the shipped walker did with one reward text."""

    text: str
    prompted: Mapping[str, float]  # summary of returns
    random: Mapping[str, float]  # the same for random actions
    physics: np.ndarray  # [T, P] of the first episode
    env: Env


NEXT = """source .venv/bin/activate
embodied list                                   # worlds, quantities, tasks, presets, models
embodied prompt {out}/run --goal "x=0.2, y=-0.1" --out here.json
embodied prompt walker --reward "tolerance(torso_height, 1.2, inf, 0.6) * (1 + torso_upright) / 2"
embodied evaluate walker                        # all four tasks, zero-shot, with intervals
embodied collect walker-rnd --out data/walker   # make your own data, then:
embodied train walker-td_jepa-small --data data/walker --out runs/walker"""
SHOWN_SECONDS = 10  # of each walker episode


def write(
    out: Path,
    policy: Policy,
    env: Env,
    results: Mapping[str, tuple[Outcome, Outcome]],
    goals: tuple[Mapping[str, tuple[float, float]], Mapping[str, tuple[float, float]]],
    radii: tuple[float, float],
    walks: Mapping[str, Walk],
    body: Mapping[str, Any],
) -> Path:
    """The path of report.html."""
    metrics = read_metrics(out / "run")
    sections = [
        _summary(results, radii, body),
        _maze(env, results["TD-JEPA"], goals, radii),
        Section("Learning curves", [Figure(figures.png(figures.learning_curves(metrics)), "Means over chunks.")]),
    ]
    features = task_features(policy)
    if features is not None:
        about = "How evenly the learned features of states use their dimensions; below the dashed line they are lost."
        sections.append(Section("Latent health", [about, Figure(figures.png(figures.spectrum({"TD-JEPA": features})))]))
    if walks:
        sections.append(_walker(out, walks))
    sections.append(Section("What to try next", [Code(NEXT.format(out=out))]))
    lead = (
        "A behaviour model was trained on random motion, without any reward. Rewards and goals it had never seen were "
        "then turned into a latent in closed form, and one policy acted on it without further training."
    )
    made = report.provenance("embodied demo", [0], body["seconds_total"], stages=body["seconds"], model=policy.sha256)
    return report.write(out / "report.html", "From random motion to a promptable policy", lead, sections, made)


def _summary(
    results: Mapping[str, tuple[Outcome, Outcome]], radii: tuple[float, float], body: Mapping[str, Any]
) -> Section:
    trained = [outcome.summary() for outcome in results["TD-JEPA"]]
    facts = Facts(
        [
            (f"{100 * trained[0]['mean']:.0f} %", "of episodes reached the corner asked for"),
            (f"{100 * trained[1]['mean']:.0f} %", "of episodes reached the random goal"),
            (report.duration(body["seconds"]["train"]), "of training on this machine"),
        ]
    )
    rows: list[list[report.Cell]] = []
    for i, label in enumerate((f"four corner rewards, {radii[0]:.2f} m", f"20 random goals, {radii[1]:.2f} m")):
        row: list[report.Cell] = [label]
        for outcomes in results.values():
            one = outcomes[i].summary()
            row.append((f"{100 * one['mean']:.0f} %", f"{100 * one['low']:.0f} to {100 * one['high']:.0f}"))
        rows.append(row)
    caption = (
        "Success: inside the radius during all of the last 100 of 1000 control steps. 20 episodes per corner, 5 per "
        "goal, starts uniform over the maze, 95 % Wilson intervals."
    )
    return Section("Does it do what it is told?", [facts, Table(("", *results), rows, caption)])


def _maze(
    env: Env,
    trained: tuple[Outcome, Outcome],
    goals: tuple[Mapping[str, tuple[float, float]], Mapping[str, tuple[float, float]]],
    radii: tuple[float, float],
) -> Section:
    pictures = []
    for outcome, places, radius, count, caption in zip(
        trained, goals, radii, (4, 8), ("Four corner rewards.", "Eight of the random goals."), strict=True
    ):
        panels = [
            figures.Panel(
                name.replace("reach_", "").replace("_", " "),
                outcome.trajectories[name].path["position"],
                place,
                radius,
                outcome.success[i],
            )
            for i, (name, place) in enumerate(list(places.items())[:count])
        ]
        pictures.append(Figure(figures.png(figures.maze_trajectories(env, panels)), caption))
    about = "Every line is one episode from a random start; the disc is the goal. One policy, one latent per panel."
    return Section("Trajectories", [about, *pictures])


def _walker(out: Path, walks: Mapping[str, Walk]) -> Section:
    rows: list[list[report.Cell]] = []
    clips: list[Any] = []
    for name, walk in walks.items():
        cells = [
            (f"{one['iqm']:.0f}", f"{one['low']:.0f} to {one['high']:.0f}") for one in (walk.prompted, walk.random)
        ]
        rows.append([name, *cells])
        caption = f"{name}: {walk.text}"
        spec = walk.env.spec
        shown = walk.physics[: round(SHOWN_SECONDS / (spec.control_dt * spec.hold))]
        strip = video.film_strip(walk.env, shown, "side")
        if strip:
            clips.append(Figure(strip, caption, photograph=True))
            clips.append(Video(video.record(walk.env, shown, "side", out / f"{name.replace(' ', '_')}.mp4")))
        else:
            clips.append(caption)
    about = (
        "The walker that ships with the repository was prompted with texts that its training never saw; its card has "
        "the standard tasks. Returns over 1000 control steps, at most 1000."
    )
    caption = "Interquartile mean of 10 episodes with a 95 % bootstrap interval; one trained model."
    return Section(
        "A walker and two sentences of arithmetic",
        [about, Table(("", "prompted", "random actions"), rows, caption), *clips],
    )
