"""Frames between the grader and a worker: lengths, a JSON header, raw arrays. Nothing is ever unpickled.

    8 bytes   length of the header, little endian
    header    {"head": any JSON, "arrays": [[name, dtype, shape], ...]}
    arrays    their bytes, C order, one after the other

The grader does not trust the replies: every number is checked before it is used. A reply is followed by a tag of 32
bytes, BLAKE2 with a key that each worker gets before it imports student code: a frame that student code writes itself
has none.
"""

import hashlib
import hmac
import json
import math
from collections.abc import Callable

import numpy as np

DTYPES = {"float32", "float64", "float16", "int64", "int32", "uint8", "bool"}
MAX_HEADER, MAX_ARRAYS, TAG = 1 << 20, 64 << 20, 32  # bytes


class BadFrame(ValueError):
    """The received bytes are not a valid frame."""


def pack(head: dict, arrays: dict[str, np.ndarray]) -> bytes:
    """A frame of `head` and `arrays`. Raises ValueError for NaN in `head` and for a dtype not in DTYPES."""
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    if odd := {str(array.dtype) for array in arrays.values()} - DTYPES:
        raise ValueError(f"arrays of {', '.join(sorted(odd))} cannot be sent")
    table = [[name, str(array.dtype), list(array.shape)] for name, array in arrays.items()]
    header = json.dumps({"head": head, "arrays": table}, allow_nan=False).encode()
    return len(header).to_bytes(8, "little") + header + b"".join(array.tobytes() for array in arrays.values())


def unpack(read: Callable[[int], bytes]) -> tuple[dict, dict[str, np.ndarray]]:
    """Read one frame; `read(n)` returns exactly n bytes or raises. Raises BadFrame if it is malformed."""
    size = int.from_bytes(read(8), "little")
    if size > MAX_HEADER:
        raise BadFrame(f"a header of {size} bytes")
    try:
        header = json.loads(read(size), parse_constant=_refuse)
        head, table = header["head"], [(str(name), dtype, tuple(shape)) for name, dtype, shape in header["arrays"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadFrame(f"malformed header: {error}") from None
    if not isinstance(head, dict):
        raise BadFrame("head is not an object")
    _check(table)
    return head, {name: np.frombuffer(read(_bytes(dtype, shape)), dtype).reshape(shape) for name, dtype, shape in table}


def signer(key: bytes) -> Callable[[bytes], bytes]:
    """A function that appends the tag to a frame. It holds a keyed hash, not the key."""
    keyed = hashlib.blake2b(key=key, digest_size=TAG)

    def sign(frame: bytes) -> bytes:
        tag = keyed.copy()
        tag.update(frame)
        return frame + tag.digest()

    return sign


def unpack_signed(read: Callable[[int], bytes], key: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """Read one frame and its tag. Raises BadFrame if it is malformed, or if the tag is wrong."""
    tag = hashlib.blake2b(key=key, digest_size=TAG)

    def hashed(size: int) -> bytes:
        data = read(size)
        tag.update(data)
        return data

    result = unpack(hashed)
    if not hmac.compare_digest(read(TAG), tag.digest()):
        raise BadFrame("not signed by the grader: something else wrote into its pipe")
    return result


def _check(table: list[tuple]) -> None:
    for name, dtype, shape in table:
        if dtype not in DTYPES or not all(type(side) is int and 0 <= side < 2**31 for side in shape) or len(shape) > 8:
            raise BadFrame(f"array {name!r} of {dtype!r}, {shape}")
    if sum(_bytes(dtype, shape) for _, dtype, shape in table) > MAX_ARRAYS:
        raise BadFrame(f"more than {MAX_ARRAYS >> 20} MB of arrays")


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return np.dtype(dtype).itemsize * math.prod(shape)


def _refuse(constant: str):
    raise ValueError(f"{constant} in the header")
