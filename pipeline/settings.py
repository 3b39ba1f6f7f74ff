"""All settings of a build in one typed tree, one YAML, and its fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from facecap.pipeline.dataflow import DataflowOptions
from facecap.pipeline.errors import UsageError
from facecap.pipeline.output import content_hash
from facecap.pipeline.portable import FlinkOptions, PrismOptions, SparkOptions
from facecap.pipeline.words import load_words, try_rewriting
from facecap.schemas.options import Options, content, run
from facecap.schemas.shard import MAX_ROWS_PER_SHARD
from facecap.schemas.tables import SCHEMA_VERSION
from facecap.transforms.classify_attributes import AttributesOptions, Classifier
from facecap.transforms.compose_caption import CaptionOptions
from facecap.transforms.crop import CropOptions
from facecap.transforms.decode import DecodeOptions
from facecap.transforms.detect import DetectOptions, load_detector
from facecap.transforms.detectors import DETECTORS
from facecap.transforms.download import DownloadOptions
from facecap.transforms.models import ModelError, locate, model_hash
from facecap.transforms.read_rows import InputOptions
from facecap.transforms.rewrite.options import RewriteOptions
from facecap.transforms.screen import ScreenOptions


class BuildOptions(Options):
    """The build as a whole."""

    rows_per_shard: int | None = content(
        None,
        "input rows per shard; none: min(10000, ceil(rows / 64))",
        ge=1,
        le=MAX_ROWS_PER_SHARD,
    )
    reject_samples: int = content(
        8,
        "dropped faces and images kept per shard and reason, 160 px, for the audit",
        ge=0,
        le=1000,
    )
    min_success_rate: float = run(
        0.2, "stop when less than this share of 2,000 or more rows could be fetched", ge=0, le=1
    )
    workers: int | None = run(None, "worker processes on this machine; none: one per core", ge=1)


class Settings(Options):
    """Every setting, by section; `--set SECTION.NAME=VALUE` overrides one."""

    build: BuildOptions = Field(default_factory=BuildOptions)
    input: InputOptions = Field(default_factory=InputOptions)
    download: DownloadOptions = Field(default_factory=DownloadOptions)
    screen: ScreenOptions = Field(default_factory=ScreenOptions)
    decode: DecodeOptions = Field(default_factory=DecodeOptions)
    detect: DetectOptions = Field(default_factory=DetectOptions)
    crop: CropOptions = Field(default_factory=CropOptions)
    attributes: AttributesOptions = Field(default_factory=AttributesOptions)
    caption: CaptionOptions = Field(default_factory=CaptionOptions)
    rewrite: RewriteOptions = Field(default_factory=RewriteOptions)
    spark: SparkOptions = Field(default_factory=SparkOptions)
    flink: FlinkOptions = Field(default_factory=FlinkOptions)
    prism: PrismOptions = Field(default_factory=PrismOptions)
    dataflow: DataflowOptions = Field(default_factory=DataflowOptions)


def load_settings(
    config: Path | None = None,
    overrides: Iterable[str] = (),
    base: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from a YAML file, then `a.b=value` overrides (values are YAML, too). What neither
    names is as in `base`, by dotted name, or has its default.

    Raises UsageError naming the file or setting and the remedy.
    """
    tree: dict[str, Any] = {}
    if config is not None:
        tree = _read_yaml(config)
    for name, value in (base or {}).items():
        section, _, field = name.partition(".")
        if isinstance(tree.setdefault(section, {}), dict):
            tree[section].setdefault(field, value)
    for override in overrides:
        name, equals, text = override.partition("=")
        section, dot, field = name.strip().partition(".")
        if not equals or not dot or not field:
            raise UsageError(f"--set {override!r}: write SECTION.NAME=VALUE, e.g. crop.min_side=96")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):  # ValueError: 2001-99-99, which looks like a date
            raise UsageError(f"--set {name}: {text!r} is not a YAML value") from None
        if not isinstance(tree.setdefault(section, {}), dict):
            raise UsageError(f"{config}: {section} must be a section of NAME: VALUE lines")
        tree[section][field] = value
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(_explain(first["loc"], first["type"], first["msg"])) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--config {path}: not a YAML file ({reason})") from None
    if not isinstance(tree or {}, dict):
        raise UsageError(f"--config {path}: expected sections such as 'crop:' at the top level")
    # A section that is named but empty means its defaults.
    return {k: {} if v is None else v for k, v in (tree or {}).items()}


def _explain(location: tuple[int | str, ...], kind: str, message: str) -> str:
    name = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        section = str(location[0])
        known: Iterable[str] = Settings.model_fields
        if len(location) > 1:
            known = Settings.model_fields[section].annotation.model_fields  # type: ignore[union-attr]
        return f"{name}: no such setting; known here: {', '.join(sorted(known))}"
    return f"{name}: {message}; see facecap build --show-config"


def fields(settings: Settings) -> Iterator[tuple[str, str, Any, str]]:
    """(dotted name, tag, value as JSON data, description) of every setting, in order."""
    for section in Settings.model_fields:
        options: Options = getattr(settings, section)
        values = options.model_dump(mode="json")
        for name, info in type(options).model_fields.items():
            extra = info.json_schema_extra
            tag = str(extra["tag"]) if isinstance(extra, dict) else "content"
            yield f"{section}.{name}", tag, values[name], info.description or ""


def content_settings(settings: Settings) -> dict[str, Any]:
    """The settings that decide the dataset's bytes, by dotted name. Those of a rewriting that does
    not take place decide nothing."""
    found = {name: value for name, tag, value, _ in fields(settings) if tag == "content"}
    if settings.rewrite.backend == "none":
        found = {n: v for n, v in found.items() if not n.startswith("rewrite.")}
    return found


def to_yaml(settings: Settings) -> str:
    """The settings as YAML that `--config` reads, every one with its description."""
    lines: list[str] = []
    section = ""
    for name, tag, value, description in fields(settings):
        head, _, field = name.partition(".")
        if head != section:
            section = head
            lines += ["", f"{head}:"] if lines else [f"{head}:"]
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
        lines.append(f"  # {description} [{tag}]")
        lines.append(f"  {field}: {text.removesuffix('...').strip()}")
    return "\n".join(lines) + "\n"


def resolve_models(settings: Settings, *, here: bool = True) -> tuple[Settings, dict[str, str]]:
    """The settings with the detector's default score filled in, and the sha256 of every file
    that decides labels or words, by setting. Where the models will not run `here` they are tried
    on the CPU: a launcher needs no GPU.

    Raises UsageError when a model is unknown, missing, damaged or cannot run.
    """
    detect, attributes = settings.detect, settings.attributes
    try:
        files = {
            "detect.model": locate(detect.model, detect.model_path),
            "attributes.model": locate(attributes.model, attributes.model_path),
        }
        # Loaded once here, so that a bad model is one line now and not a failed graph later.
        tried = {} if here else {"provider": "cpu"}
        load_detector(detect.model_copy(update=tried), settings.crop.min_side)
        Classifier(attributes.model_copy(update=tried))
    except ModelError as error:
        raise UsageError(" ".join(str(error).split())) from None
    if settings.crop.min_score is None:
        crop = settings.crop.model_copy(update={"min_score": DETECTORS[detect.model].min_score})
        settings = settings.model_copy(update={"crop": crop})
    hashes = {name: model_hash(file) for name, file in files.items()}
    words = load_words(attributes, settings.caption, settings.rewrite, hashes["attributes.model"])
    if settings.rewrite.reuse > 1:
        raise UsageError(
            "rewrite.reuse: a build does not know how many faces will have equal labels: build "
            "with rewrite.backend=none, then give facecap recaption OUT this setting"
        )
    if here:
        try_rewriting(settings.rewrite)
    return settings, {**hashes, **words.hashes}


def fingerprint(settings: Settings, models: Mapping[str, str], source: Mapping[str, Any]) -> str:
    """The content hash of a build with these settings (pipeline.output.content_hash)."""
    return content_hash(SCHEMA_VERSION, content_settings(settings), models, source)
