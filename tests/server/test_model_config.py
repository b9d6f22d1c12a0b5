"""From a config's text to what the engine reads; batching, tensors and warm-up have files of their own."""

import json
from pathlib import Path

import pytest
from normserve_server.errors import LoadError
from normserve_server.model_config import Batching, InstanceGroup, ModelConfig, read

CPU_PAIR = InstanceGroup(2, "cpu")


def folder(tmp_path: Path, text: str) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.pbtxt").write_text(text)
    return tmp_path / "net"


def parameter(key: str, value: str) -> str:
    return f"parameters {{ key: '{key}' value: {{ string_value: '{value}' }} }}"


def test_without_a_file_the_model_says_it_all(tmp_path: Path) -> None:
    assert read(tmp_path) == ModelConfig("model.onnx", None)


def test_what_is_honoured(tmp_path: Path) -> None:
    text = 'name: "net" backend: "onnxruntime" max_batch_size: 16 default_model_filename: "net.onnx" dynamic_batching {}'
    config = read(folder(tmp_path, text))
    assert config == ModelConfig("net.onnx", 16)
    assert config.message.HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ModelConfig()),
        ("platform: 'onnxruntime_onnx'", ModelConfig()),
        ("version_policy { latest { num_versions: 2 } }", ModelConfig()),
        ("version_policy { all {} }", ModelConfig()),
        ("version_policy: { specific: { versions: [1, 3] } }", ModelConfig()),
        ("instance_group [ { count: 2 kind: KIND_CPU } ]", ModelConfig(instances=(CPU_PAIR,))),
        ("instance_group { kind: KIND_CPU }", ModelConfig(instances=(InstanceGroup(1, "cpu"),))),
        (
            "instance_group { name: 'a' kind: KIND_GPU gpus: [0, 2] } instance_group {}",
            ModelConfig(instances=(InstanceGroup(1, "gpu", (0, 2), "a"), InstanceGroup())),
        ),
        (parameter("intra_op_thread_count", "3"), ModelConfig(threads=3)),
        (parameter("intra_op_thread_count", "0"), ModelConfig()),
        (parameter("batch_buckets", "1,2, 4"), ModelConfig(batching=Batching(buckets=(1, 2, 4)))),
        (parameter("batch_buckets", "none"), ModelConfig(batching=Batching(buckets=()))),
        (parameter("batch_buckets", ""), ModelConfig(batching=Batching(buckets=()))),
        (parameter("execution_mode", "0") + parameter("inter_op_thread_count", "1"), ModelConfig()),
        ("optimization { graph { level: -1 } }", ModelConfig(graph_optimization="ORT_ENABLE_BASIC")),
        ("optimization { graph { level: 1 } }", ModelConfig(graph_optimization="ORT_ENABLE_EXTENDED")),
        ("optimization { graph { level: 2 } }", ModelConfig(graph_optimization="ORT_DISABLE_ALL")),
        ("optimization { graph { level: 0 } input_pinned_memory { enable: false } }", ModelConfig()),
        ("model_transaction_policy { decoupled: false } response_cache { enable: false }", ModelConfig()),
    ],
)
def test_each_field(tmp_path: Path, text: str, expected: ModelConfig) -> None:
    assert read(folder(tmp_path, text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sequence_batching {} model_metrics {}", "model_metrics, sequence_batching is not offered"),
        ("ensemble_scheduling {}", "ensemble_scheduling is not offered"),
        ("optimization { cuda { graphs: true } }", r"config\.pbtxt: optimization\.cuda is not offered"),
        ("optimization { input_pinned_memory { enable: true } }", r"optimization\.input_pinned_memory\.enable is not"),
        ("instance_group {} instance_group { passive: true }", r"instance_group\[1\]\.passive is not offered"),
        ("input { name: 'x' optional: true }", r"input\[0\]\.optional is not offered"),
        ("response_cache { enable: true }", r"response_cache\.enable is not offered"),
        ("model_transaction_policy { decoupled: true }", r"model_transaction_policy\.decoupled is not offered"),
        (parameter("gpu_mem_limit", "0"), r"parameters\[gpu_mem_limit\] is not offered"),
        (parameter("execution_mode", "1"), r"parameters\[execution_mode\] is 0, got '1'"),
        (parameter("inter_op_thread_count", "2"), r"parameters\[inter_op_thread_count\] is 0 or 1, got '2'"),
        (parameter("intra_op_thread_count", "all"), "made of integers >= 0, got 'all'"),
        (parameter("intra_op_thread_count", "-1"), "made of integers >= 0, got '-1'"),
        (parameter("intra_op_thread_count", "5000"), "is 0 to 1024, got 5000"),
        (parameter("batch_buckets", "1,,2"), r"parameters\[batch_buckets\] is made of integers >= 0, got ''"),
        ("name: 'other'", "name is 'other', the folder's is 'net'"),
        ("platform: 'tensorrt_plan'", "platform is 'onnxruntime_onnx', .* got 'tensorrt_plan'"),
        ("platform: 'onnxruntime_onnx' backend: 'python'", "backend is 'onnxruntime', .* got 'python'"),
        ("max_batch_size: -1", "max_batch_size is >= 0, got -1"),
        ("default_model_filename: '../other/model.onnx'", "plain file name"),
        ("default_model_filename: '..'", "plain file name"),
        ("version_policy { latest {} }", "num_versions is >= 1, got 0"),
        ("version_policy { specific {} }", r"at least one, got \[\]"),
        ("version_policy { specific { versions: [2, 0] } }", r">= 1, at least one, got \[2, 0\]"),
        ("instance_group { kind: KIND_MODEL }", r"instance_group\[0\]\.kind is .*, got KIND_MODEL"),
        ("instance_group { kind: 9 }", r"instance_group\[0\]\.kind is .*, got 9"),
        ("instance_group { count: -1 }", r"instance_group\[0\]\.count is 1 to 1024, got -1"),
        ("instance_group { kind: KIND_CPU gpus: 0 }", r"gpus is for KIND_GPU and KIND_AUTO, got \[0\]"),
        ("instance_group { gpus: [1, 1] }", r"gpus are different numbers >= 0, got \[1, 1\]"),
        ("optimization { graph { level: 3 } }", r"optimization\.graph\.level is -1, 0, 1 or 2, got 3"),
        ("max_batch: 3", "max_batch"),
        ("{" * 10_000, r"\.\.\.$"),
    ],
)
def test_everything_else_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        read(folder(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_batch_size: 0", 0),
        ("max_batch_size: 4", 4),
        ("# max_batch_size: 4\n", None),
        ("input { name: 'x' }", None),
        ("input { name: 'x' } output { name: 'y' }", 0),  # as for Triton, which then completes nothing
    ],
)
def test_a_batch_size_of_0_is_not_the_same_as_none(tmp_path: Path, text: str, expected: int | None) -> None:
    assert read(folder(tmp_path, text)).max_batch_size == expected


@pytest.mark.parametrize("size", [0, 3, None])
@pytest.mark.parametrize("key", ["max_batch_size", "maxBatchSize"])
def test_an_override_stands_in_for_the_file(tmp_path: Path, size: int | None, key: str) -> None:
    model = folder(tmp_path, "max_batch_size: 16 dynamic_batching { preserve_ordering: true }")
    text = json.dumps({"instance_group": [{"count": "2", "kind": "KIND_CPU"}]} | ({} if size is None else {key: size}))
    assert read(model, text) == ModelConfig(max_batch_size=size, instances=(CPU_PAIR,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config: Failed to load JSON"),
        ("[]", r"config: a JSON object is wanted, got \[\]"),
        ('{"max_batch": 3}', 'no field named "max_batch"'),
        ('{"optimization": {"cuda": {}}}', r"config: optimization\.cuda is not offered"),
        ('{"name": "\\ud800"}', "config: "),
        ("[" * 100_000, "config: "),
    ],
)
def test_an_override_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        read(folder(tmp_path, ""), text)


def test_a_file_that_cannot_be_read_is_not_ignored(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").symlink_to("gone")
    with pytest.raises(LoadError, match=r"config\.pbtxt: cannot be read: No such file"):
        read(tmp_path)
    (tmp_path / "config.pbtxt").unlink()
    (tmp_path / "config.pbtxt").write_bytes(b"name: '\xff'")
    with pytest.raises(LoadError, match=r"config\.pbtxt: .*utf-8"):
        read(tmp_path)
