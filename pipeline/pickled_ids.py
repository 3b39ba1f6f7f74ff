"""The integers in a PyTorch file of plain lists, read without torch and without unpickling.

A pickle is a program for a small stack machine. Here its opcodes are walked and nothing is built:
only those that plain lists and dicts of numbers need are known, any other ends the reading.
Opcodes: Python's pickletools; the file: a zip with a member `NAME/data.pkl` (torch >= 1.6).
"""

from __future__ import annotations

import io
import struct
import zipfile
from array import array
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_MAX_BATCH = 1 << 20
"""The pickler appends 1,000 items at a time; a stack that grows and grows is an attack."""

_SKIPPED = {b"\x80": 1, b"\x95": 8, b"q": 1, b"r": 4, b"\x94": 0}  # PROTO FRAME PUTs MEMOIZE
_INTEGERS = {b"K": (1, "<B"), b"M": (2, "<H"), b"J": (4, "<i")}
_OTHER = object()
"""Stands for a list, a dict or a key."""


class PickleError(ValueError):
    """Not a PyTorch file of plain lists of integers."""


def pickled_ids(file: IO[bytes]) -> npt.NDArray[np.int64]:
    """The integers, int64 [n], in all lists of the PyTorch file `file`, in its order; dict keys are
    left out. Raises PickleError."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [n for n in archive.namelist() if n.split("/")[-1] == "data.pkl"]
            if len(names) != 1:
                raise PickleError("is no PyTorch file")
            if archive.getinfo(names[0]).compress_type != zipfile.ZIP_STORED:
                raise PickleError("is a compressed zip, which no PyTorch file is")
            with archive.open(names[0]) as member:
                stream: Any = member
                return np.frombuffer(_walk(io.BufferedReader(stream, 1 << 20)), np.int64)
    except (zipfile.BadZipFile, struct.error, EOFError, OverflowError, RuntimeError) as error:
        # struct.error: the data end inside a number; RuntimeError: the zip is encrypted.
        raise PickleError(f"is no sound PyTorch file ({error or type(error).__name__})") from None


def _walk(file: IO[bytes]) -> array[int]:
    ids = array("q")
    stack: list[Any] = []
    marks: list[list[Any]] = []
    read = file.read
    while True:
        code = read(1)
        if code == b"\x8a":  # LONG1
            stack.append(
                int.from_bytes(_exactly(file, _exactly(file, 1)[0]), "little", signed=True)
            )
        elif code in _INTEGERS:
            size, form = _INTEGERS[code]
            stack.append(struct.unpack(form, read(size))[0])
        elif code == b"G":  # BINFLOAT
            (value,) = struct.unpack(">d", read(8))
            whole = value.is_integer() and abs(value) < 2**63
            stack.append(int(value) if whole else _OTHER)
        elif code == b"(":  # MARK
            marks.append(stack)
            stack = []
        elif code == b"e":  # APPENDS
            ids.extend(item for item in stack if item is not _OTHER)
            stack = _pop(marks)
        elif code == b"a":  # APPEND
            item = _pop(stack)
            if item is not _OTHER:
                ids.append(item)
        elif code == b"u":  # SETITEMS
            stack = _pop(marks)
        elif code == b"s":  # SETITEM
            _pop(stack)
            _pop(stack)
        elif code in (b"]", b"}"):  # EMPTY_LIST, EMPTY_DICT
            stack.append(_OTHER)
        elif code == b"X":  # BINUNICODE
            _exactly(file, struct.unpack("<I", read(4))[0])
            stack.append(_OTHER)
        elif code in _SKIPPED:
            _exactly(file, _SKIPPED[code])
        elif code == b".":  # STOP
            return ids
        else:
            what = "ends early" if not code else "holds more than plain lists of integers"
            raise PickleError(what)
        if len(stack) > _MAX_BATCH or len(marks) > _MAX_BATCH:
            raise PickleError("holds more than plain lists of integers")


def _pop(stack: list[Any]) -> Any:
    if not stack:
        raise PickleError("is no sound pickle")
    return stack.pop()


def _exactly(file: IO[bytes], size: int) -> bytes:
    if size > 1 << 20:
        raise PickleError("holds more than plain lists of integers")
    data = file.read(size)
    if len(data) < size:
        raise PickleError("ends early")
    return data
