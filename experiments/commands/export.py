"""`embodied export MODEL --out DIR [--prompt FILE ...] [--target NAME ...]`: a bundle that runs on a robot."""

import dataclasses
from pathlib import Path

import tyro

from embodied.export import targets
from embodied.types import Goal, InputError, Reward
from experiments import export
from experiments.models import resolve
from experiments.skills import is_skilled
from experiments.train import read_experiment


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What goes into the bundle."""

    model: tyro.conf.Positional[str]  # shipped model or run directory
    out: Path  # folder of the bundle; must not exist
    prompt: tuple[Path, ...] = ()  # prompt files; without any the tasks of the world, and some skills
    task: str | None = None  # of a policy with one task; without it the one in its run directory
    episodes: int = 50  # that each prompt is scored over
    # other runtimes that get their own files: unitree_rl, bfm_zero, mjlab, playground
    target: tyro.conf.UseAppendAction[tuple[str, ...]] = ()


def main(arguments: list[str]) -> None:
    """Exports, and prints the verdict of the runtime on the bundle."""
    chosen = tyro.cli(Arguments, args=arguments, prog="embodied export")
    if chosen.episodes < 1:
        raise InputError(f"episodes: must be at least 1, got {chosen.episodes}")
    for name in chosen.target:
        targets.module(name)  # a wrong name is told before anything is loaded
    policy, env = resolve(chosen.model)
    if "pixels" in policy.spec.obs:
        raise InputError("export: the policy acts on pixels; bundles hold policies that act on the state")
    if skills := policy.options.get("skills"):
        raise InputError(f"export: its actions are skills of '{skills}', which no robot knows; export that one")
    if {Reward, Goal} & set(policy.agent.prompts):
        if chosen.task is not None:
            raise InputError(f"task: '{policy.agent_name}' is told what to do by prompts; leave it out")
        prompts = export.choose_prompts(policy, env, chosen.prompt)
        if is_skilled(policy) and not chosen.prompt:
            prompts |= export.some_skills(policy, env)
    else:
        if chosen.prompt:
            raise InputError(f"prompt: '{policy.agent_name}' has one task and takes no prompt files")
        own = getattr(policy.config, "task", None)  # of one that has made its data for it
        task = chosen.task or own or read_experiment(Path(chosen.model))["experiment"]["task"]
        prompts = export.only_task(policy, env, task)
    verdict = export.run(policy, env, prompts, chosen.out, chosen.episodes, chosen.target)
    print(f"{chosen.out}: {', '.join(prompts)}")
    print(f"{verdict.steps} golden steps, actions differ by {verdict.action_error:.1e} at most")
    for name in chosen.target:
        print(f"{chosen.out / 'targets' / name}: gives the golden vectors again; what is different is in LIMITS.md")
    print(f"embodied deploy run {chosen.out} --prompt {next(iter(prompts))}")
