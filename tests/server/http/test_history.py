"""The history: what it counts, for how long, and how much it keeps."""

import sys

import pytest
from normserve_server.descriptions import Description, packed, unpacked
from normserve_server.http import history, overview
from normserve_server.http.history import POINTS, WINDOWS, History
from normserve_server.http.readings import Reading, read
from normserve_server.metrics import Metrics
from normserve_server.state import State
from prometheus_client import CollectorRegistry, Gauge


class Service:
    """Real metrics, read into a history by a clock of ours."""

    def __init__(self) -> None:
        self.registry, self.others = CollectorRegistry(), CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.history = History()
        self.at = 1000.0

    def answer(self, requests: int, model: str = "m", method: str = "ModelInfer", code: str = "OK", seconds: float = 1.2e-3):
        series = self.metrics.series(model, "1" if model else "", method)
        series.count(code, requests)
        for _ in range(requests):
            series.duration.observe(seconds)
            series.phases["queue"].observe(seconds / 2)
            if model:
                series.batch_size.observe(3)

    def read(self, later: float = 1.0) -> None:
        self.at += later
        self.history.add(read([*self.registry.collect(), *self.others.collect()], self.history.columns), self.at)

    def window(self, minutes: int = 1, scope: str = "") -> dict:
        return overview.window(self.history, minutes, scope)


@pytest.fixture
def service() -> Service:
    service = Service()
    service.read()
    return service


def test_a_history_of_nothing_has_no_numbers() -> None:
    shown = overview.window(History(), 5, "")
    assert (shown["total"]["requests"], shown["total"]["requests_per_second"], shown["now"]) == (0, None, {})
    assert shown["total"]["latency_seconds"]["request"]["p99"] is None
    assert shown["series"]["age_seconds"] == []


def test_what_was_counted_before_the_first_reading_is_not_in_it(service: Service) -> None:
    late = Service()
    late.answer(5)
    late.read()
    late.read()
    assert late.window()["total"]["requests"] == 0


def test_rates_and_percentiles_over_time_and_in_whole(service: Service) -> None:
    service.answer(10)
    service.read(2)
    service.answer(30, seconds=0.12)
    service.read(1)
    shown = service.window()
    assert shown["series"]["requests_per_second"] == [5, 30]
    assert shown["series"]["age_seconds"] == [1, 0]
    assert shown["series"]["latency_seconds"]["request"]["p50"] == pytest.approx([1.25e-3, 0.125])
    assert shown["series"]["batch_size"] == [3, 3]
    total = shown["total"]
    assert (total["requests"], total["requests_per_second"]) == (40, pytest.approx(40 / 3))
    assert total["latency_seconds"]["request"]["mean"] == pytest.approx((10 * 1.2e-3 + 30 * 0.12) / 40)
    assert total["latency_seconds"]["queue"]["count"] == 40
    assert [bucket for bucket in total["batch_sizes"] if bucket["batches"]] == [{"from": 3, "to": 4, "batches": 40}]


def test_errors_are_the_services_or_the_callers(service: Service) -> None:
    for code, requests in (("OK", 5), ("INTERNAL", 2), ("INVALID_ARGUMENT", 3)):
        service.answer(requests, code=code)
    service.read()
    total = service.window()["total"]
    assert (total["server_error_ratio"], total["caller_error_ratio"]) == (0.2, 0.3)
    assert total["codes"] == {"OK": 5, "INTERNAL": 2, "INVALID_ARGUMENT": 3}


def test_probes_are_no_requests(service: Service) -> None:
    service.answer(5, method="ServerReady")
    service.answer(2, method="Normalize", model="")
    service.read()
    assert service.window()["total"]["requests"] == 2


def test_versions_are_kept_apart(service: Service) -> None:
    service.answer(5, "a")
    service.answer(2, "b")
    service.answer(1, "")
    service.read()
    assert [service.window(scope=scope)["total"]["requests"] for scope in ("", "a/1", "b/1", "c/1")] == [8, 5, 2, 0]


def test_a_version_that_goes_takes_nothing_away_and_counts_anew_when_it_comes_back(service: Service) -> None:
    service.answer(5)
    service.read()
    service.metrics.forget("m", "1")
    service.read()
    service.answer(3)
    service.read()
    shown = service.window()
    assert shown["series"]["requests_per_second"] == [5, 0, 3]
    assert shown["total"]["requests"] == 8


def test_a_version_that_comes_back_keeps_what_it_had_in_the_window(service: Service) -> None:
    """Whether a sample of a window falls into its absence or not, as in that of an hour."""
    service.answer(1000)
    service.read()
    for between in (1, 70):
        service.metrics.forget("m", "1")
        service.read(between)
        service.answer(200)
        service.read(between)
    for minutes in (5, 60):
        assert service.window(minutes, "m/1")["total"]["requests"] == 1400


def test_the_files_of_workers_count_on_where_they_were_when_a_version_comes_back(service: Service) -> None:
    service.history = History(counted_on=True)
    service.read()
    service.answer(10)
    service.read()
    service.history.add(Reading(service.history.columns), service.at + 1)  # it is left out
    service.read(2)
    service.answer(5)
    service.read()
    for scope in ("", "m/1"):
        assert service.window(scope=scope)["series"]["requests_per_second"] == [10, 0, 0, 5]


def test_a_counter_that_begins_anew_between_two_readings_is_counted_whole(service: Service) -> None:
    service.answer(5)
    service.read()
    service.metrics.forget("m", "1")
    service.answer(3)
    service.read()
    assert service.window()["series"]["requests_per_second"] == [5, 3]


@pytest.mark.parametrize("minutes", WINDOWS)
def test_a_window_is_as_long_as_it_says_and_has_sixty_steps(service: Service, minutes: int) -> None:
    between = min(minutes, 5)
    for _ in range(minutes * 70 // between):
        service.answer(between)
        service.read(between)
    shown = service.window(minutes)
    assert shown["window"]["covered_seconds"] == pytest.approx(minutes * 60, abs=minutes)
    assert POINTS <= len(shown["series"]["age_seconds"]) <= POINTS + 1
    assert shown["series"]["age_seconds"][-1] == 0
    assert shown["total"]["requests"] == shown["window"]["covered_seconds"]


@pytest.mark.parametrize("between", [1.0, 1.15, 1.55, 2.3, 4.6])
@pytest.mark.parametrize("minutes", WINDOWS)
def test_a_window_is_covered_however_often_readings_come(service: Service, minutes: int, between: float) -> None:
    reading = Reading()
    for number in range(int((minutes + 1) * 60 / between)):
        service.history.add(reading, service.at + number * between)
    assert service.window(minutes)["window"]["covered_seconds"] >= minutes * 60 - max(between, minutes)


def test_seldom_readings_are_enough(service: Service) -> None:
    for _ in range(100):
        service.answer(10)
        service.read(5)
    assert service.window(1)["window"]["covered_seconds"] == 60
    assert service.window(1)["total"]["requests_per_second"] == 2
    assert service.window(15)["window"]["covered_seconds"] == 500


def test_sixty_points_take_hardly_more_calls_of_functions_than_six(service: Service) -> None:
    """They are computed at once, because the event loop serves nobody meanwhile."""

    def calls() -> int:
        called: list[str] = []
        sys.setprofile(lambda _frame, event, _arg: called.append(event))
        try:
            service.window()
        finally:
            sys.setprofile(None)
        return sum(event in {"call", "c_call"} for event in called)

    def calls_with(points: int) -> int:
        while len(service.history.window(1)) <= points:
            service.answer(1)
            service.read()
        return calls()

    few = calls_with(6)
    assert calls_with(60) < 2 * few


def test_memory_is_bounded_whatever_happens(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_SCOPES", 4)
    models = [f"m{number}" for number in range(9)]
    for turn in range(80):
        for model in models:
            service.answer(1, model)
        if turn == 70:
            service.metrics.forget("m0", "1")
        service.read()
    assert service.history.left_out == 5
    assert service.window()["series"]["requests_per_second"][-1] == len(models)
    rings = [sample for minutes in WINDOWS for sample in service.history.window(minutes)]
    assert max(len(sample.totals) for sample in rings) == 5
    assert len(rings) <= len(WINDOWS) * 68


def test_what_stands_still_takes_no_memory(service: Service) -> None:
    service.answer(1)
    service.read()
    for _ in range(5):
        service.read()
    first, *others = service.history.window(1)[1:]
    assert all(sample.totals[scope] is first.totals[scope] for sample in others for scope in ("", "m/1"))


def test_models_have_what_is_told_of_them_and_their_numbers(service: Service) -> None:
    service.metrics.load_seconds.labels("m", "1").set(2.5)
    service.answer(4)
    service.read(2)
    told = [Description("m", "1", "READY", batch_norms={"folded": 3, "left": 1}, left_because={"branches": 1}, left=[])]
    assert unpacked(packed(told)) == told
    (shown,) = overview.models(service.history, 1, told, State(models={"m/1": "LOADING"}))
    assert (shown["state"], shown["load_seconds"], shown["requests_per_second"]) == ("LOADING", 2.5, 2)
    assert (shown["batch_norms"], shown["left_because"]) == ({"folded": 3, "left": 1}, {"branches": 1})
    assert shown["latency_seconds"]["p50"] == pytest.approx(1.25e-3)


def test_gpus_and_queues_are_shown_where_they_are_measured(service: Service) -> None:
    names = {"utilization": 0.25, "memory_used_bytes": 2e9, "memory_total_bytes": 8e10, "power_usage": 120.0}
    for name, value in names.items():
        gauge = Gauge(f"nv_gpu_{name}", "Triton's name.", ["gpu_uuid"], registry=service.others)
        for uuid in ("GPU-a", "GPU-b"):
            gauge.labels(uuid).set(value)
    depth = Gauge("normserve_queue_depth", "Waiting.", ["model", "version"], registry=service.others)
    depth.labels("a", "1").set(2)
    depth.labels("b", "1").set(3)
    assert service.window()["gpus"] == []
    service.read()
    shown = service.window()
    assert (shown["now"]["queue_depth"], shown["series"]["queue_depth"]) == (5, [5])
    series = {name: [value] for name, value in names.items()}
    assert shown["gpus"] == [{"uuid": uuid, **names, "series": series} for uuid in ("GPU-a", "GPU-b")]
