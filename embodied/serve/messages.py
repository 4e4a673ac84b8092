"""Messages of the policy server, in the form of openpi: one msgpack map from names to values.

An array is the map {b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [..]}, a NumPy scalar
{b"__npgeneric__": True, b"data": number, b"dtype": "<f4"}. Beside them: numbers, texts, truth values, lists, and maps
with text names. A stranger may send anything, so the structure is walked through first, without building any of it;
what passes holds at most `MAX_VALUES` values on `MAX_DEPTH` levels, and its arrays are views of the message.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from embodied.types import InputError

MAX_BYTES = 16 * 2**20  # of a message
MAX_VALUES = 4096  # keys and entries of all maps and lists; an array is at least eight of them
MAX_DEPTH = 8  # maps and lists inside each other; an array is two
MAX_AXES = 8  # of an array

_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
DTYPES = {dtype.str: dtype for code, order in itertools.product(_CODES, "<>") if (dtype := np.dtype(order + code))}

_ARRAY = {b"__ndarray__", b"data", b"dtype", b"shape"}
_SCALAR = {b"__npgeneric__", b"data", b"dtype"}

# First byte of a value -> what follows it. Extension types and 0xc1 are in none of these tables, and refused.
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}  # bytes: nil, false, true, floats
_FIXED |= {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}  # integers
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # width of the length of bytes and texts
_HOLDING = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # width of the count, values per entry


class MessageError(InputError):
    """A message that is not in the form described here, or exceeds a limit."""


def pack(message: Mapping[str, Any]) -> bytes:
    """The bytes of a message. Raises MessageError for arrays that are neither numbers nor truth values."""
    return msgpack.packb(message, default=_plain)


def unpack(data: bytes) -> dict[str, Any]:
    """The message in `data`; arrays are read-only views of it. Raises MessageError, and no other error."""
    if len(data) > MAX_BYTES:
        raise MessageError(f"message: has {len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        _walk(data)
        message = msgpack.unpackb(data, object_hook=_from_map)
    except MessageError:
        raise
    except ValueError as error:  # a text that is not UTF-8, or a key of another type
        raise MessageError(f"message: is not valid msgpack ({error})") from None
    if not isinstance(message, dict):
        raise MessageError(f"message: must be a map from names to values, got {type(message).__name__}")
    return message


def _walk(data: bytes) -> None:
    """Nothing; raises MessageError unless `data` is exactly one msgpack value within the limits."""
    at, values = 0, 1
    missing = [1]  # values still to come, on each level
    while missing:
        if not missing[-1]:
            missing.pop()
            continue
        missing[-1] -= 1
        length, size, inside = _head(data, at)
        at += length + size
        values += inside
        if at > len(data):
            raise MessageError("message: is cut off")
        if values > MAX_VALUES:
            raise MessageError(f"message: holds more than {MAX_VALUES} values")
        if inside:
            missing.append(inside)
            if len(missing) > MAX_DEPTH + 1:
                raise MessageError(f"message: is nested more than {MAX_DEPTH} deep")
    if at < len(data):
        raise MessageError(f"message: {len(data) - at} bytes follow its end")


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """(bytes of the head, bytes of content behind it, values inside) of the msgpack value that begins at `at`."""
    first = data[at] if at < len(data) else 0  # whoever runs past the end is told so by `_walk`
    if first < 0x80 or first >= 0xE0:
        return 1, 0, 0
    if first < 0x90:
        return 1, 0, 2 * (first & 0x0F)
    if first < 0xA0:
        return 1, 0, first & 0x0F
    if first < 0xC0:
        return 1, first & 0x1F, 0
    if first in _FIXED:
        return 1, _FIXED[first], 0
    if first in _SIZED:
        width = _SIZED[first]
        return 1 + width, int.from_bytes(data[at + 1 : at + 1 + width]), 0
    if first in _HOLDING:
        width, per_entry = _HOLDING[first]
        return 1 + width, 0, per_entry * int.from_bytes(data[at + 1 : at + 1 + width])
    raise MessageError(f"message: byte {first:#04x} begins an extension type; arrays, numbers and texts are taken")


def _from_map(value: dict[Any, Any]) -> Any:
    """The array or scalar that a map stands for, or the map itself."""
    if b"__ndarray__" in value:
        return _array(value)
    if b"__npgeneric__" in value:
        return _scalar(value)
    for name in value:
        if not isinstance(name, str):
            raise MessageError(f"message: names must be texts, got {name!r:.40}")
    return value


def _array(value: dict[Any, Any]) -> np.ndarray:
    if value.keys() != _ARRAY:
        raise MessageError("array: must have exactly '__ndarray__', 'data', 'dtype' and 'shape'")
    dtype, data, shape = _dtype("array", value[b"dtype"]), value[b"data"], value[b"shape"]
    if not isinstance(data, bytes):
        raise MessageError(f"array: data must be bytes, got {type(data).__name__}")
    if not isinstance(shape, list) or len(shape) > MAX_AXES:
        raise MessageError(f"array: shape must be a list of at most {MAX_AXES} numbers, got {shape!r:.60}")
    if not all(type(length) is int and 0 <= length <= MAX_BYTES for length in shape):
        raise MessageError(f"array: shape must hold whole numbers in [0, {MAX_BYTES}], got {shape!r:.60}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise MessageError(f"array: shape {tuple(shape)} of {dtype.str} does not fit into {len(data)} bytes")
    return np.ndarray(shape, dtype, data)


def _scalar(value: dict[Any, Any]) -> np.generic:
    if value.keys() != _SCALAR:
        raise MessageError("scalar: must have exactly '__npgeneric__', 'data' and 'dtype'")
    dtype, data = _dtype("scalar", value[b"dtype"]), value[b"data"]
    if type(data) not in (bool, int, float):
        raise MessageError(f"scalar: data must be a number, got {type(data).__name__}")
    try:
        with np.errstate(over="raise"):
            return dtype.type(data)
    except (ArithmeticError, ValueError):  # 300 as an unsigned byte; NaN as an integer
        raise MessageError(f"scalar: {data!r:.40} is no {dtype.name}") from None


def _dtype(owner: str, name: Any) -> np.dtype[Any]:
    # Looked up, never parsed: NumPy's own language of dtypes has records, objects and sub-arrays.
    if not isinstance(name, str) or name not in DTYPES:
        raise MessageError(f"{owner}: dtype must be one of {', '.join(DTYPES)}; got {name!r:.40}")
    return DTYPES[name]


def _plain(value: Any) -> dict[bytes, Any]:
    """What msgpack packs in place of an array or a NumPy scalar."""
    if not isinstance(value, np.ndarray | np.generic):
        raise MessageError(f"message: cannot hold a value of type {type(value).__name__}")
    if value.dtype.str not in DTYPES:
        raise MessageError(f"message: arrays hold numbers or truth values, got dtype {value.dtype}")
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
