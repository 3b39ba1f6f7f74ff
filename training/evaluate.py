"""Measures an exported classifier on the unseen test split and writes its model card.

    python -m facecap.training.evaluate --data DATA/celeba --model DIR/attributes.onnx \\
        --training DIR/training.json --output DIR [--embedder FACE_EMBEDDING.onnx]

DIR receives `metrics.json` and `attributes.md`. With an embedder, the figures are also given for
the test faces that look like nobody in the other splits. Needs no torch.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .card import card
from .data import SPLITS, DataError, Faces, load
from .metrics import auc
from .neighbours import has_neighbour

MIN_PROBABILITY = 0.85
MIN_LABELS = 6


def open_model(path: Path) -> onnxruntime.InferenceSession:
    """Opens an ONNX file on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def predict(session: onnxruntime.InferenceSession, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Runs one face at a time, as the pipeline does on a CPU.

    images: uint8 [n, 109, 89, 3], RGB. Returns probabilities float32 [n, 40] and the median
    milliseconds for one face.
    """
    rows, seconds = [], []
    for image in images:
        start = time.perf_counter()
        rgb = image.transpose(2, 0, 1)[None].astype(np.float32)
        rows.append(session.run(["prob"], {"rgb_0_255": rgb})[0][0])
        seconds.append(time.perf_counter() - start)
    return np.array(rows), float(np.median(seconds) * 1000)


def attribute_figures(prob: np.ndarray, label: np.ndarray) -> dict[str, float | int | None]:
    """Figures of one attribute from probabilities [n] and labels 0/1 [n]."""
    kept = prob > MIN_PROBABILITY
    return {
        "positives": int(label.sum()),
        "base_rate": float(label.mean()),
        "auc": auc(prob, label),
        "accuracy": float(((prob > 0.5) == label).mean()),
        "brier": float(((prob - label) ** 2).mean()),
        "kept": int(kept.sum()),
        "precision_kept": float(label[kept].mean()) if kept.any() else None,
    }


def figures(prob: np.ndarray, faces: Faces) -> dict[str, Any]:
    """Figures for each attribute and for the whole, from probabilities [n, 40]."""
    table = {
        name: attribute_figures(prob[:, k], faces.labels[:, k])
        for k, name in enumerate(faces.attributes)
    }
    base = faces.labels.mean(0)
    kept = prob > MIN_PROBABILITY
    enough = kept.sum(1) >= MIN_LABELS
    male = faces.labels[:, faces.attributes.index("Male")] == 1
    return {
        "faces": len(prob),
        "mean": {
            name: float(np.nanmean([row[name] for row in table.values()]))
            for name in ("auc", "accuracy", "brier")
        },
        "majority_accuracy": float(np.maximum(base, 1 - base).mean()),
        "base_rate_brier": float((base * (1 - base)).mean()),
        "precision_kept": float(faces.labels[kept].mean()) if kept.any() else None,
        "labels_kept_per_face": float(kept.sum(1).mean()),
        "enough_labels": float(enough.mean()),
        "enough_labels_male": float(enough[male].mean()),
        "enough_labels_not_male": float(enough[~male].mean()),
        "attributes": table,
    }


def unlike(embedder: Path, data: Path, test: Faces) -> np.ndarray:
    """True [n] for the test faces without a near neighbour in the other splits."""
    others = [load(data, split).images for split in SPLITS if split != "test"]
    session = open_model(embedder)
    return ~has_neighbour(session, test.images, np.concatenate(others))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m facecap.training.evaluate", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, required=True, help="attributes.csv and images/")
    parser.add_argument("--model", type=Path, required=True, help="the exported ONNX file")
    parser.add_argument("--training", type=Path, required=True, help="training.json beside it")
    parser.add_argument("--output", type=Path, required=True, help="folder, made if missing")
    parser.add_argument("--embedder", type=Path, help="ONNX face embedding, ArcFace alignment")
    return parser


def main() -> None:
    parser = arguments()
    settings = parser.parse_args()
    for name in ("model", "training", "embedder"):
        path = getattr(settings, name)
        if path and not path.is_file():
            parser.error(f"--{name}: {path} not found; name a file")
    training = json.loads(settings.training.read_text(encoding="utf-8"))
    sha256 = hashlib.sha256(settings.model.read_bytes()).hexdigest()
    if training["sha256"] != sha256:
        parser.error("--training: its sha256 is of another model; name the log of this --model")
    try:
        test = load(settings.data, "test")
        prob, milliseconds = predict(open_model(settings.model), test.images)
        metrics = figures(prob, test) | {"ms_per_face": milliseconds, "sha256": sha256}
        if settings.embedder:
            alone = unlike(settings.embedder, settings.data, test)
            chosen = [n for n, keep in zip(test.numbers, alone, strict=True) if keep]
            rest = Faces(tuple(chosen), test.images[alone], test.labels[alone], test.attributes)
            metrics["without_neighbour"] = figures(prob[alone], rest)
    except DataError as error:
        parser.error(str(error))
    settings.output.mkdir(parents=True, exist_ok=True)
    (settings.output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    (settings.output / "attributes.md").write_text(card(training, metrics), encoding="utf-8")
    print(f"mean AUC {metrics['mean']['auc']:.4f}, card in {settings.output / 'attributes.md'}")


if __name__ == "__main__":
    main()
