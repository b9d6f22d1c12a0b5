import logging
from collections.abc import Sequence
from typing import Any

import pytest
from normserve_server.exporting import EXPORTED, FAILED, _LastWords, _Sender
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

OK, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


class FakeExporter(SpanExporter):
    """Answers one after the other; says why, where it fails, as OpenTelemetry's do."""

    def __init__(self, *answers: SpanExportResult | Exception) -> None:
        self._answers = list(answers)

    def export(self, _spans: Sequence[Any]) -> SpanExportResult:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer is FAILURE:
            logging.getLogger("opentelemetry.exporter").error("nobody at %s", "c:4317")
        return answer


def test_what_becomes_of_spans_is_counted_and_only_a_change_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    counted: list[tuple[str, int]] = []
    answers = (OK, FAILURE, FAILURE, ValueError("a bug"), OK, OK)
    sender = _Sender(FakeExporter(*answers), "http://c:4317", lambda *one: counted.append(one), _LastWords())
    with capture_logs() as lines:
        for size, answer in enumerate(answers, 1):
            if isinstance(answer, Exception):
                with pytest.raises(ValueError, match="a bug"):
                    sender.export([None] * size)
            else:
                assert sender.export([None] * size) is answer
    assert counted == [(EXPORTED, 1), (FAILED, 2), (FAILED, 3), (FAILED, 4), (EXPORTED, 5), (EXPORTED, 6)]
    assert sender.done == 21
    place = {"endpoint": "http://c:4317"}
    assert lines == [
        {"event": "spans cannot be exported", "log_level": "warning", **place, "reason": "nobody at c:4317"},
        {"event": "spans are exported again", "log_level": "info", **place},
    ]
    assert capfd.readouterr() == ("", "")
