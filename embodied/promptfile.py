"""Prompt files: a latent with everything needed to infer it again, bit for bit.

A request says what is wanted (a reward text, a named task, a goal) and how it is inferred; the file adds the latent,
the hashes of model and buffer, and the returns that were predicted and measured.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from embodied.policy import Policy, Prompted, config_from_dict
from embodied.prompts import check_variant
from embodied.rewards import Task
from embodied.types import Env, Goal, InputError, Prompt, Quantities, Reward, nearest

Kind = Literal["reward", "task", "goal", "state", "row"]


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a policy."""

    kind: Kind
    text: str = ""  # reward text, or the name of a task
    goal: Mapping[str, float] = dataclasses.field(default_factory=dict)  # quantity -> wanted value (kind "goal")
    state: tuple[float, ...] = ()  # physics vector (kind "state")
    row: int = -1  # of the buffer (kind "row")
    width: float = 0.25  # of a goal's reward, in standard deviations of each quantity over the buffer
    samples: int = 10_000  # buffer rows that a reward is relabelled on
    seed: int = 0  # of the choice of rows
    inference: str = "plain"  # "plain", "ridge" or "softmax"
    ridge: float = 1e-3
    temperature: float = 10.0


def reward_task(request: Request, env: Env, quantities: Quantities) -> Task | None:
    """The task that a request amounts to, or None for goals given as observations."""
    declared = env.spec.quantities
    match request.kind:
        case "reward":
            return Task.of("prompt", request.text, declared)
        case "task":
            if request.text not in env.tasks:
                raise InputError(
                    f"task: world '{env.spec.name}' has no task '{request.text}'; {nearest(request.text, env.tasks)}"
                )
            return env.tasks[request.text]
        case "goal":
            return Task.of("prompt", goal_text(request.goal, env, quantities, request.width), declared)
    return None


def goal_text(goal: Mapping[str, float], env: Env, quantities: Quantities, width: float) -> str:
    """A reward text with a bump of the given relative width at the wanted value of each quantity."""
    if not goal:
        raise InputError("goal: names no quantity; write for example x=0.1,y=-0.2")
    terms = []
    for name, value in goal.items():
        declared = env.spec.quantities.get(name)
        if declared is None:
            raise InputError(f"goal: unknown quantity '{name}'; {nearest(name, env.spec.quantities)}")
        if declared.shape:
            raise InputError(f"goal: quantity '{name}' has shape {declared.shape}; name scalar quantities")
        if not np.isfinite(value):
            raise InputError(f"goal: the value of '{name}' must be finite, got {value}")
        scale = max(width * float(np.std(quantities[name])), 1e-6)
        terms.append(f"(({name} - ({value!r})) / {scale:.9f}) ** 2")
    return f"exp(-0.5 * ({' + '.join(terms)}))"


def make_prompt(request: Request, policy: Policy, env: Env) -> tuple[Prompt, Task | None]:
    """The prompt of a request, relabelled on the policy's buffer, and its task if it has one."""
    check_variant(request.inference)
    rows = len(policy.buffer.physics)
    if request.kind == "state":
        if len(request.state) != env.spec.physics:
            raise InputError(
                f"goal state: must have {env.spec.physics} numbers (the physics vector of world "
                f"'{env.spec.name}'), got {len(request.state)}"
            )
        obs, _ = env.observe(np.asarray(request.state, np.float64)[None])
        return Goal({name: jnp.asarray(leaf[0]) for name, leaf in obs.items()}), None
    if request.kind == "row":
        if not 0 <= request.row < rows:
            raise InputError(f"row: must be in [0, {rows}), the rows of the policy's buffer, got {request.row}")
        return Goal({name: jnp.asarray(leaf[request.row]) for name, leaf in policy.buffer.obs.items()}), None
    chosen, quantities = _sample(request, policy, env)
    task = reward_task(request, env, quantities)
    assert task is not None
    action = np.zeros((len(chosen), env.spec.action))
    reward = np.asarray(task(quantities, action, quantities), np.float32)
    obs = {name: jnp.asarray(leaf[chosen]) for name, leaf in policy.buffer.obs.items()}
    if float(reward.std()) < 1e-9:
        raise InputError(
            f"reward text: is constant ({float(reward[0]):g}) over the {len(chosen)} sampled states, so it asks for "
            "nothing; widen its margins"
        )
    return (
        Reward(obs, jnp.asarray(reward), request.inference, request.ridge, request.temperature),
        task,
    )


def _sample(request: Request, policy: Policy, env: Env) -> tuple[np.ndarray, Quantities]:
    """(rows of the buffer, their quantities) that a reward is relabelled on."""
    rows = len(policy.buffer.physics)
    if not 1 <= request.samples <= rows:
        raise InputError(f"samples: must be in [1, {rows}], the size of the policy's buffer, got {request.samples}")
    chosen = np.random.Generator(np.random.PCG64(request.seed)).permutation(rows)[: request.samples]
    return chosen, env.observe(policy.buffer.physics[chosen].astype(np.float64))[1]


def infer(request: Request, policy: Policy, env: Env) -> tuple[Prompted, Task | None]:
    """The prompted policy of a request, and its task if it has one."""
    prompt, task = make_prompt(request, policy, env)
    return policy.prompt(prompt, request.seed), task


def save(path: Path, request: Request, prompted: Prompted, scores: Mapping[str, Any]) -> None:
    """Nothing; writes the prompt file. float32 latents survive JSON exactly."""
    policy = prompted.policy
    body = {
        "request": dataclasses.asdict(request),
        "z": np.asarray(prompted.z, np.float64).tolist(),
        "world": policy.world,
        "agent": policy.agent_name,
        "model_sha256": policy.sha256,
        "buffer_sha256": policy.buffer.sha256,
        "scores": dict(scores),
    }
    body["request_sha256"] = hashlib.sha256(json.dumps(body["request"], sort_keys=True).encode()).hexdigest()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(path).with_suffix(".tmp")
    temporary.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def read(path: Path) -> tuple[Request, np.ndarray, dict[str, Any]]:
    """(request, z as float32, the whole file). Raises InputError naming what is missing."""
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such prompt file") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not a prompt file ({error.msg} in line {error.lineno})") from error
    for field in ("request", "z", "model_sha256", "buffer_sha256"):
        if field not in body:
            raise InputError(f"{path}: field '{field}' is missing")
    values = dict(body["request"])
    values["state"] = tuple(values.get("state", ()))
    return config_from_dict(Request, values, str(path)), np.asarray(body["z"], np.float32), body


def load(path: Path, policy: Policy, env: Env) -> tuple[Prompted, Task | None]:
    """The prompted policy that a file describes, and the task it was prompted with if that was a reward.

    Raises InputError where the file was made with another model or buffer.
    """
    request, z, body = read(path)
    for field, ours in (("model_sha256", policy.sha256), ("buffer_sha256", policy.buffer.sha256)):
        if body[field] != ours:
            raise InputError(f"{path}: {field} is {body[field][:12]}..., this policy has {ours[:12]}...")
    if request.kind in ("state", "row"):
        return Prompted(policy, z), None
    return Prompted(policy, z), reward_task(request, env, _sample(request, policy, env)[1])


def check(path: Path, policy: Policy, env: Env) -> None:
    """Nothing; raises InputError unless the file's latent follows, bit for bit, from this model and buffer."""
    z = load(path, policy, env)[0].z
    again, _ = infer(read(path)[0], policy, env)
    if again.z.shape != z.shape or not np.array_equal(again.z, z):
        gap = float(np.abs(again.z - z).max()) if again.z.shape == z.shape else float("nan")
        raise InputError(f"{path}: the latent does not follow from its request (largest difference {gap:g})")
