"""`embodied export`: a trained policy with its prompts as a bundle, scored, recorded and verified."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from embodied import promptfile
from embodied.deploy.contract import Command, Contract
from embodied.deploy.observation import Assembler, scaling
from embodied.deploy.verify import Verdict
from embodied.evaluate import EvaluateConfig
from embodied.export import bundle, targets
from embodied.export.bundle import Golden, PackedPrompt, action_vectors
from embodied.policy import Policy, Prompted
from embodied.promptfile import Request
from embodied.rewards import Task
from embodied.rollout import Trajectory, still_behaviour
from embodied.types import InputError, Obs, Prior, nearest
from envs.contract import contract_of, read
from envs.host import HostEnv
from experiments import falls, results
from experiments.prompt import approach, score

GOLDEN_STEPS = 1000  # at least so many are recorded
STARTS = 100


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Something that the bundle can be told to do."""

    prompted: Prompted
    task: Task | None  # what it is scored on; None for goals given as observations
    goal: Obs | None
    provenance: Mapping[str, Any]


def run(
    policy: Policy,
    env: HostEnv,
    chosen: Mapping[str, Chosen],
    out: Path,
    episodes: int,
    others: Sequence[str] = (),
) -> Verdict:
    """The verdict on the new bundle, whose prompts are `chosen` and are scored over `episodes`.

    `others` names the other runtimes that get their files. Raises InputError for an agent that cannot be exported, for
    what another runtime cannot express, and where `out` exists.
    """
    if out.exists():
        raise InputError(f"out: {out} exists; choose another folder, or remove it")
    width = next(iter(chosen.values())).prompted.z.shape[-1]
    contract = contract_of(env.world, Command(width, float(np.sqrt(width))))
    targets.check(contract, others)
    packed, trajectories, scores = {}, {}, {}
    for name, one in chosen.items():
        if one.task is not None:
            result, trajectories[name] = score(one.prompted, one.task, env, episodes, behaviour=still_behaviour)
            scores[name] = result.summary()
            fallen = falls.down(trajectories[name].path, env.spec.control_dt)
            scores[name] |= {} if fallen is None else {"down": falls.share(fallen)}
        else:
            assert one.goal is not None
            reached = approach(one.prompted, one.goal, env, episodes, behaviour=still_behaviour)
            scores[name], trajectories[name] = reached
        packed[name] = PackedPrompt(one.prompted.z, {**one.provenance, "evaluated": scores[name]})
    starts = env.reset(jax.random.key(EvaluateConfig().seed), STARTS).physics[:, : env.world.ctrl.start]
    manifest = {
        "world": {"name": policy.world, "options": dict(policy.options)},
        "evaluation": {"episodes": episodes, "control_steps": env.spec.episode_length, "prompts": scores},
        "source": {"commit": results.commit(), "params_sha256": policy.params_sha256},
    }
    golden = record(env, contract, trajectories, {name: one.prompted.z for name, one in chosen.items()})
    xml, states = env.world.source.xml, np.asarray(starts)
    return bundle.write(out, policy, contract, xml, packed, golden, states, manifest, others)


def choose_prompts(policy: Policy, env: HostEnv, files: Sequence[Path]) -> dict[str, Chosen]:
    """Name -> prompt: the given prompt files, or without any the tasks of the world.

    Raises InputError for files of another model, and for two of one name.
    """
    chosen = {}
    for path in files:
        if path.stem in chosen:
            raise InputError(f"prompt: two files are called '{path.stem}'; names in a bundle must differ")
        prompted, task = promptfile.load(path, policy, env)
        content = promptfile.read(path)
        asked, _ = promptfile.make_prompt(content.request, policy, env)
        chosen[path.stem] = Chosen(prompted, task, getattr(asked, "obs", None), _provenance(content))
    samples = min(10_000, len(policy.buffer.physics))
    for name in () if files else env.tasks:
        request = Request("task", name, samples=samples)
        prompted, task = promptfile.infer(request, policy, env)
        chosen[name] = Chosen(prompted, task, None, _provenance(promptfile.describe(request, prompted, {})))
    return chosen


def only_task(policy: Policy, env: HostEnv, task: str) -> dict[str, Chosen]:
    """The one prompt of a policy with one task, under the name of that task. Raises InputError for an unknown one."""
    if task not in env.tasks:
        raise InputError(f"task: world '{env.spec.name}' has no task '{task}'; {nearest(task, env.tasks)}")
    provenance = {"model_sha256": policy.sha256, "task": task}
    return {task: Chosen(policy.prompt(Prior()), env.tasks[task], None, provenance)}


def some_skills(policy: Policy, env: HostEnv, count: int = 8) -> dict[str, Chosen]:
    """Skills of the prior, "skill_0" and so on, each scored on the first task that the policy was paid for."""
    task = env.tasks[next(iter((*policy.config.channels, *env.tasks)))]
    provenance = {"model_sha256": policy.sha256}
    return {
        f"skill_{seed}": Chosen(policy.prompt(Prior(), seed), task, None, provenance | {"prior": seed})
        for seed in range(count)
    }


def _provenance(content: promptfile.PromptFile) -> dict[str, Any]:
    fields = dataclasses.asdict(content)
    return {name: fields[name] for name in fields if name != "z"}


def record(
    env: HostEnv, contract: Contract, trajectories: Mapping[str, Trajectory], latents: Mapping[str, np.ndarray]
) -> Golden:
    """Golden vectors of the first episodes of each prompt, at least `GOLDEN_STEPS` in all.

    Raises InputError where the contract's assembled observations are not the ones that the agent was given.
    """
    decisions = env.spec.decisions
    episodes = -(-GOLDEN_STEPS // (decisions * len(trajectories)))
    parts: list[Golden] = []
    for name, trajectory in trajectories.items():
        for episode in range(min(episodes, len(trajectory.action))):
            one = jax.tree.map(lambda leaf, e=episode: np.asarray(leaf[e]), trajectory)
            parts.append(_episode(env, contract, one, latents[name]))
    return Golden(*(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True)))


def _episode(env: HostEnv, contract: Contract, one: Trajectory, z: np.ndarray) -> Golden:
    physics, action = one.physics[:-1], np.clip(one.action, -1, 1)
    readings = read(env.world, physics, env.sensordata(physics), contract)
    last = np.concatenate([np.zeros_like(action[:1]), action[:-1]])
    assembler = Assembler(contract)
    obs = np.stack([assembler.observe(*pair) for pair in zip(readings, last, strict=True)])
    low, scale, high = scaling(contract)
    apart = np.abs(np.clip(obs, low, high) * scale - one.obs["state"][:-1]).max()
    if apart > 1e-5:
        raise InputError(f"export: the contract's observation differs from the world's by {apart:.1e}")
    unit, offset, least, most = action_vectors(contract.action)
    walked = z if z.ndim == 1 else z[np.minimum(np.arange(len(action)), len(z) - 1)]
    return Golden(
        readings=readings,
        last_action=last,
        obs=obs,
        z=np.broadcast_to(walked, (len(action), z.shape[-1])).astype(np.float32),
        action=action,
        target=np.clip(offset + unit * action, least, most),
        reset=np.arange(len(action)) == 0,
    )
