"""A job for Dataflow: translated and looked at without an account, or written for a template."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from facecap.pipeline.errors import BuildFailed, UsageError
from facecap.pipeline.graph_facts import GraphFacts, inspect_graph

AddGraph = Callable[[beam.Pipeline], object]


@dataclass(frozen=True)
class DryRun:
    """What would be sent: the graph's facts, and the job request as JSON data."""

    facts: GraphFacts
    job: dict[str, Any]


def dry_run(add_graph: AddGraph, options: PipelineOptions) -> DryRun:
    """Translate the graph as it would be for a submission; nothing is sent or uploaded, and no
    account is needed.

    Raises UsageError when apache-beam[gcp] is missing, Beam refuses an option, or the graph breaks
    a rule (graph_facts).
    """
    need_gcp()
    from apache_beam.runners.dataflow.internal import apiclient

    # A copy: the runner writes into the options.
    options = PipelineOptions(**options.get_all_options(drop_default=True), dry_run=True)
    pipeline = _pipeline(options)
    add_graph(pipeline)
    job = pipeline.run().job
    facts = inspect_graph(job.proto_pipeline)
    # Beam makes this part while it uploads, which a dry run does not.
    job.proto.environment = apiclient.Environment(
        packages=[],
        options=job.options,
        environment_version="8",
        proto_pipeline_staged_url=f"{job.google_cloud_options.staging_location}/pipeline.pb",
        proto_pipeline=job.proto_pipeline,
    ).proto
    return DryRun(facts, json.loads(job.json()))


def write_template(add_graph: AddGraph, options: PipelineOptions) -> str | None:
    """Where the options have --template_location: write the job there, and return that place. So a
    Flex Template starts: Google's launcher reads the job and sends it when this process has ended.

    Raises UsageError as `dry_run` does, BuildFailed when Google refuses the account or the bucket.
    """
    location = options.view_as(GoogleCloudOptions).template_location
    if location is None:
        return None
    need_gcp()
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    try:
        pipeline = _pipeline(options)
        add_graph(pipeline)
        inspect_graph(pipeline.to_runner_api())
        pipeline.run()
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise BuildFailed(f"Dataflow: {' '.join(str(error).split())[:300]}") from error
    return str(location)


def need_gcp() -> None:
    """Raises UsageError where Google's libraries are not installed."""
    try:
        found = importlib.util.find_spec("google.cloud.dataflow_v1beta3")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise UsageError(
            "--runner dataflow: Google's libraries are not installed; run: "
            "pip install 'facecap[dataflow]'"
        )


def _pipeline(options: PipelineOptions) -> beam.Pipeline:
    """An empty one. Beam reports the options that it refuses in one ValueError, a line each."""
    try:
        return beam.Pipeline(runner="DataflowRunner", options=options)
    except ValueError as error:
        raise UsageError(f"Beam: {' '.join(str(error).split())[:300]}") from error
