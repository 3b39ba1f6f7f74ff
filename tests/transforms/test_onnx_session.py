import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from facecap.transforms.models import ModelError
from facecap.transforms.onnx_session import ProviderError, naming_setting, onnx_session


def small_model() -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
    )
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, ir_version=8, opset_imports=opset).SerializeToString()


def test_a_session_runs_on_one_thread_of_the_provider_asked_for():
    session = onnx_session(small_model(), "cpu")
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert session.get_providers() == ["CPUExecutionProvider"]
    (y,) = session.run(None, {"x": np.array([[-1, 0, 1, 2]], np.float32)})
    assert y.tolist() == [[0, 0, 1, 2]]


def test_a_provider_that_is_missing_is_an_error():
    with pytest.raises(ModelError, match="unknown provider 'tpu': choose one of cpu, cuda"):
        onnx_session(small_model(), "tpu")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("CUDA is there")
    with pytest.raises(ModelError, match="cuda is not there: install onnxruntime-gpu"):
        onnx_session(small_model(), "cuda")


def test_a_provider_that_falls_back_is_an_error(monkeypatch):
    """onnxruntime's GPU build on a host without a GPU: listed, but the session runs on the CPU."""
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: available)
    with pytest.raises(ModelError, match="cuda"):
        onnx_session(small_model(), "cuda")


def test_a_model_that_cannot_run_is_one_line(tmp_path, capfd):
    bad = onnx.load_from_string(small_model())
    bad.graph.node[0].op_type = "NoSuchOperator"
    file = tmp_path / "bad.onnx"
    for data in (b"", b"junk", bad.SerializeToString(), small_model()[:-20]):
        file.write_bytes(data)
        message = r"bad\.onnx (cannot be run: |is not an ONNX model)"
        with pytest.raises(ModelError, match=message) as error:
            onnx_session(file)
        assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_model_is_an_error_or_a_model(data):
    body = bytearray(small_model())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        onnx_session(bytes(body))
    except ModelError as error:
        assert len(str(error)) < 400 and "\n" not in str(error)


def external(tensor: TensorProto) -> TensorProto:
    """The tensor, its data to be read from `secret.bin` in the current folder."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "secret.bin"), ("offset", "0"), ("length", "8")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
def test_data_in_other_files_is_refused(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    tensor = external(onnx.numpy_helper.from_array(np.zeros(2, np.float32), "w"))
    value = helper.make_tensor_value_info
    output = [value("y", TensorProto.FLOAT, [2])]
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    inputs, initializers = [], []
    if where == "initializer":
        nodes, initializers = [helper.make_node("Identity", ["w"], ["y"])], [tensor]
    elif where == "constant":
        nodes = [constant]
    else:
        branch = helper.make_graph([constant], "branch", [], output)
        inputs = [value("x", TensorProto.BOOL, [])]
        nodes = [helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]
    graph = helper.make_graph(nodes, "g", inputs, output, initializers)
    opset = [helper.make_opsetid("", 13)]
    data = helper.make_model(graph, ir_version=8, opset_imports=opset).SerializeToString()
    with pytest.raises(ModelError, match=r"m\.onnx keeps its data in other files: save it as one"):
        onnx_session(data, "cpu", "m.onnx")


@pytest.mark.parametrize(
    ("error", "path", "setting"),
    [(ProviderError("no"), "x", "provider"), (ModelError("no"), "x", "model_path"),
     (ModelError("no"), None, "model")],
)  # fmt: skip
def test_an_error_names_the_setting(error, path, setting):
    with (
        pytest.raises(ModelError, match=rf"^detect\.{setting}: no$"),
        naming_setting("detect", path),
    ):
        raise error


@pytest.mark.parametrize("stage", ["detect", "crop"])
def test_opencv_has_one_thread_where_a_stage_is_imported(stage):
    program = f"import cv2, facecap.transforms.{stage}; print(cv2.getNumThreads())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert result.stdout.strip() == b"1"
