"""What a runner will make of the graph, read from its proto: the same for every runner."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import translations

from facecap.pipeline.errors import UsageError

MAX_GRAPH_BYTES = 10_000_000
"""Dataflow's limit on a job's graph. 50 million URLs are to stay under a tenth of it (tested)."""

MAX_LITERAL_BYTES = 1_000_000
"""Whatever is larger belongs into a file that the workers read."""

_GROUP_BY_KEY = "beam:transform:group_by_key:v1"
_AROUND_THE_LINE = frozenset({"Shards", "Spread", "Statistics", "FinishDataset"})


@dataclass(frozen=True)
class GraphFacts:
    """`stages` are the fused stages in order, each the names of the graph's steps in it; `line` is
    the one that images go through. Sizes are of serialized protos."""

    bytes: int
    environments: int
    image: str
    accelerator: str
    stages: tuple[tuple[str, ...], ...]
    line: tuple[str, ...]
    largest_literal: int
    largest_literal_of: str

    def __str__(self) -> str:
        return (
            f"{self.bytes:,} bytes, {self.environments} environment, {len(self.stages)} fused "
            f"stages; one of them is {' > '.join(self.line)}; largest literal "
            f"{self.largest_literal:,} bytes ({self.largest_literal_of})"
        )


def inspect_graph(proto: beam_runner_api_pb2.Pipeline) -> GraphFacts:
    """The facts of a graph made by `add_graph`.

    Raises UsageError when there is more than one environment (then nothing fuses), when image
    bytes would cross from one fused stage to another, or when the graph or a literal in it is
    larger than runners take.
    """
    size = len(proto.SerializeToString())
    literal, literal_of = max(
        ((len(t.spec.payload), t.unique_name) for t in proto.components.transforms.values()),
        default=(0, ""),
    )
    _check_sizes(size, literal, literal_of)
    used = {t.environment_id for t in proto.components.transforms.values() if t.environment_id}
    environments = [proto.components.environments[name] for name in sorted(used)]
    if len(environments) != 1:
        raise UsageError(
            f"the graph has {len(environments)} environments instead of one, so its stages cannot "
            "fuse: a resource hint belongs to the whole pipeline (--resource_hint after --), "
            "never to a stage"
        )
    stages = _fused_stages(proto)
    return GraphFacts(
        bytes=size,
        environments=len(environments),
        image=_image(environments[0]),
        accelerator=_accelerator(environments[0]),
        stages=stages,
        line=_line(stages),
        largest_literal=literal,
        largest_literal_of=literal_of,
    )


def _check_sizes(size: int, literal: int, literal_of: str) -> None:
    if size > MAX_GRAPH_BYTES:
        raise UsageError(
            f"the graph takes {size:,} bytes, more than the {MAX_GRAPH_BYTES:,} that runners take: "
            "raise build.rows_per_shard, or split the input"
        )
    if literal > MAX_LITERAL_BYTES:
        raise UsageError(
            f"the graph holds a literal of {literal:,} bytes in {literal_of}, more than "
            f"{MAX_LITERAL_BYTES:,}: raise build.rows_per_shard, or pass fewer input columns"
        )


def _fused_stages(proto: beam_runner_api_pb2.Pipeline) -> tuple[tuple[str, ...], ...]:
    """Fused as Beam's own optimizer does it for runners that bring a GroupByKey."""
    copy = beam_runner_api_pb2.Pipeline()
    copy.CopyFrom(proto)  # the optimizer writes into what it is given
    _, stages = translations.create_and_optimize_stages(
        copy,
        phases=translations.standard_optimize_phases(),
        known_runner_urns=frozenset([_GROUP_BY_KEY]),
    )
    return tuple(
        tuple(dict.fromkeys(t.unique_name.split("/")[0] for t in stage.transforms))
        for stage in stages
    )


def _line(stages: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """The steps of the one stage that images go through."""
    stages_of = defaultdict(list)
    for stage in stages:
        for step in stage:
            if step not in _AROUND_THE_LINE:
                stages_of[step].append(stage)
    lines = {stage for found in stages_of.values() for stage in found}
    if len(lines) != 1 or any(len(found) != 1 for found in stages_of.values()):
        raise UsageError(
            f"images would cross from one fused stage to another ({len(lines)} stages hold "
            f"{', '.join(stages_of)}): nothing in between may group, reshuffle or flatten"
        )
    (line,) = lines
    return tuple(step for step in line if step not in _AROUND_THE_LINE)


def _image(environment: beam_runner_api_pb2.Environment) -> str:
    if environment.urn != "beam:env:docker:v1":
        return ""
    payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
    return str(payload.container_image)


def _accelerator(environment: beam_runner_api_pb2.Environment) -> str:
    return environment.resource_hints.get("beam:resources:accelerator:v1", b"").decode()
