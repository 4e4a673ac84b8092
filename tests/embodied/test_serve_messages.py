"""Messages in openpi's form: what goes in comes out, and nothing that a stranger sends costs more than its own size."""

import random
import tracemalloc

import msgpack
import numpy as np
import pytest

from embodied.serve.messages import DTYPES, MAX_BYTES, MAX_DEPTH, MAX_VALUES, MessageError, pack, unpack

ARRAY = {b"__ndarray__": True, b"data": bytes(8), b"dtype": "<f4", b"shape": [2]}
SCALAR = {b"__npgeneric__": True, b"data": 1, b"dtype": "<i4"}


def changed(form, **fields):
    """A message with one array or scalar, some of its fields replaced or, where None, left out."""
    values = form | {name.encode(): value for name, value in fields.items()}
    return msgpack.packb({"x": {name: value for name, value in values.items() if value is not None}})


def test_bytes_are_those_of_openpi():
    message = {"state": np.array([1.0, -2.0], np.float32), "n": np.int64(7), "prompt": "go", "on": True, "list": [1, 2]}
    data = np.array([1.0, -2.0], "<f4").tobytes()
    form = {
        "state": {b"__ndarray__": True, b"data": data, b"dtype": "<f4", b"shape": (2,)},
        "n": {b"__npgeneric__": True, b"data": 7, b"dtype": "<i8"},
        "prompt": "go",
        "on": True,
        "list": [1, 2],
    }
    assert pack(message) == msgpack.packb(form)
    back = unpack(msgpack.packb(form))
    np.testing.assert_array_equal(back["state"], message["state"])
    assert [back[name] for name in ("n", "prompt", "on", "list")] == [7, "go", True, [1, 2]]
    assert back["n"].dtype == np.int64


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 1, 3)])
def test_arrays_of_numbers_and_truth_values_come_back(name, shape):
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2, DTYPES[name])
    back = unpack(pack({"x": array.T}))["x"]
    np.testing.assert_array_equal(back, array.T)
    assert (back.dtype, back.shape) == (array.dtype, array.T.shape)


@pytest.mark.parametrize("value", [np.array([object()]), np.zeros(1, "c8"), np.zeros(1, "V3"), np.zeros(1, "i4,f4")])
def test_arrays_of_anything_else_are_not_sent(value):
    with pytest.raises(MessageError, match="arrays hold numbers or truth values, got dtype"):
        pack({"x": value})
    with pytest.raises(MessageError, match="cannot hold a value of type set"):
        pack({"x": {1, 2}})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "message: is cut off"),
        (b"\x80\x80", "message: 1 bytes follow its end"),
        (b"\x93\x01\x02", "message: is cut off"),
        (b"\xc4\xff", "message: is cut off"),
        (b"\xc6\xff\xff\xff\xff\x00", "message: is cut off"),
        (b"\xc1", "byte 0xc1 begins an extension type"),
        (b"\xd6\xff\x00\x00\x00\x01", "byte 0xd6 begins an extension type"),
        (b"\xc7\x00\x01", "byte 0xc7 begins an extension type"),
        (b"\xdd\xff\xff\xff\xff", f"holds more than {MAX_VALUES} values"),
        (b"\xdf\x00\x01\x00\x00", f"holds more than {MAX_VALUES} values"),
        (b"\x91" * 100_000, f"nested more than {MAX_DEPTH} deep"),
        (b"\x81\xa1a" * 100_000, f"nested more than {MAX_DEPTH} deep"),
        (b"\x01", "must be a map from names to values, got int"),
        (b"\x81\x01\x02", "is not valid msgpack"),
        (b"\x81\xa1\xff\x02", "is not valid msgpack"),
        (b"\x81\xc4\x01a\x02", "names must be texts, got b'a'"),
        (bytes(MAX_BYTES + 1), f"has {MAX_BYTES + 1} bytes, at most {MAX_BYTES} are read"),
        (changed(ARRAY, dtype="|O"), r"array: dtype must be one of .*; got '\|O'"),
        (changed(ARRAY, dtype="<f4,<f4"), "array: dtype must be one of"),
        (changed(ARRAY, dtype="<c8"), "array: dtype must be one of"),
        (changed(ARRAY, dtype=[1]), "array: dtype must be one of"),
        (changed(ARRAY, data="text"), "array: data must be bytes, got str"),
        (changed(ARRAY, shape=[3]), r"array: shape \(3,\) of <f4 does not fit into 8 bytes"),
        (changed(ARRAY, shape=[2**31, 2**31]), "array: shape must hold whole numbers"),
        (changed(ARRAY, shape=[-2, -1]), "array: shape must hold whole numbers"),
        (changed(ARRAY, shape=[True, 2]), "array: shape must hold whole numbers"),
        (changed(ARRAY, shape=[1] * 9), "array: shape must be a list of at most 8 numbers"),
        (changed(ARRAY, shape=2), "array: shape must be a list of at most 8 numbers"),
        (changed(ARRAY, shape=None), "array: must have exactly"),
        (changed(ARRAY, more=1), "array: must have exactly"),
        (changed(SCALAR, data="1"), "scalar: data must be a number, got str"),
        (changed(SCALAR, data=2**40), "scalar: 1099511627776 is no int32"),
        (changed(SCALAR, data=float("nan")), "scalar: nan is no int32"),
        (changed(SCALAR, data=1e300, dtype="<f4"), r"scalar: 1e\+300 is no float32"),
        (changed(SCALAR, dtype=None), "scalar: must have exactly"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bad_message_is_one_typed_error_that_costs_little_memory(data, message):
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match=message):
            unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_deepest_and_fullest_message_passes():
    nested = 1
    for _ in range(MAX_DEPTH - 1):
        nested = [nested]
    assert unpack(pack({"x": nested})) == {"x": nested}
    full = {"x": [0] * (MAX_VALUES - 3)}
    assert unpack(pack(full)) == full
    with pytest.raises(MessageError, match="nested"):
        unpack(pack({"x": [nested]}))
    with pytest.raises(MessageError, match="holds more"):
        unpack(pack({"x": [0] * (MAX_VALUES - 2)}))


def test_array_is_a_view_of_the_message_that_cannot_be_written():
    x = unpack(pack({"x": np.zeros(1000, np.float32)}))["x"]
    assert x.base is not None
    assert not x.flags.writeable


def test_five_thousand_damaged_messages_raise_no_other_error():
    draw = random.Random(0)
    whole = pack({"state": np.arange(24.0), "n": np.float32(1), "prompt": "stand", "more": {"a": [1, 2.5, None, True]}})
    refused = 0
    for _ in range(5000):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        if draw.random() < 0.3:
            del data[draw.randrange(len(data)) :]
        try:
            assert isinstance(unpack(bytes(data)), dict)
        except MessageError:
            refused += 1
    assert 1000 < refused < 5000
