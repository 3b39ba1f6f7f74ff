"""Trains the attribute classifier from scratch on a CPU and exports it to ONNX.

    python -m facecap.training.train --data DATA/celeba --output DIR [--epochs 26] [--seed 0]

DIR receives `attributes.onnx` and `training.json` (settings, figures per epoch, sha256). Only the
train and validation splits are read; the test split belongs to `facecap.training.evaluate`.
"""

import argparse
import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .augment import augment
from .data import DataError, Faces, load
from .metrics import mean_auc
from .model import AttributeNet, export

log = logging.getLogger(__name__)


@torch.no_grad()
def predict(network: nn.Module, images: np.ndarray) -> Tensor:
    """Logits float32 [n, 40] of uint8 [n, 109, 89, 3] RGB images, without augmentation."""
    network.eval()
    batches = torch.from_numpy(images).split(100)
    return torch.cat([network(batch.permute(0, 3, 1, 2).float()) for batch in batches])


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature in 0.5 .. 2.0 with the lowest cross-entropy on the given logits [n, 40]."""
    grid = torch.linspace(0.5, 2.0, 151)
    losses = [nn.functional.binary_cross_entropy_with_logits(logits / t, labels) for t in grid]
    return float(grid[int(torch.stack(losses).argmin())])


def fit(
    train: Faces, validation: Faces, settings: argparse.Namespace
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Returns the averaged network and one record of figures for each epoch."""
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    network = AttributeNet().to(memory_format=torch.channels_last)
    averaged = AveragedModel(
        network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True
    )
    labels = torch.from_numpy(train.labels).float()
    steps = len(labels) // settings.batch
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=steps * settings.epochs, pct_start=0.2
    )
    history = []
    start = time.monotonic()
    for epoch in range(1, settings.epochs + 1):
        network.train()
        order = torch.randperm(len(labels), generator=generator)[: steps * settings.batch]
        total = 0.0
        for rows in order.split(settings.batch):
            pixels = augment(train.images[rows.numpy()], generator)
            logits = network(pixels.contiguous(memory_format=torch.channels_last))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            averaged.update_parameters(network)
            total += loss.item()
        unseen = predict(averaged.module, validation.images)
        expected = torch.from_numpy(validation.labels).float()
        record = {
            "epoch": epoch,
            "train_loss": round(total / steps, 4),
            "validation_loss": round(
                nn.functional.binary_cross_entropy_with_logits(unseen, expected).item(), 4
            ),
            "validation_mean_auc": round(mean_auc(unseen.numpy(), validation.labels), 4),
            "seconds": round(time.monotonic() - start, 1),
        }
        log.info("%s", json.dumps(record))
        history.append(record)
    return averaged.module, history


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m facecap.training.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, required=True, help="attributes.csv and images/")
    parser.add_argument("--output", type=Path, required=True, help="folder, made if missing")
    parser.add_argument("--epochs", type=int, default=26)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3, help="peak of the one-cycle schedule")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--ema", type=float, default=0.998, help="decay of the averaged weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def main() -> None:
    parser = arguments()
    settings = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(settings.threads)
    try:
        train, validation = load(settings.data, "train"), load(settings.data, "validation")
    except DataError as error:
        parser.error(str(error))
    settings.output.mkdir(parents=True, exist_ok=True)
    network, history = fit(train, validation, settings)
    temperature = fit_temperature(
        predict(network, validation.images), torch.from_numpy(validation.labels).float()
    )
    path = settings.output / "attributes.onnx"
    export(network, temperature, train.attributes, path)
    record = {
        "settings": {k: v for k, v in vars(settings).items() if not isinstance(v, Path)},
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "parameters": sum(p.numel() for p in network.parameters()),
        "temperature": round(temperature, 4),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "history": history,
    }
    (settings.output / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    log.info("wrote %s (%d bytes, temperature %.2f)", path, record["bytes"], temperature)


if __name__ == "__main__":
    main()
