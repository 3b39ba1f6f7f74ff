"""Captions and tokens per second of rewriting in this process (rewrite.backend: transformers), by
batch size: the packaged prompts over grammar captions of faces drawn by chance, each asked once.
The parts of the line around the model are left out, but for the check of what it says.

    python -m benchmarks.rewrite_local --model Qwen/Qwen2.5-7B-Instruct --device cuda \\
        --batch-sizes 1,8,32

It needs the extra [transformers], and a network or the model's folder; no other data.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report import table
from facecap.schemas.captions import Caption
from facecap.transforms.classify_attributes import AttributesOptions, kept_labels
from facecap.transforms.compose_caption import CaptionOptions, Composer
from facecap.transforms.grammar import load_grammar
from facecap.transforms.rewrite.backend import Answer, Prompt
from facecap.transforms.rewrite.faithfulness import Checker
from facecap.transforms.rewrite.local_model import LocalModel, LocalModelError
from facecap.transforms.rewrite.options import RewriteOptions
from facecap.transforms.rewrite.prompts import PromptSet, load_prompts
from facecap.transforms.rewrite.rewriter import make_task

DATASET = 15_000_000
DAY_S = 86_400


@dataclass(frozen=True)
class Round:
    """One batch size's figures. `batch_size` is what the memory allowed in the end; `peak_gib` the
    most that torch held of a GPU's memory."""

    batch_size: int
    seconds: float
    answers: tuple[Answer, ...]
    passed: int
    peak_gib: float | None

    def cells(self) -> list[str]:
        n = len(self.answers)
        asked = sum(answer.prompt_tokens for answer in self.answers)
        said = sum(answer.completion_tokens for answer in self.answers)
        return [
            str(self.batch_size),
            f"{n / self.seconds:.2f}",
            f"{said / self.seconds:.0f}",
            f"{asked / n:.0f}",
            f"{said / n:.0f}",
            f"{self.passed / n:.0%}",
            "" if self.peak_gib is None else f"{self.peak_gib:.1f}",
            f"{DATASET * self.seconds / n / DAY_S:.0f}",
        ]


HEAD = (
    "batch size",
    "captions/s",
    "new tokens/s",
    "tokens per prompt",
    "tokens per answer",
    "passed at once",
    "GPU memory, GiB",
    "days per 15 million",
)


def grammar_captions(n: int, seed: int) -> list[Caption]:
    """Captions of `n` faces whose probabilities are drawn evenly from 0 to 1: about six labels."""
    rng = np.random.default_rng(seed)
    composer = Composer(CaptionOptions(), load_grammar())
    attributes = AttributesOptions()
    captions: list[Caption] = []
    while len(captions) < n:
        probabilities = rng.random(len(composer.names), np.float32)
        labels = kept_labels(probabilities, attributes)
        captions += composer.compose(labels, probabilities, f"{len(captions)}")
    return captions[:n]


def to_prompts(
    captions: Sequence[Caption], prompts: PromptSet, options: RewriteOptions
) -> list[Prompt]:
    """What the line would ask of the captions."""
    styles = tuple(sorted(options.styles or prompts.styles))
    tasks = [make_task(caption, f"{k}", 0, styles, options) for k, caption in enumerate(captions)]
    return [prompts.prompt(t.style, t.raw, t.labels, t.person, t.seed) for t in tasks]


def measure(
    model: LocalModel, prompts: Sequence[Prompt], captions: Sequence[Caption], batch_size: int
) -> Round:
    """Ask all `prompts` after one batch that is not counted."""
    model.batch_size = batch_size
    model.ask(prompts[:batch_size])
    _reset_peak(model)
    began = time.perf_counter()
    answers = model.ask(prompts)  # tokens are on this side: the device has finished
    seconds = time.perf_counter() - began
    return Round(model.batch_size, seconds, tuple(answers), passed(answers, captions), _peak(model))


def passed(answers: Sequence[Answer], captions: Sequence[Caption]) -> int:
    """How many say what their captions state and nothing else."""
    checker = Checker()
    return sum(
        answer.text is not None
        and checker.check(" ".join(answer.text.split()), caption.stated, caption.person) is None
        for answer, caption in zip(answers, captions, strict=True)
    )


def _reset_peak(model: LocalModel) -> None:
    import torch

    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)


def _peak(model: LocalModel) -> float | None:
    import torch

    if model.device.type != "cuda":
        return None
    return float(torch.cuda.max_memory_allocated(model.device)) / 2**30


def _device_name(model: LocalModel) -> str:
    import torch

    if model.device.type == "cuda":
        return str(torch.cuda.get_device_name(model.device))
    return f"{model.device}, {torch.get_num_threads()} threads"


def main() -> None:
    default = RewriteOptions()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=default.model, help="a name on Hugging Face or a folder")
    parser.add_argument("--device", default=default.device)
    parser.add_argument("--dtype", default=default.dtype)
    parser.add_argument("--batch-sizes", default="1,8,32", help="comma-separated")
    parser.add_argument("--captions", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=default.max_tokens)
    parser.add_argument("--temperature", type=float, default=default.temperature)
    arguments = parser.parse_args()
    options = RewriteOptions(
        backend="transformers",
        model=arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
    )
    try:
        model = LocalModel(options)
        captions = grammar_captions(arguments.captions, options.seed)
        prompts = to_prompts(captions, load_prompts(), options)
        sizes = [int(size) for size in arguments.batch_sizes.split(",")]
        rounds = [measure(model, prompts, captions, size) for size in sizes]
    except LocalModelError as error:
        parser.exit(2, f"{error}\n")
    print(f"{arguments.model} in {model.dtype} on {_device_name(model)}, {len(prompts)} captions\n")
    print(table(HEAD, [each.cells() for each in rounds]))
    answers = rounds[-1].answers
    faults = Counter(str(answer.fault.kind) for answer in answers if answer.fault is not None)
    print(f"without a text, in the last row: {dict(faults) or 'none'}")


if __name__ == "__main__":
    main()
