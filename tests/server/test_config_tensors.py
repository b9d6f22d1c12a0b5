"""What a config declares of inputs and outputs, alone and against the model's file."""

from pathlib import Path

import pytest
from normserve_server.config_signature import narrowed
from normserve_server.errors import LoadError
from normserve_server.model_config import ModelConfig, read
from normserve_server.reshaping import Reshape
from normserve_server.servable import Signature, TensorSpec

# Of a file with batching, one without, and one that is nothing but its batch's extent.
BATCHED = Signature(
    (TensorSpec("x", "FP32", (-1, 3, -1)), TensorSpec("s", "BYTES", (-1, 1))), (TensorSpec("y", "FP32", (-1, 10)),), 8
)
SINGLE = Signature((TensorSpec("x", "FP32", (1, 3, -1)),), (TensorSpec("y", "INT64", (1, 10, 1)),), 0)
SCALARS = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),), 8)


def config(folder: Path, text: str) -> ModelConfig:
    (folder / "config.pbtxt").write_text(text)
    return read(folder)


@pytest.mark.parametrize(
    ("file", "text", "inputs", "outputs"),
    [
        (BATCHED, "", [(-1, 3, -1), (-1, 1)], [(-1, 10)]),
        (BATCHED, "input { name: 'x' }", [(-1, 3, -1), (-1, 1)], [(-1, 10)]),
        (BATCHED, "input { name: 'x' dims: [3, 224] }", [(-1, 3, 224), (-1, 1)], [(-1, 10)]),
        (BATCHED, "input { name: 'x' dims: [3, -1] data_type: TYPE_FP32 }", [(-1, 3, -1), (-1, 1)], [(-1, 10)]),
        (BATCHED, "input { name: 's' data_type: TYPE_STRING dims: 1 }", [(-1, 3, -1), (-1, 1)], [(-1, 10)]),
        (BATCHED, "output { name: 'y' dims: [2, 5] reshape { shape: 10 } }", [(-1, 3, -1), (-1, 1)], [(-1, 2, 5)]),
        (BATCHED, "input { name: 'x' dims: -1 reshape { shape: [3, -1] } }", None, None),  # 3 elements on one side only
        (BATCHED, "input { name: 'x' dims: [3, -1, 1] reshape { shape: [3, -1] } }", [(-1, 3, -1, 1), (-1, 1)], [(-1, 10)]),
        (SINGLE, "input { name: 'x' dims: [1, 3, 4] }", [(1, 3, 4)], [(1, 10, 1)]),
        (SINGLE, "input { name: 'x' dims: [3, 4] reshape { shape: [1, 3, 4] } }", [(3, 4)], [(1, 10, 1)]),
        (SINGLE, "output { name: 'y' dims: 10 reshape { shape: [1, 10, 1] } }", [(1, 3, -1)], [(10,)]),
        (BATCHED, "input { name: 's' reshape { shape: 1 } }", [(-1, 3, -1), (-1,)], [(-1, 10)]),
        (SCALARS, "input { name: 'x' dims: 1 reshape { shape: [] } }", [(-1, 1)], [(-1,)]),
    ],
)
def test_what_clients_see(tmp_path: Path, file: Signature, text: str, inputs: list | None, outputs: list | None) -> None:
    if inputs is None:
        with pytest.raises(LoadError, match=r"input 'x': dims \[-1\] do not reshape to \[3, -1\]"):
            config(tmp_path, text)
        return
    seen = narrowed(file, config(tmp_path, text))
    assert [spec.shape for spec in seen.inputs] == inputs
    assert [spec.shape for spec in seen.outputs] == outputs
    assert [spec.datatype for spec in (*seen.inputs, *seen.outputs)] == [s.datatype for s in (*file.inputs, *file.outputs)]
    assert seen.max_batch_size == file.max_batch_size


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (BATCHED, "input { name: 'z' }", "declares input 'z', the model's file has x, s"),
        (BATCHED, "output { name: 'x' }", "declares output 'x', the model's file has y"),
        (BATCHED, "input { name: 'x' data_type: TYPE_FP16 }", "'x' as TYPE_FP16, the model's file has FP32"),
        (BATCHED, "input { name: 'x' dims: [-1, 3, 224] }", r"'x' with dims \[-1, 3, 224\], .* has \[3, -1\] behind the batch"),
        (BATCHED, "input { name: 'x' dims: [4, 224] }", r"with dims \[4, 224\], the model's file has \[3, -1\]"),
        (BATCHED, "output { name: 'y' dims: -1 }", r"with dims \[-1\], the model's file has \[10\] behind the batch's extent"),
        (SINGLE, "input { name: 'x' dims: [3, 4] }", r"with dims \[3, 4\], the model's file has \[1, 3, -1\]$"),
        (SINGLE, "input { name: 'x' dims: 3 reshape { shape: [3, 1] } }", r"with reshape.shape \[3, 1\], .* has \[1, 3, -1\]"),
        (BATCHED, "dynamic_batching { preferred_batch_size: 9 }", "max_batch_size, which is 8, got 9"),
    ],
)
def test_what_contradicts_the_file(tmp_path: Path, file: Signature, text: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        narrowed(file, config(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input { dims: 3 }", r"input\[0\]\.name is missing"),
        ("output { name: 'y' } output { name: 'y' }", "output 'y' is declared twice"),
        ("input { name: 'x' dims: [3, 0] }", r"input 'x': dims are >= 1, or -1 for any, got \[3, 0\]"),
        ("input { name: 'x' dims: -2 }", r"input 'x': dims are >= 1, or -1 for any, got \[-2\]"),
        ("input { name: 'x' dims: 4 reshape { shape: [2, 0] } }", r"input 'x': reshape\.shape are >= 1"),
        ("input { name: 'x' dims: 4 reshape { shape: [2, 3] } }", r"dims \[4\] do not reshape to \[2, 3\]"),
        ("input { name: 'x' dims: [2, -1, 3] reshape { shape: [6, -1] } }", r"do not reshape to \[6, -1\]"),
        ("input { name: 'x' data_type: 99 }", "input 'x': data_type 99 is unknown"),
        ("input { name: 'x' format: 7 }", "input 'x': format 7 is unknown"),
        ("input { name: 'x' format: FORMAT_NCHW dims: [1, 3, 8, 8] }", r"FORMAT_NCHW takes 3 dims, got \[1, 3, 8, 8\]"),
        ("output { name: 'y' label_filename: '../labels.txt' }", "output 'y': label_filename is a plain file name"),
        ("output { name: 'y' label_filename: 'labels\\000' }", "output 'y': label_filename is a plain file name"),
        ("output { name: 'y' label_filename: 'gone.txt' }", "output 'y': label_filename 'gone.txt' cannot be read: No such"),
        ("output { name: 'y' label_filename: 'odd.txt' }", "output 'y': label_filename 'odd.txt' is not UTF-8"),
    ],
)
def test_what_no_model_has(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "odd.txt").write_bytes(b"\xff\n")
    with pytest.raises(LoadError, match=message):
        config(tmp_path, text)


def test_reshapes_by_name(tmp_path: Path) -> None:
    text = """input { name: 'x' dims: [3, -1] reshape { shape: [1, 3, -1] } } input { name: 's' }
              output { name: 'x' dims: 1 reshape { shape: [] } }"""
    both = config(tmp_path, text)
    assert both.input_reshapes == {"x": Reshape((3, -1), (1, 3, -1))}
    assert both.output_reshapes == {"x": Reshape((1,), ())}


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("cat\ndog\n", ("cat", "dog")),
        ("cat\r\ndog", ("cat", "dog")),
        ("\ncät \n\n", ("", "cät ", "")),
        ("", ()),
    ],
)
def test_labels_are_lines(tmp_path: Path, written: str, labels: tuple[str, ...]) -> None:
    (tmp_path / "labels.txt").write_text(written, encoding="utf-8", newline="")
    assert config(tmp_path, "output { name: 'y' label_filename: 'labels.txt' } output { name: 'z' }").labels == {"y": labels}
