"""What a loaded model tells of itself besides its metadata: its configuration, and what its requests add up to."""

from collections.abc import Callable

from normserve_proto import open_inference_pb2 as pb

from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError
from normserve_server.repository import Repository
from normserve_server.statistics import RunTotals, Statistics, Total
from normserve_server.version import Version


class IntrospectionServicer:
    """Handlers of ModelConfig and ModelStatistics.

    Args:
        repository: the models.
        settle: brings the statistics up to date.
    """

    def __init__(self, repository: Repository, settle: Callable[[], None]) -> None:
        self._repository = repository
        self._settle = settle

    async def ModelConfig(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:  # noqa: N802
        """How a version is served, completed from its file."""
        version = self._repository.serving(request.name, request.version)
        call.model, call.version = version.labels
        return pb.ModelConfigResponse(config=version.config)

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, call: Call
    ) -> pb.ModelStatisticsResponse:
        """What one version's requests add up to, those of a model's versions, or those of all."""
        self._settle()
        versions = self._wanted(request.name, request.version)
        if request.version:  # labels are a version's or nobody's, so that they go when it goes
            call.model, call.version = versions[0].labels
        return pb.ModelStatisticsResponse(model_stats=[_model_statistics(version) for version in versions])

    def _wanted(self, model: str, number: str) -> list[Version]:
        if number and not model:
            raise InvalidRequestError(f"version {number} is given without a model's name")
        ready = [version for version in self._repository.versions() if version.ready and model in {"", version.model}]
        if model and (number or not ready):
            return [self._repository.serving(model, number)]
        return ready


def _model_statistics(version: Version) -> pb.ModelStatistics:
    statistics = version.statistics
    return pb.ModelStatistics(
        name=version.model,
        version=version.number,
        last_inference=statistics.last_inference_ms,
        inference_count=statistics.samples,
        execution_count=statistics.executions,
        inference_stats=_inference_statistics(statistics),
        batch_stats=[_batch_statistics(size, runs) for size, runs in sorted(statistics.batches.items())],
    )


def _inference_statistics(statistics: Statistics) -> pb.InferStatistics:
    return pb.InferStatistics(
        success=_duration(statistics.success),
        fail=_duration(statistics.fail),
        queue=_duration(statistics.queue),
        compute_input=_duration(statistics.compute.input),
        compute_infer=_duration(statistics.compute.infer),
        compute_output=_duration(statistics.compute.output),
        cache_hit=pb.StatisticDuration(),
        cache_miss=pb.StatisticDuration(),
    )


def _batch_statistics(size: int, runs: RunTotals) -> pb.InferBatchStatistics:
    return pb.InferBatchStatistics(
        batch_size=size,
        compute_input=_duration(runs.input),
        compute_infer=_duration(runs.infer),
        compute_output=_duration(runs.output),
    )


def _duration(total: Total) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=total.count, ns=round(total.seconds * 1e9))
