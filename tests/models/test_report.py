"""report.json."""

import json

import pytest
from normserve_models.report import SCHEMA, Cost, LayerError, Norm, OutputError, Precision, Report, RunCost

REPORT = Report(
    "abc",
    [
        Norm("bn1", "scale1", folded=True, into=["conv1"], way=["Conv takes it in"], cost=Cost(-1, -64, None)),
        Norm("bn2", "scale2", folded=False, reason="blocked", detail="Relu"),
    ],
    [OutputError("logits", 1e-7, 2e-7, 1e-6)],
    [LayerError("conv1", "bn1.y", 1e-7, None)],
    Precision("float16", 12, 1, 3, {"Resize": 2}, [OutputError("logits", 1e-3, 2e-3, 8e-3)]),
    RunCost(2.0, 1.0, 0.5, 100, 2),
    proof="Judged",
    seconds={"fold": 0.5},
)


def test_what_is_written_is_read_again() -> None:
    assert Report.from_json(REPORT.to_json()) == REPORT
    assert Report.from_json(Report("abc", []).to_json()) == Report("abc", [])


def test_the_counts_stand_in_the_file() -> None:
    data = json.loads(REPORT.to_json())
    assert (data["folded"], data["left"], data["schema"], data["source_sha256"]) == (1, 1, SCHEMA, "abc")


def test_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="schema 99, wanted 2"):
        Report.from_json(REPORT.to_json().replace(f'"schema": {SCHEMA}', '"schema": 99'))
