"""The model card, written from the training log and the measured figures alone."""

from typing import Any

from .data import ALIGNMENT_TEMPLATE, HEIGHT, SPLITS, WIDTH

TEXT = """\
# Embedded attribute classifier

`attributes.onnx`: a small residual CNN that gives the probability of each of CelebA's 40 face
attributes. Trained from scratch by `facecap.training`; this card is written by its `evaluate`.

| | |
|---|---|
| input | `rgb_0_255` float32 [n, 3, {height}, {width}], RGB, 0-255 (normalised inside) |
| output | `prob` float32 [n, 40], sigmoid inside, in the order of the table below (also in the \
file's metadata, `labels`) |
| parameters | {parameters:,} |
| file | {bytes:,} bytes, sha256 `{sha256}` |
| speed | {ms:.1f} ms per face, one at a time, one CPU thread (median; machine not idle) |
| intended use | choosing and captioning faces for research; not for deciding about people |
| licence | research only, non-commercial: CelebA, the training data, allows nothing else |

## Alignment
The face is mapped by a similarity transform of its five landmarks onto an image of {width} x \
{height} pixels (x to the right, y down, from the top left corner). Left and right are those of
the image, as the viewer sees it.

| landmark | x | y |
|---|---|---|
{template}

## Data
CelebA (Liu et al., ICCV 2015), the aligned images at half size ({width} x {height}): train \
{train}, validation {validation} (for choosing and for the temperature), test {test} (for the
figures below only). No other data and no pretrained weights.

## Training
    python -m facecap.training.train --data CELEBA --output DIR --epochs {epochs} --seed {seed}

{epochs} epochs of {batch} images a step, {minutes:.0f} minutes on 2 CPU cores shared with other \
work, torch {torch}. AdamW
(peak rate {lr}, weight decay {weight_decay}), one-cycle schedule, averaged weights (decay {ema}), \
binary
cross-entropy without class weights. Augmentation: mirror, shift, rotation and scale as a detector's
landmarks jitter, lower resolution, JPEG, brightness, contrast, saturation, white balance. The
logits are divided by a temperature of {temperature:.2f}, fitted on the validation split. Validation
mean AUC {validation_auc:.3f} (last epoch, the one exported).

## Figures on the {faces} unseen images
Mean AUC **{auc:.3f}**, mean accuracy at 0.5 {accuracy:.3f} (always answering the commoner value: \
{majority:.3f}), mean
Brier score {brier:.4f} (always answering the base rate: {base_brier:.4f}). At p > 0.85 a face has \
{labels:.1f} labels on
average, {precision:.1%} of them right; {enough:.1%} of the faces have more than five labels \
({enough_male:.1%} of those labelled
Male, {enough_other:.1%} of the others).

| attribute | base rate | AUC | accuracy | Brier | labels at p > 0.85 | of them right |
|---|---|---|---|---|---|---|
{rows}

## Leakage
CelebA comes here without identities, so the splits are by image number and people can be on both
sides. {leakage}

## Known weaknesses
- Measured on CelebA alone: aligned, mostly frontal, well-lit portraits of celebrities, most
  of them labelled Young. Expect lower figures on other photographs, and unequal ones between
  groups of people (age, skin colour); neither was measured here.
- The labels are the opinions of one labelling company. Attractive, Young, Chubby, Big_Nose and
  their like are judgements, not facts; Male is a guess at appearance, not at a person's gender.
- Least reliable by AUC: {weakest}.
- Fewer than 30 positives among the test images, so their figures are uncertain: {rare}.
- Never or hardly (under five times) labelled at p > 0.85 on the test images: {silent}.
- Augmentation lowers the resolution of some images while their Blurry label stays as it was.
"""


def _span(split: str) -> str:
    numbers = SPLITS[split]
    return f"{numbers[0]:06d}-{numbers[-1]:06d}"


def _names(table: dict[str, dict[str, Any]], chosen: list[str]) -> str:
    return ", ".join(name for name in table if name in chosen) or "none"


def _leakage(metrics: dict[str, Any]) -> str:
    apart = metrics.get("without_neighbour")
    if apart is None:
        return "How many test faces have a look-alike in the other splits was not measured."
    share = 1 - apart["faces"] / metrics["faces"]
    return (
        f"{share:.0%} of the test images have a near neighbour there (face embedding, cosine over\n"
        f"0.5). On the {apart['faces']} test images without one the mean AUC is "
        f"**{apart['mean']['auc']:.3f}** (all: {metrics['mean']['auc']:.3f}) and the\n"
        f"mean accuracy {apart['mean']['accuracy']:.3f} (all: {metrics['mean']['accuracy']:.3f})."
    )


def _row(name: str, row: dict[str, Any]) -> str:
    right = "-" if row["precision_kept"] is None else f"{row['precision_kept']:.2f}"
    return (
        f"| {name} | {row['base_rate']:.3f} | {row['auc']:.3f} | {row['accuracy']:.3f} "
        f"| {row['brier']:.3f} | {row['kept']} | {right} |"
    )


def card(training: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Markdown from `training.json` (see train) and `metrics.json` (see evaluate)."""
    table: dict[str, dict[str, Any]] = metrics["attributes"]
    last = training["history"][-1]
    by_auc = sorted(table, key=lambda name: table[name]["auc"])
    return TEXT.format(
        height=HEIGHT,
        width=WIDTH,
        template="\n".join(
            f"| {name} | {x} | {y} |" for name, (x, y) in ALIGNMENT_TEMPLATE.items()
        ),
        **{split: _span(split) for split in SPLITS},
        **training["settings"],
        **{key: training[key] for key in ("parameters", "bytes", "sha256", "temperature")},
        torch=training["versions"]["torch"],
        minutes=last["seconds"] / 60,
        validation_auc=last["validation_mean_auc"],
        ms=metrics["ms_per_face"],
        faces=f"{metrics['faces']:,}",
        **metrics["mean"],
        majority=metrics["majority_accuracy"],
        base_brier=metrics["base_rate_brier"],
        labels=metrics["labels_kept_per_face"],
        precision=metrics["precision_kept"] or 0.0,
        enough=metrics["enough_labels"],
        enough_male=metrics["enough_labels_male"],
        enough_other=metrics["enough_labels_not_male"],
        rows="\n".join(_row(name, row) for name, row in table.items()),
        leakage=_leakage(metrics),
        weakest=", ".join(f"{name} ({table[name]['auc']:.2f})" for name in by_auc[:5]),
        rare=_names(table, [name for name in table if table[name]["positives"] < 30]),
        silent=_names(table, [name for name in table if table[name]["kept"] < 5]),
    )
