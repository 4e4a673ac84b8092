"""A JAX function as serialised StableHLO: for programs that run JAX but should not need this repository.

What was exported by one release of JAX is read by those of the following half year at least, and by older ones for
three weeks (the compatibility guarantee of jax.export).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from embodied.export.onnx_graph import input_shapes
from embodied.ranges import check_choice
from embodied.types import InputError

PLATFORMS = ("cpu", "cuda", "tpu")
KNOWN = ("cpu", "cuda", "rocm", "tpu")  # to jax.export


def to_stablehlo(
    function: Callable[..., Any], inputs: Mapping[str, Any], platforms: Sequence[str] = PLATFORMS
) -> bytes:
    """The function with all that it closes over, for arguments of the given shapes in their order.

    `inputs` holds a jax.ShapeDtypeStruct, or the shape of a float32 array, for each. Raises InputError for an
    unknown platform, and where the package flatbuffers is missing.
    """
    for platform in platforms:
        check_choice("export", "platform", platform, KNOWN)
    exported = jax.export.export(jax.jit(function), platforms=platforms)(*input_shapes(inputs).values())
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise _missing() from error


def from_stablehlo(data: bytes) -> Callable[..., Any]:
    """The function that was exported, for the platform that runs it.

    Only for bytes of known origin: they may call whatever is registered with JAX. Raises InputError for bytes that are
    no exported function, and where the package flatbuffers is missing.
    """
    try:
        return jax.export.deserialize(bytearray(data)).call
    except ImportError as error:
        raise _missing() from error
    except Exception as error:  # the reader follows whatever offsets it finds
        raise InputError(f"export: damaged StableHLO, or not written by to_stablehlo ({error})") from error


def _missing() -> InputError:
    return InputError('export: the package flatbuffers is missing; pip install "embodied-stack[export]"')
