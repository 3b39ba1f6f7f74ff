import contextlib
import hashlib
import os
import pickle
import struct

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecap.transforms.detectors import mtcnn_weights
from facecap.transforms.detectors.mtcnn_weights import WeightsError, build_onnx, network

# Pickle opcodes by hand: the file names torch's classes, and torch is not installed.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"


def storage(key="0", numel=6, kind="FloatStorage", place="cpu") -> bytes:
    pid = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text(place)
    return pid + b"J" + struct.pack("<i", numel) + b"NtQ"


def tensor(stored=None, offset=0, size=(2, 3), stride=(3, 1)) -> bytes:
    arguments = (stored or storage()) + b"J" + struct.pack("<i", offset)
    arguments += numbers(*size) + numbers(*stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def torch_file(value=None, values=range(6), numel=None, magic=0x1950A86A20F9469CFC6C) -> bytes:
    state = b"\x80\x02ccollections\nOrderedDict\n)R(" + text("w") + (value or tensor()) + b"u."
    head = pickle.dumps(magic, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    data = np.array(list(values), "<f4").tobytes()
    count = struct.pack("<q", len(data) // 4 if numel is None else numel)
    return head + state + pickle.dumps(["0"], 2) + count + data


def read(data: bytes) -> dict[str, np.ndarray]:
    return mtcnn_weights.read_torch_weights(data)


def test_reads_a_state_dict():
    assert read(torch_file())["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read(torch_file(tensor(size=(3, 2), stride=(1, 3))))["w"].tolist() == [
        [0, 3],
        [1, 4],
        [2, 5],
    ]
    assert read(torch_file(tensor(offset=2, size=(2,), stride=(1,))))["w"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch_file(magic=7), "not a legacy PyTorch file"),
        (torch_file(numel=10**12), "ends before"),
        (torch_file(numel=-1), "ends before"),
        (torch_file(tensor(offset=1)), "outside its storage"),
        (torch_file(tensor(offset=-1)), "outside its storage"),
        (torch_file(tensor(size=(2**31 - 1, 3))), "outside its storage"),
        (torch_file(tensor(size=(2, 3), stride=(-3, 1))), "outside its storage"),
        (torch_file(tensor(size=(2**30, 2**30), stride=(0, 0))), "outside its storage"),
        (torch_file(tensor(storage(kind="HalfStorage"))), "torch.HalfStorage"),
        (torch_file(tensor(storage(place="cuda:0"))), "plain float32"),
        (torch_file(tensor(storage(key="9"))), "KeyError"),
        (torch_file(text("a string")), "not a tensor"),
        (b"", "EOFError"),
        (b"PK\x03\x04 a newer file", "not a legacy PyTorch"),
    ],
)
def test_refuses(data, message):
    with pytest.raises(WeightsError, match=message):
        read(data)


class Runs:
    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("position", ["first", "value"])
def test_a_hostile_pickle_runs_nothing(tmp_path, position):
    target = tmp_path / "ran"
    for function in (os.mkdir, eval):
        argument = str(target) if function is os.mkdir else f"__import__('os').mkdir({target!r})"
        attack = pickle.dumps(Runs(function, argument), 2)
        data = attack if position == "first" else torch_file(attack[2:-1])
        with pytest.raises(WeightsError, match="is refused"):
            read(data)
        assert not target.exists()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_read(data):
    body = bytearray(torch_file())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WeightsError):
        read(bytes(body))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(body):
    with pytest.raises(WeightsError):
        read(body)


def test_the_same_weights_give_the_same_model(mtcnn_weights_made):
    first, second = build_onnx(mtcnn_weights_made), build_onnx(mtcnn_weights_made)
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


def test_a_missing_tensor_is_named(mtcnn_weights_made):
    weights = {name: dict(tensors) for name, tensors in mtcnn_weights_made.items()}
    del weights["rnet"]["dense4.bias"]
    with pytest.raises(WeightsError, match=r"rnet: no tensor dense4\.bias"):
        build_onnx(weights)


def test_another_model_holds_no_network(mtcnn_weights_made):
    model = onnx.load_from_string(build_onnx(mtcnn_weights_made))
    assert onnx.load_from_string(network(model, "pnet")).graph.name == "pnet"
    del model.graph.output[:]
    with pytest.raises(WeightsError, match="no network onet"):
        network(model, "onet")
