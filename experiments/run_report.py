"""The page about one training run: scores, what the policy does, learning curves, health of the latents."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embodied.evaluate import Scores
from embodied.policy import Policy
from embodied.rollout import Trajectory
from embodied.types import Env, Goal, InputError, Reward
from envs.render import NO_RENDERER
from experiments import figures, imagination, report, skill_report, video
from experiments.evaluate import act_tasks, baselines, task_features
from experiments.report import Block, Facts, Figure, Section, Video
from experiments.skills import is_skilled
from experiments.train import read_experiment

ZERO_SHOT = (
    "Each task is prompted zero-shot: its reward is computed on stored states and turned into a latent in closed form; "
    "the policy then acts without further training."
)
ONE_TASK = "The policy was trained for one task; the others show what it does there all the same."
GOALS = "Goals are its only prompts: for each task, the policy goes to the stored state that its reward pays most."
SHOWN_SECONDS = 10  # of each film
PATHS = 8  # episodes drawn on a map


def write(
    run: Path, env: Env, policy: Policy, episodes: int, out: Path, command: str, topline: Path | None = None
) -> Path:
    """The path of the report of a training run: scores beside baselines, learning curves, health of the latents.

    `topline` is a JSON file of `embodied evaluate`; its first column is shown beside. Raises InputError naming the
    file that is missing or not of this kind.
    """
    metrics, record = read_metrics(run), read_experiment(run)
    above = read_topline(topline) if topline else {}
    experiment = record["experiment"]
    steps = np.array([row["step"] for row in metrics])
    speed = np.array([row["speed/updates_per_second"] for row in metrics])
    seconds = float((np.diff(steps, prepend=0) / speed).sum())
    scores, trajectories = act_tasks(policy, env, episodes)
    columns = {policy.agent_name: _summaries(scores)}
    columns |= above | {name: _summaries(scores) for name, scores in baselines(policy, env, episodes).items()}
    skilled = is_skilled(policy)
    how = ZERO_SHOT if Reward in policy.agent.prompts else GOALS if Goal in policy.agent.prompts else ONE_TASK
    intervals = f"Interquartile mean of {episodes} episodes with a 95 % bootstrap interval, one trained seed."
    speeds = f"{np.median(speed):,.0f}"
    facts = Facts(
        [(f"{steps[-1]:,}", "updates"), (report.duration(seconds), "of training"), (speeds, "updates per second")]
    )
    bars, curves = figures.task_bars(columns), figures.learning_curves(metrics)
    blocks = [facts, how, report.score_table(columns, intervals), Figure(figures.png(bars), "The same as bars.")]
    chunks = "Each point is the mean over one chunk of updates."
    sections = [
        Section("Tasks", blocks),
        skill_report.section(policy, env, metrics, out.parent)
        if skilled
        else motion(env, scores, trajectories, out.parent),
        *([imagination.section(policy, env, out.parent)] if policy.agent.imagine else []),
        Section("Learning curves", [Figure(figures.png(curves), chunks)]),
    ]
    features = task_features(policy)
    if features is not None:
        about = (
            "How evenly the features of states use their dimensions. Where the curve falls below the dashed line, "
            "directions are lost and prompts that differ only there cannot be told apart."
        )
        picture = figures.png(figures.spectrum({policy.agent_name: features}))
        caption = "Eigenvalues of the second moment of the features, relative to the largest."
        sections.append(Section("Latent health", [about, Figure(picture, caption)]))
    made = report.provenance(
        command, [experiment["train"]["seed"]], seconds, model=policy.sha256, experiment=experiment
    )
    made["wall time"] += " in updates"
    lead = f"Agent {policy.agent_name} in world {policy.world}, trained for {steps[-1]:,} updates."
    return report.write(out, f"{policy.world} · {policy.agent_name}", lead, sections, made)


def motion(env: Env, scores: Mapping[str, Scores], trajectories: Mapping[str, Trajectory], place: Path) -> Section:
    """Paths of episodes on the map where the world is one, otherwise a strip of pictures and a video of each task."""
    title, position = "What it does", env.spec.quantities.get("position")
    if position is not None and position.shape == (2,):
        panels = [
            figures.Panel(name.replace("_", " "), one.path["position"][:PATHS]) for name, one in trajectories.items()
        ]
        about = "Every line is one episode from a random start; a ring marks where it begins, a dot where it ends."
        return Section(title, [about, Figure(figures.png(figures.maze_trajectories(env, panels)), "One map per task.")])
    blocks: list[Block] = [f"One episode of each task, its first {SHOWN_SECONDS} seconds."]
    shown = round(SHOWN_SECONDS / (env.spec.control_dt * env.spec.hold))
    for name, one in trajectories.items():
        caption = f"{name}: return {scores[name].returns[0]:.0f} over the whole episode"
        strip = video.film_strip(env, one.physics[0, :shown], "")
        if not strip:
            return Section(title, [f"No pictures: {NO_RENDERER}."])
        blocks.append(Figure(strip, caption, photograph=True))
        blocks.append(Video(video.record(env, one.physics[0, :shown], "", place / f"{name}.mp4")))
    return Section(title, blocks)


def read_metrics(run: Path) -> list[dict[str, int | float]]:
    """The rows of a run's metrics.jsonl. Raises InputError where there are none."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if not lines:
        raise InputError(f"run: {path} is missing or empty; name the directory that `embodied train` wrote to")
    return [json.loads(line) for line in lines]


def read_topline(path: Path) -> dict[str, dict[str, Any]]:
    """The first column of a JSON file of `embodied evaluate`. Raises InputError for any other content."""
    try:
        name, column = next(iter(json.loads(path.read_text(encoding="utf-8")).items()))
        return {name: {task: {**summary, "iqm": float(summary["iqm"])} for task, summary in column.items()}}
    except (OSError, ValueError, AttributeError, TypeError, KeyError, StopIteration) as error:
        raise InputError(
            f"topline: {path} must hold policy -> task -> summary with 'iqm', as `embodied evaluate --out` writes "
            f"({type(error).__name__}: {error})"
        ) from None


def _summaries(scores: Mapping[str, Any]) -> dict[str, dict[str, int | float]]:
    return {task: one.summary() for task, one in scores.items()}
