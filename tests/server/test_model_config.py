from pathlib import Path

import pytest
from normserve_server.model_config import ModelConfig, read
from normserve_server.session import LoadError


def folder(tmp_path: Path, text: str) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.pbtxt").write_text(text)
    return tmp_path / "net"


def test_without_a_file_the_model_says_it_all(tmp_path: Path) -> None:
    assert read(tmp_path) == ModelConfig("model.onnx", None)


def test_what_is_honoured(tmp_path: Path) -> None:
    text = 'name: "net" backend: "onnxruntime" max_batch_size: 16 default_model_filename: "net.onnx" dynamic_batching {}'
    assert read(folder(tmp_path, text)) == ModelConfig("net.onnx", 16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sequence_batching {} model_warmup { name: 'x' }", "model_warmup, sequence_batching is not offered"),
        ("dynamic_batching { preferred_batch_size: 4 }", "fields of dynamic_batching are not offered"),
        ("name: 'other'", "name is 'other', the folder's is 'net'"),
        ("platform: 'tensorrt_plan'", "only onnxruntime serves here, got 'tensorrt_plan'"),
        ("max_batch_size: -1", "max_batch_size is >= 0, got -1"),
        ("default_model_filename: '../other/model.onnx'", "plain file name"),
        ("max_batch: 3", "max_batch"),
    ],
)
def test_everything_else_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        read(folder(tmp_path, text))
