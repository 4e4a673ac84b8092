"""A bundle on disk: sealed when it is written, verified byte for byte before anything of it runs.

manifest.json names every other file with its SHA-256; manifest.sha256 holds the digest of the manifest. A missing,
added or changed file, in a single bit, is an InputError.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import contract
from .contract import Contract
from .errors import InputError, nearest
from .files import npz_of

MANIFEST, SEAL = "manifest.json", "manifest.sha256"
CONTRACT, POLICY, MODEL = "contract.yaml", "policy.onnx", "robot/model.xml"
GOLDEN, STARTS = "golden/vectors.npz", "golden/starts.npz"
LARGEST = 2**31  # bytes of one file: a bundle is for a robot


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A verified bundle, in memory: what was verified is what runs."""

    directory: Path
    manifest: Mapping[str, Any]
    contract: Contract
    content: Mapping[str, bytes]  # file name -> what it holds

    @property
    def prompts(self) -> tuple[str, ...]:
        """Names of the prompts that travel along."""
        return tuple(name[8:-4] for name in self.content if name.startswith("prompts/"))

    def prompt(self, name: str) -> np.ndarray:
        """The latent of a prompt: [D], or [T, D] for a motion; width 0 for a policy with one task.

        Raises InputError for an unknown name and for a latent of the wrong shape or length.
        """
        if name not in self.prompts:
            raise InputError(f"prompt: the bundle has no '{name}'; {nearest(name, self.prompts)}")
        z = self.arrays(f"prompts/{name}.npz")["z"].astype(np.float32)
        check_latent(self.contract, z, f"prompt '{name}'")
        return z

    def provenance(self, name: str) -> dict[str, Any]:
        """Where a prompt comes from: request, hashes of model and buffer, scores. InputError as `prompt`."""
        self.prompt(name)
        return json.loads(str(self.arrays(f"prompts/{name}.npz")["provenance"]))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of one of the npz files."""
        if name not in self.content:
            raise InputError(f"{self.directory}: the bundle has no '{name}'; {nearest(name, self.content)}")
        return npz_of(self.content[name], f"{self.directory / name}")


def check_latent(agreed: Contract, z: np.ndarray, what: str) -> None:
    """Nothing; raises InputError where a latent does not fit the contract."""
    command = agreed.command
    if z.ndim not in (1, 2) or z.shape[-1] != command.width or 0 in z.shape[:-1]:
        raise InputError(f"{what}: must have shape ({command.width},) or (T, {command.width}), got {z.shape}")
    if not np.isfinite(z).all():
        raise InputError(f"{what}: holds a non-finite value")
    norms = np.linalg.norm(z, axis=-1)
    if command.width and not np.allclose(norms, command.norm, rtol=1e-3):
        raise InputError(f"{what}: must have length {command.norm:.6g}, got {np.max(norms):.6g}")


def load(directory: str | Path) -> Bundle:
    """The bundle in a directory, verified. Raises InputError naming the first file that is wrong."""
    directory = Path(directory)
    if not (directory / MANIFEST).is_file():
        raise InputError(f"{directory}: no bundle, it has no {MANIFEST}")
    raw = _bytes(directory / MANIFEST)
    if not (directory / SEAL).is_file() or _bytes(directory / SEAL) != seal_of(raw):
        raise InputError(f"{directory / MANIFEST}: does not match its checksum in {SEAL}; copy the bundle again")
    try:
        manifest = json.loads(raw)
        listed = dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{directory / MANIFEST}: is not the manifest of a bundle ({error!r})") from error
    if manifest.get("format") != contract.FORMAT:
        raise InputError(f"{directory / MANIFEST}: format {manifest.get('format')} is not {contract.FORMAT}")
    present = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
    for name in sorted(present ^ {*listed, MANIFEST, SEAL}):
        state = "is missing" if name in listed else "is not in the manifest"
        raise InputError(f"{directory / name}: {state}")
    content = {name: _bytes(directory / name) for name in listed}
    for name, digest in listed.items():
        if hashlib.sha256(content[name]).hexdigest() != digest:
            raise InputError(f"{directory / name}: does not match its checksum; copy the bundle again")
    return Bundle(directory, manifest, contract.read(directory / CONTRACT), content)


def seal(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Nothing; writes the manifest with the digest of every file that is there, and the digest of the manifest."""
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    files = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names}
    raw = json.dumps({"format": contract.FORMAT, **manifest, "files": files}, indent=1).encode() + b"\n"
    (directory / MANIFEST).write_bytes(raw)
    (directory / SEAL).write_bytes(seal_of(raw))


def seal_of(manifest: bytes) -> bytes:
    """The content of manifest.sha256, as sha256sum writes it."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _bytes(path: Path) -> bytes:
    if path.is_symlink():
        raise InputError(f"{path}: is a link; a bundle holds plain files")
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path}: is larger than {LARGEST} bytes")
    return path.read_bytes()
