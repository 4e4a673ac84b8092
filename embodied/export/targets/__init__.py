"""Files for runtimes that others wrote, generated from the contract of a bundle and checked against its golden vectors.

A target is a module with
    FILL                    what its runtime puts for frames before the first
    LACKS                   what it does not protect from, one sentence each
    check(contract)         raises InputError for what its runtime cannot do
    write(bundle, out)      writes the files, and gives sentences on what they leave open
    read(out, contract, prompts)  what the runtime makes of the files, for the replay
"""

import importlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embodied.deploy.bundle import Bundle
from embodied.deploy.contract import Contract
from embodied.deploy.errors import InputError, nearest
from embodied.deploy.verify import Verdict, tolerance_of
from embodied.export.targets.terms import components, filled_otherwise

TARGETS = {
    "unitree_rl": "embodied.export.targets.unitree_rl",
    "bfm_zero": "embodied.export.targets.bfm_zero",
    "mjlab": "embodied.export.targets.mjlab",
    "playground": "embodied.export.targets.playground",
}
LIMITS = "LIMITS.md"


def module(target: str) -> Any:
    """The module of a target; raises InputError with the nearest name otherwise, and where a package is missing."""
    if target not in TARGETS:
        raise InputError(f"target: unknown target '{target}'; {nearest(target, TARGETS)}")
    try:
        return importlib.import_module(TARGETS[target])
    except ModuleNotFoundError as error:
        raise InputError(
            f'export: the package {error.name} is missing; pip install "embodied-stack[export]"'
        ) from error


def check(contract: Contract, targets: Iterable[str]) -> None:
    """Nothing; raises InputError for an unknown target, and for what a target cannot express of a contract."""
    for target in targets:
        chosen = module(target)
        try:
            chosen.check(contract)
        except InputError as error:
            raise InputError(f"target {target}: {error}") from None


def write(bundle: Bundle, target: str, out: Path) -> Verdict:
    """The verdict of the golden vectors on the new folder `out`, which is complete or not there at all.

    Raises InputError for an unknown target, for what it cannot express, and where golden vectors are not reproduced.
    """
    check(bundle.contract, [target])
    if out.exists():
        raise InputError(f"target {target}: {out} exists; choose another folder, or remove it")
    chosen = module(target)
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        remarks = chosen.write(bundle, temporary)
    except InputError as error:
        raise InputError(f"target {target}: {error}") from None
    (temporary / LIMITS).write_text(_limits(bundle.contract, target, remarks), encoding="utf-8")
    verdict = _verify(bundle, chosen.read(temporary, bundle.contract, bundle.prompts))
    if not verdict.passed:
        raise InputError(f"target {target}: the files in {temporary} do not give the golden vectors again: {verdict}")
    temporary.rename(out)
    return verdict


def _verify(bundle: Bundle, read: Iterable[Any]) -> Verdict:
    """The worst that the replays of a target say."""
    from embodied.export.targets.replay import replay

    verdicts = [replay(bundle, foreign) for foreign in read]
    return Verdict(
        steps=min(one.steps for one in verdicts),
        unequal=max(one.unequal for one in verdicts),
        action_error=max(one.action_error for one in verdicts),
        target_error=max(one.target_error for one in verdicts),
        tolerance=tolerance_of(bundle),
    )


def _limits(contract: Contract, target: str, remarks: Iterable[str]) -> str:
    """The page beside the files that says what is different in the runtime of a target."""
    chosen = module(target)
    late: dict[str, int] = {}
    for (_, term), steps in zip(components(contract), filled_otherwise(contract, chosen.FILL), strict=True):
        late[term.name] = max(late.get(term.name, 0), int(steps))
    fills = {"zeros": "zeros", "repeat_first": "the first one again"}
    trained = {term.name: fills[term.history.reset_fill] for term in contract.observation.terms}
    lines = [
        f"Term '{name}', for {steps} step{'s' * (steps > 1)} after a reset: frames before the first are "
        f"{fills[chosen.FILL]} here, and were {trained[name]} in training."
        for name, steps in late.items()
        if steps
    ]
    lines += [*remarks, *chosen.LACKS]
    return f"# What is different in {target}\n\n" + "".join(f"- {line}\n" for line in lines)
