"""ONNX models run on one thread of the provider asked for, and nothing but the file is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError, Message
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from facecap.transforms.models import ModelError

# Of the whole process, set once.
ort.set_default_logger_severity(4)  # a refused model is our one-line error, not a log of theirs
ort.disable_telemetry_events()

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

MICRO_BATCH = {"cpu": 1, "cuda": 32}
"""Images or faces that a model is given at once: a CPU is fastest one at a time (measured)."""

_CUDA = {
    "use_tf32": "0",
    # Algorithms by cuDNN's rule, never by a stopwatch (EXHAUSTIVE, the default, may search): the
    # same ones every day, and no search for a new shape.
    "cudnn_conv_algo_search": "HEURISTIC",
}

ORT_ERRORS = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotFound,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
    ValueError,
)
"""What onnxruntime raises on a bad model: its own classes have no common base but Exception."""


class ProviderError(ModelError):
    """A provider that is unknown, not installed or cannot be started."""


@contextmanager
def naming_setting(stage: str, model_path: str | None) -> Iterator[None]:
    """A ModelError inside the block gets the stage's setting in front that is to be changed."""
    try:
        yield
    except ModelError as error:
        setting = "model" if model_path is None else "model_path"
        if isinstance(error, ProviderError):
            setting = "provider"
        raise ModelError(f"{stage}.{setting}: {error}") from None


def load_onnx(data: bytes, name: str) -> onnx.ModelProto:
    """Raises ModelError, saying `name`, when the bytes are not an ONNX model or when it keeps
    tensors in other files: those would be read from anywhere, and are not in the file's hash."""
    try:
        model = onnx.load_from_string(data)
    except DecodeError:
        raise ModelError(f"{name} is not an ONNX model") from None
    if _any_part(model, _is_external):
        raise ModelError(f"{name} keeps its data in other files: save it as one file")
    if _any_part(model, _has_damaged_text):
        raise ModelError(f"{name} is a damaged ONNX model: a name in it is not text")
    return model


def _any_part(message: Message, test: Callable[[Message], bool]) -> bool:
    """Whether `test` holds for the message or any message in it, however deep."""
    if test(message):
        return True
    if isinstance(message, onnx.TensorProto):
        return False  # nothing deeper, and its fields are large
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        inner = [value] if isinstance(value, Message) else value
        if any(_any_part(part, test) for part in inner):
            return True
    return False


def _is_external(part: Message) -> bool:
    if not isinstance(part, onnx.TensorProto):
        return False
    return bool(part.data_location == onnx.TensorProto.EXTERNAL or part.external_data)


def _has_damaged_text(part: Message) -> bool:
    """Protobuf gives text that is not UTF-8 as bytes, which code that expects text trips over."""
    if isinstance(part, onnx.TensorProto):
        return isinstance(part.name, bytes)
    for field, value in part.ListFields():
        if field.type == field.TYPE_STRING:
            texts = [value] if isinstance(value, str | bytes) else value
            if any(isinstance(text, bytes) for text in texts):
                return True
    return False


def onnx_session(
    model: Path | bytes, provider: str = "cpu", name: str = ""
) -> ort.InferenceSession:
    """A session with one thread (workers are processes) on the provider asked for.

    Raises ProviderError when the provider is missing (onnxruntime by itself falls back to the CPU
    silently), ModelError when the model cannot be loaded or keeps data in other files.
    """
    name = name or (str(model) if isinstance(model, Path) else "the model")
    if provider not in PROVIDERS:
        raise ProviderError(f"unknown provider {provider!r}: choose one of {', '.join(PROVIDERS)}")
    wanted = PROVIDERS[provider]
    if wanted not in ort.get_available_providers():
        raise ProviderError(
            f"{provider} is not there: install onnxruntime-gpu in place of onnxruntime, "
            "or set the provider to cpu"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # a pattern per input shape is kept for ever
    options.log_severity_level = 4
    data = model.read_bytes() if isinstance(model, Path) else model
    load_onnx(data, name)
    if provider == "cuda":
        ort.preload_dlls()  # CUDA and cuDNN where pip has installed them
    settings = [_CUDA] if provider == "cuda" else [{}]
    try:
        session = ort.InferenceSession(data, options, [wanted], settings)
    except ORT_ERRORS as error:
        line = " ".join(str(error).split())[:200]
        raise ModelError(f"{name} cannot be run: {line}") from None
    session.disable_fallback()
    if session.get_providers()[0] != wanted:
        raise ProviderError(f"{provider} is installed but could not be started on this host")
    return session
