"""Plain files: JSON checked against the dataclass that it fills, and archives of arrays.

Whatever is wrong with a file is an InputError that names the file, the field, what was expected and what came.
"""

import dataclasses
import io
import json
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from .errors import InputError, nearest

# Annotation -> what JSON gives for it, in Python and in words. True is an int to Python, but not to a user.
_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    tuple: ((list, tuple), "a list"),
    Mapping: ((dict,), "an object with named fields"),
}


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file; `what` says in errors what the file should be."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected {what}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected {what}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); expected {what}") from error


def write_json(path: Path, value: Any) -> None:
    """Nothing; writes with sorted names, so that equal values give equal files."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_npz(path: Path, what: str) -> dict[str, np.ndarray]:
    """The arrays in an npz file; `what` says in errors what it should be part of."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected {what}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected {what}") from error
    return npz_of(content, f"{path}")


def npz_of(content: bytes, where: str) -> dict[str, np.ndarray]:
    """The arrays in the bytes of an npz file. Raises InputError naming `where`; nothing is unpickled."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, TypeError, OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(f"{where}: damaged or not an npz of plain arrays ({error})") from error


def from_json(kind: type, values: Any, where: str, within: str = "") -> Any:
    """The dataclass `kind` filled from a JSON object, dataclasses in it included.

    Raises InputError naming `where` and the field that is unknown, missing, or not of its annotation; `within` is put
    before the names of fields.
    """
    if not isinstance(values, Mapping):
        place = f"field '{within[:-1]}' " if within else ""
        raise InputError(f"{where}: {place}must be an object with named fields, got {_shown(values)}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            owner = f"{kind.__module__}.{kind.__name__}"
            raise InputError(f"{where}: unknown field '{within}{name}' of {owner}; {nearest(name, fields)}")
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in values and not optional:
            raise InputError(f"{where}: field '{within}{name}' is missing; expected {', '.join(fields)}")
    hints = get_type_hints(kind)
    made = {name: _value(hints[name], value, where, within + name) for name, value in values.items()}
    try:
        return kind(**made)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _value(hint: Any, value: Any, where: str, name: str) -> Any:
    """`value` as the annotation `hint` wants it, or InputError."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return value
    if origin is types.UnionType:  # `X | None`, the only union in use
        return None if value is None else _value(arguments[0], value, where, name)
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, where, f"{name}.")
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where}: field '{name}' is {_shown(value)}; {nearest(str(value), arguments)}")
        return value
    accepted, expected = _KINDS[origin]
    if type(value) not in accepted:
        raise InputError(f"{where}: field '{name}' must be {expected}, got {_shown(value)}")
    if origin is float:
        return float(value)  # JSON writers drop the point of 1.0
    if origin is tuple:
        return tuple(_value(arguments[0], one, where, f"{name}[{i}]") for i, one in enumerate(value))
    if origin is Mapping:
        return {key: _value(arguments[1], one, where, f"{name}.{key}") for key, one in value.items()}
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
