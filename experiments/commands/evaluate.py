"""`embodied evaluate MODEL [--prompt FILE] [--reward TEXT]`: returns with intervals."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from embodied import promptfile
from embodied.promptfile import Request
from embodied.types import InputError
from experiments import evaluate, prompt
from experiments.models import resolve


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Scores of a policy on all tasks of its world, of a prompt file, or of a reward text."""

    model: tyro.conf.Positional[str]  # shipped model or run directory
    prompt: Path | None = None  # score this prompt file on its own reward
    reward: str | None = None  # prompt with this text and score on it
    episodes: int = 10
    inference: Literal["plain", "ridge", "softmax", "auto"] = "plain"  # see docs/prompting.md
    randomise: str | None = None  # level of domain randomisation, see docs/randomisation.md; default: as in training
    out: Path | None = None  # JSON file for the numbers


def main(arguments: list[str]) -> None:
    """Evaluates and prints."""
    chosen = tyro.cli(Arguments, args=arguments, prog="embodied evaluate")
    if chosen.episodes < 1:
        raise InputError(f"episodes: must be at least 1, got {chosen.episodes}")
    if chosen.prompt is not None and chosen.reward is not None:
        raise InputError("evaluate: give --prompt or --reward, not both")
    policy, env = resolve(chosen.model, chosen.randomise)
    if chosen.randomise is not None:
        print(f"world {policy.world}, randomised: {chosen.randomise}")
    if chosen.prompt is None and chosen.reward is None:
        evaluate.run(policy, env, chosen.episodes, chosen.inference, chosen.out)
        return
    if chosen.prompt is not None:
        prompted, task = promptfile.load_any(chosen.prompt, policy, env)
        if task is None:
            raise InputError(f"{chosen.prompt}: is a goal given as a state, which has no reward to score")
    else:
        samples = min(10_000, len(policy.buffer.physics))
        prompted, task = promptfile.infer(
            Request("reward", chosen.reward or "", samples=samples, inference=chosen.inference), policy, env
        )
        assert task is not None
    scores, _ = prompt.score(prompted, task, env, chosen.episodes)
    print(evaluate.table({policy.agent_name: {task.name: scores}}))
    print(f"IQM and 95 % bootstrap interval of {chosen.episodes} episodes, one trained seed")
    if chosen.out:
        evaluate.write(chosen.out, {policy.agent_name: {task.name: scores.summary()}})
