from pathlib import Path

import numpy as np
import pytest
from normserve_proto import tensors
from normserve_proto.tensors import DTYPES
from normserve_server.errors import LoadError
from normserve_server.model_config import read
from normserve_server.servable import Signature, TensorSpec
from normserve_server.warm_up_requests import WarmUpRequest
from normserve_server.warm_up_requests import read as read_requests

BATCHED = Signature((TensorSpec("x", "FP32", (-1, 2, -1)),), (), 4)
SINGLE = Signature((TensorSpec("x", "INT64", (2,)), TensorSpec("s", "BYTES", (-1,))), (), 0)


def requests(folder: Path, text: str, signature: Signature) -> tuple[WarmUpRequest, ...]:
    (folder / "config.pbtxt").write_text(text)
    return read_requests(folder, read(folder), signature)


def warm_up(inputs: str, head: str = "name: 'a' batch_size: 3") -> str:
    return f"model_warmup {{ {head} {inputs} }}"


def an_input(fill: str, name: str = "x", kind: str = "TYPE_FP32", dims: str = "[2, 3]") -> str:
    return f"inputs {{ key: '{name}' value {{ data_type: {kind} dims: {dims} {fill} }} }}"


def test_zeros_and_random_data_in_front_of_the_batchs_extent(tmp_path: Path) -> None:
    text = warm_up(an_input("zero_data: true"), "name: 'a' batch_size: 3 count: 5") + warm_up(an_input("random_data: true"), "")
    zeros, random = requests(tmp_path, text, BATCHED)
    assert (zeros.name, zeros.count, random.name, random.count) == ("a", 5, "", 1)
    assert zeros.inputs["x"].shape == (3, 2, 3)
    assert not zeros.inputs["x"].any()
    assert random.inputs["x"].shape == (1, 2, 3)
    assert random.inputs["x"].dtype == np.float32
    assert len(np.unique(random.inputs["x"])) == 6
    assert requests(tmp_path, text, BATCHED)[1].inputs["x"].tolist() == random.inputs["x"].tolist()


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_is_filled(tmp_path: Path, datatype: str) -> None:
    kind = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    signature = Signature((TensorSpec("x", datatype, (-1, 40)),), (), 4)
    text = "".join(warm_up(an_input(fill, kind=kind, dims="40")) for fill in ("zero_data: true", "random_data: false"))
    zeros, random = (request.inputs["x"] for request in requests(tmp_path, text, signature))
    assert zeros.dtype == random.dtype == DTYPES[datatype]
    if datatype == "BYTES":
        assert set(random.flat) == set(zeros.flat) == {b""}
        return
    assert not zeros.astype(np.float64).any()
    values = random.astype(np.float64)
    assert values.any()
    assert values.min() >= 0
    assert values.max() <= 1
    assert (set(values.flat) == {0, 1}) == (random.dtype.kind in "biu")


def test_a_file_holds_one_sample(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    sample = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "warmup" / "x.raw").write_bytes(sample.tobytes())
    (request,) = requests(tmp_path, warm_up(an_input("input_data_file: 'x.raw'")), BATCHED)
    assert request.inputs["x"].tolist() == [sample.tolist()] * 3
    assert request.inputs["x"].flags.writeable


def test_without_batching_and_with_strings(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "s.raw").write_bytes(tensors.encode(np.array([b"one", b"", "zwölf"], object)))
    inputs = an_input("random_data: true", kind="TYPE_INT64", dims="2")
    inputs += an_input("input_data_file: 's.raw'", "s", "TYPE_STRING", "3")
    (request,) = requests(tmp_path, warm_up(inputs, "batch_size: 1"), SINGLE)
    assert list(request.inputs) == ["x", "s"]
    assert request.inputs["x"].shape == (2,)
    assert request.inputs["s"].tolist() == [b"one", b"", "zwölf".encode()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (warm_up(""), "model_warmup 'a': missing input 'x'"),
        (warm_up(an_input("zero_data: true") + an_input("zero_data: true", "z")), "unknown input 'z'"),
        (warm_up(an_input("zero_data: true"), "batch_size: 5"), "model_warmup '': batch_size is 1 to 4, got 5"),
        (warm_up(an_input("")), "input 'x': one of zero_data, random_data and input_data_file is wanted, got none"),
        (warm_up(an_input("zero_data: true", kind="TYPE_FP16")), "input 'x' is FP32, got TYPE_FP16"),
        (warm_up(an_input("zero_data: true", kind="99")), "input 'x' is FP32, got 99"),
        (warm_up(an_input("zero_data: true", dims="[3, 3]")), r"input 'x' has dims \[2, -1\], got \[3, 3\]"),
        (warm_up(an_input("zero_data: true", dims="[3, 2, 3]")), r"input 'x' has dims \[2, -1\], got \[3, 2, 3\]"),
        (warm_up(an_input("zero_data: true", dims="[2, -1]")), r"input 'x' has dims \[2, -1\], got \[2, -1\]"),
        (warm_up(an_input("zero_data: true", dims="[2, 4611686018427387904]")), "model_warmup 'a', input 'x': "),
        (warm_up(an_input("zero_data: true", dims="[2, 281474976710656]")), "model_warmup 'a', input 'x': Unable to allocate"),
        (warm_up(an_input("random_data: true", dims="[2, 4611686018427387904]")), "model_warmup 'a', input 'x': "),
        (warm_up(an_input("input_data_file: 'gone'")), "input_data_file 'gone' cannot be read: No such file"),
        (warm_up(an_input("input_data_file: '../x.raw'")), "input_data_file is a plain file name, got '../x.raw'"),
        (warm_up(an_input("input_data_file: ''")), "input_data_file is a plain file name, got ''"),
        (warm_up(an_input("input_data_file: 'short.raw'")), r"FP32 of shape \[2, 3\] takes 24 bytes, got 5"),
    ],
)
def test_what_cannot_be_run(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "short.raw").write_bytes(b"12345")
    with pytest.raises(LoadError, match=message):
        requests(tmp_path, text, BATCHED)


def test_one_sample_where_the_model_has_no_batch(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="batch_size is 1 to 1, got 2"):
        requests(tmp_path, warm_up("", "batch_size: 2"), SINGLE)
