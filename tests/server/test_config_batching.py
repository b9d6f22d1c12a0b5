from pathlib import Path

import pytest
from normserve_server.errors import LoadError
from normserve_server.model_config import Batching, QueuePolicy, read


def batching(tmp_path: Path, text: str, before: str = "max_batch_size: 8") -> Batching:
    (tmp_path / "config.pbtxt").write_text(f"{before} dynamic_batching {{ {text} }}")
    return read(tmp_path).batching


def test_every_field_in_this_services_units(tmp_path: Path) -> None:
    text = """
        preferred_batch_size: [ 8, 4, 4 ]
        max_queue_delay_microseconds: 1500
        preserve_ordering: true
        priority_levels: 3
        default_priority_level: 2
        default_queue_policy { allow_timeout_override: true max_queue_size: 7 }
        priority_queue_policy { key: 1 value { timeout_action: DELAY default_timeout_microseconds: 250000 } }
        priority_queue_policy { key: 3 value { } }
    """
    assert batching(tmp_path, text) == Batching(
        preferred_sizes=(4, 8),
        max_delay_seconds=0.0015,
        preserve_ordering=True,
        priority_levels=3,
        default_priority=2,
        policy=QueuePolicy(timeout_override=True, max_queue_size=7),
        policies={1: QueuePolicy(0.25, timeout_override=False, delay_expired=True), 3: QueuePolicy(timeout_override=False)},
    )


def test_where_no_policy_is_said_a_request_may_choose_its_timeout(tmp_path: Path) -> None:
    assert batching(tmp_path, "").policy.timeout_override
    assert not batching(tmp_path, "default_queue_policy {}").policy.timeout_override


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preferred_batch_size: [4, 9]", "preferred_batch_size is 1 to max_batch_size, which is 8, got 9"),
        ("preferred_batch_size: 0", "which is 8, got 0"),
        ("priority_levels: 3", "default_priority_level is 1 to priority_levels, which is 3, got 0"),
        ("priority_levels: 3 default_priority_level: 4", "which is 3, got 4"),
        ("default_priority_level: 1", "default_priority_level is 1, but priority_levels is not set"),
        ("priority_queue_policy { key: 1 }", "priority_queue_policy is for 1 to priority_levels, which is 0, got 1"),
        ("default_queue_policy { timeout_action: 5 }", "timeout_action is REJECT or DELAY, got 5"),
        ("preserve: true", "preserve"),
    ],
)
def test_what_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        batching(tmp_path, text)


@pytest.mark.parametrize("buckets", ["1,2,4", "2,1,8", "1,1,8", "0,8", "9"])
def test_buckets_ascend_to_the_largest_batch(tmp_path: Path, buckets: str) -> None:
    parameter = f"parameters {{ key: 'batch_buckets' value {{ string_value: '{buckets}' }} }}"
    with pytest.raises(LoadError, match="ascends to max_batch_size, which is 8, got"):
        batching(tmp_path, "", f"max_batch_size: 8 {parameter}")
    assert batching(tmp_path, "", parameter).buckets  # to be checked once the file has told the batch size


def test_sizes_without_batching_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="which is 0, got 4"):
        batching(tmp_path, "preferred_batch_size: 4", "max_batch_size: 0")
