from normserve_proto import open_inference_pb2 as pb
from normserve_server.processes.merging import merged


def duration(count: int, ns: int) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=ns)


def statistics(name: str, version: str, n: int, last: int, batches: dict[int, int]) -> pb.ModelStatistics:
    return pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=last,
        inference_count=n,
        execution_count=n,
        inference_stats=pb.InferStatistics(success=duration(n, 10 * n), queue=duration(n, n)),
        batch_stats=[pb.InferBatchStatistics(batch_size=s, compute_infer=duration(c, 5 * c)) for s, c in batches.items()],
        memory_usage=[pb.MemoryUsage(type="CPU", id=0, byte_size=100)],
        response_stats={"0": pb.InferResponseStatistics(success=duration(n, n))},
    )


def test_statistics_add_up_by_version_and_batch_size() -> None:
    one = pb.ModelStatisticsResponse(
        model_stats=[statistics("a", "1", 3, 50, {1: 2, 4: 1}), statistics("b", "1", 1, 9, {1: 1})]
    )
    other = pb.ModelStatisticsResponse(
        model_stats=[statistics("a", "2", 7, 8, {1: 7}), statistics("a", "1", 5, 40, {4: 2, 8: 3})]
    )
    total = pb.ModelStatisticsResponse.FromString(
        merged("ModelStatistics", [one.SerializeToString(), other.SerializeToString()])
    )
    a1, b1, a2 = total.model_stats
    expected = statistics("a", "1", 8, 50, {1: 2, 4: 3, 8: 3})
    expected.memory_usage[0].byte_size = 200
    assert a1 == expected
    assert (b1, a2) == (one.model_stats[1], other.model_stats[0])


def test_everything_else_is_the_first_answer() -> None:
    assert merged("TraceSetting", [b"one", b"two"]) == b"one"
