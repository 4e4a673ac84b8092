"""A policy, its prompts and the contract of its robot, written as a bundle that runs without JAX.

The graph holds all arithmetic between the readings and the motors: scales and clips of the observation terms, the
agent's own normaliser and networks, clip to [-clip, clip], a guard (an action that is not finite becomes 0), scale,
offset and limits of the targets. A runtime only assembles readings and remembers frames.
"""

import dataclasses
import datetime
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from embodied.deploy import bundle as layout
from embodied.deploy import contract as contracts
from embodied.deploy.contract import Action, Contract
from embodied.deploy.observation import scaling
from embodied.deploy.verify import Verdict, verify
from embodied.export import targets as others
from embodied.export.onnx_graph import to_onnx
from embodied.export.stablehlo import to_stablehlo
from embodied.policy import Policy
from embodied.types import Goal, InputError, Prior

ENCODER, STABLEHLO, README = "encoder.onnx", "policy.stablehlo", "README.md"


@dataclasses.dataclass(frozen=True)
class PackedPrompt:
    """A prompt as it travels in a bundle."""

    z: np.ndarray  # [D], or [T, D]
    provenance: Mapping[str, Any]  # JSON


@dataclasses.dataclass(frozen=True)
class Golden:
    """Recorded steps [T, ...]: what the robot measured, and what the agent's own `act` did with it in JAX."""

    readings: np.ndarray  # float64 [T, R]
    last_action: np.ndarray  # [T, A]
    obs: np.ndarray  # float32 [T, N]
    z: np.ndarray  # float32 [T, D]
    action: np.ndarray  # float32 [T, A]
    target: np.ndarray  # [T, A]
    reset: np.ndarray  # bool [T], the first step of an episode


def deployed(policy: Policy, contract: Contract) -> Callable[..., tuple[Array, Array, Array]]:
    """The function in policy.onnx: (obs [1,N], z [1,D]) -> (action [1,A], target [1,A], finite [1]).

    Without z for a policy with one task. Raises InputError for an agent that remembers more than its contract's frames.
    """
    policy = in_float32(policy)
    if remembers(policy):
        raise InputError(f"export: '{policy.agent_name}' carries a memory from step to step, which a graph cannot")
    memory = policy.agent.carry(1)  # which is not read
    inputs = network_inputs(contract)
    rescale, bound = np.float32(contract.action.rescale), np.float32(contract.action.clip)
    unit, offset, least, most = action_vectors(contract.action)

    def run(obs: Float[Array, "1 N"], z: Float[Array, "1 D"]) -> tuple[Array, Array, Array]:
        raw, _ = policy.agent.act(policy.params, {"state": inputs(obs)}, z, memory, None)
        finite = jnp.where(jnp.isfinite(raw), 1.0, 0.0).min(axis=1)
        action = rescale * jnp.clip(jnp.where(finite[:, None] > 0, raw, 0.0), -bound, bound)
        target = jnp.clip(offset[None] + unit[None] * action, least[None], most[None])
        return action, target, finite

    if contract.command.width:
        return run
    return lambda obs: run(obs, jnp.zeros((1, 0)))


def remembers(policy: Policy) -> bool:
    """Whether actions without a key rest on what the agent carries from step to step."""
    obs = {"state": jnp.zeros((1, *policy.spec.obs["state"]))}
    z = jax.eval_shape(policy.agent.prompt, policy.params, Prior(), jax.random.key(0))

    def act(carry: Any) -> Array:
        return policy.agent.act(policy.params, obs, jnp.zeros(z.shape), carry, None)[0]

    jaxpr = jax.make_jaxpr(act)(policy.agent.carry(1)).jaxpr
    read = {id(atom) for equation in jaxpr.eqns for atom in equation.invars}
    return not read.isdisjoint(map(id, jaxpr.invars))


def network_inputs(contract: Contract) -> Callable[[Array], Array]:
    """The function from unscaled terms [1, N] to what the agent was trained on, with no more nodes than it needs."""
    low, scale, high = (part.astype(np.float32) for part in scaling(contract))

    def run(obs: Array) -> Array:
        x = jnp.clip(obs, low[None], high[None]) if np.isfinite(high).any() else obs
        return x if (scale == 1).all() else x * scale[None]

    return run


def action_vectors(action: Action) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(scale, offset, low, high) [A] in float32, in the policy's order."""
    scale, offset = (np.array([part[n] for n in action.names], np.float32) for part in (action.scale, action.offset))
    low, high = np.array([action.limit[name] for name in action.names], np.float32).T
    return scale, offset, low, high


def goal_encoder(policy: Policy, contract: Contract) -> Callable[[Array], tuple[Array]] | None:
    """The function in encoder.onnx: obs [1,N] of a goal -> its latent z [1,D].

    None for an agent without goals, and for one whose goals need privileged observations, which no robot has.
    """
    policy = in_float32(policy)
    if Goal not in policy.agent.prompts or "privileged" in policy.spec.obs:
        return None
    inputs = network_inputs(contract)

    def encode(obs: Float[Array, "1 N"]) -> tuple[Array]:
        return (policy.agent.prompt(policy.params, Goal({"state": inputs(obs)[0]}), jax.random.key(0))[None],)

    return encode


def in_float32(policy: Policy) -> Policy:
    """The policy with matrix products in float32: robots have no bfloat16 units."""
    if getattr(policy.config, "matmul", "float32") == "float32":
        return policy
    return dataclasses.replace(policy, config=dataclasses.replace(policy.config, matmul="float32"))


def write(
    out: Path,
    policy: Policy,
    contract: Contract,
    model_xml: str,
    prompts: Mapping[str, PackedPrompt],
    golden: Golden,
    starts: np.ndarray,
    manifest: Mapping[str, Any],
    targets: Sequence[str] = (),
) -> Verdict:
    """The verdict of this machine's runtime on the new bundle; the folder is complete or not there at all.

    `starts` [S, P] are full physics states in which episodes begin; `targets` names other runtimes, whose files go to
    targets/. Raises InputError where `out` exists, where the golden vectors are not reproduced, and for what a target
    cannot express.
    """
    if out.exists():
        raise InputError(f"out: {out} exists; choose another folder, or remove it")
    others.check(contract, targets)
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for folder in ("prompts", "golden", "robot"):
        (temporary / folder).mkdir(parents=True)
    (temporary / layout.CONTRACT).write_text(contracts.write(contract), encoding="utf-8")
    (temporary / layout.MODEL).write_text(model_xml, encoding="utf-8")
    _write_graphs(temporary, policy, contract)
    for name, prompt in prompts.items():
        z = np.asarray(prompt.z, np.float32)
        np.savez(temporary / "prompts" / f"{name}.npz", z=z, provenance=json.dumps(prompt.provenance, sort_keys=True))
    np.savez(temporary / layout.GOLDEN, **vars(golden))
    np.savez(temporary / layout.STARTS, physics=starts)
    (temporary / README).write_text(readme(policy, contract, tuple(prompts)), encoding="utf-8")
    described = {
        "robot": contract.robot.name,
        "agent": policy.agent_name,
        "model_sha256": policy.sha256,
        "tolerance": policy.agent.tolerance,
        "licence": "Apache-2.0",
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        **manifest,
    }
    layout.seal(temporary, described)
    verdict = verify(layout.load(temporary))
    if not verdict.passed:
        raise InputError(f"export: the bundle in {temporary} does not give its golden vectors again: {verdict}")
    _write_targets(temporary, targets, described)
    temporary.rename(out)
    return verdict


def _write_graphs(folder: Path, policy: Policy, contract: Contract) -> None:
    obs = {"obs": (1, contract.width)}
    inputs = obs | ({"z": (1, contract.command.width)} if contract.command.width else {})
    function = deployed(policy, contract)
    graph = to_onnx(function, inputs, ("action", "target", "finite"), metadata(policy, contract))
    (folder / layout.POLICY).write_bytes(graph.SerializeToString(deterministic=True))
    (folder / STABLEHLO).write_bytes(to_stablehlo(function, inputs))
    encode = goal_encoder(policy, contract)
    if encode is not None:
        (folder / ENCODER).write_bytes(to_onnx(encode, obs, ("z",)).SerializeToString(deterministic=True))


def _write_targets(folder: Path, names: Sequence[str], described: Mapping[str, Any]) -> None:
    """Writes what is made of the sealed bundle for other runtimes, and seals it again with that."""
    if not names:
        return
    sealed = layout.load(folder)
    verdicts = {name: dataclasses.asdict(others.write(sealed, name, folder / "targets" / name)) for name in names}
    for name in (layout.MANIFEST, layout.SEAL):
        (folder / name).unlink()
    layout.seal(folder, {**described, "targets": verdicts})


def metadata(policy: Policy, contract: Contract) -> dict[str, str]:
    """What the graph says of itself, under the names that mjlab and its readers use; all in the order of the action."""
    robot, action = contract.robot, contract.action
    listed = lambda numbers: ",".join(repr(float(number)) for number in numbers)  # noqa: E731
    described = {
        "run_path": policy.sha256,
        "command_names": "z" if contract.command.width else "",
        "observation_names": ",".join(term.name for term in contract.observation.terms),
        "action_scale": listed(action.scale[name] for name in action.names),
    }
    if action.target == "actuator_command":
        return described | {"actuator_names": ",".join(action.names)}
    return described | {
        "joint_names": ",".join(action.names),
        "joint_stiffness": listed(robot.kp.get(name, 0.0) for name in action.names),
        "joint_damping": listed(robot.kd.get(name, 0.0) for name in action.names),
        "default_joint_pos": listed(robot.default_position.get(name, 0.0) for name in action.names),
    }


def readme(policy: Policy, contract: Contract, prompts: tuple[str, ...]) -> str:
    """The page that travels with a bundle."""
    estimated = [reading.name for reading in contract.readings if reading.available == "needs_estimator"]
    needs = (
        f"This robot needs an estimator for {', '.join(estimated)}: no sensor gives them."
        if estimated
        else "All readings come from sensors of the robot."
    )
    safety = contract.safety
    tilt = "is not watched" if safety.tilt is None else f"over {safety.tilt} rad stops it too"
    return f"""# {contract.robot.name}: {policy.agent_name}

A policy for the robot '{contract.robot.name}', one decision every {contract.timing.control_dt:g} s.
Prompts: {", ".join(prompts) or "none"}.

    python -m embodied.deploy verify .
    python -m embodied.deploy run . {f"--prompt {prompts[0]}" if prompts else ""}

`contract.yaml` says what goes in and out, by name. `policy.onnx` takes the unscaled terms one after the other as "obs"
{'and a latent "z" ' if contract.command.width else ""}and gives "action", "target" (within its limits) and "finite".
{needs}

The runtime that comes with it damps the robot, for good, when the newest state is older than {safety.stale_ms:g} ms,
after {safety.late_limit} inferences in a row over {safety.deadline_ms:g} ms, and after two actions in a row that are no
numbers. Tilt {tilt}. Other runtimes have what they have: inside the graph are only the limits of
targets and the guard against actions that are no numbers.
"""
