"""State dicts go out as torch's and come in as torch takes them."""

import numpy as np
import pytest
import torch
from normserve_server.errors import InvalidRequestError
from normserve_server.normalizers.batch_norm import BatchNorm
from normserve_server.normalizers.layer import Layer, State
from normserve_server.normalizers.running_norm import RunningNorm

ARRAY = np.arange(1, 4, dtype=np.float32)


def full(**changed: np.ndarray | None) -> State:
    state = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), ARRAY)
    state |= {"num_batches_tracked": np.array(7)} | changed
    return {name: array for name, array in state.items() if array is not None}


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_moves_to_torch_and_back_bit_for_bit(momentum: float | None, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(1)
    module = torch.nn.BatchNorm1d(3, momentum=momentum, dtype=dtype)
    for parameter in (*module.parameters(), module.running_mean, module.running_var):
        torch.nn.init.uniform_(parameter, generator=random)
    module.num_batches_tracked += 11
    theirs = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    layer = BatchNorm(3, 1, momentum=momentum, datatype={torch.float32: "FP32", torch.float64: "FP64"}[dtype])
    ours = layer.exported(layer.loaded(theirs, 2, layer.initial()))
    assert list(ours) == list(theirs)
    assert all(ours[name].tobytes() == theirs[name].tobytes() and ours[name].dtype == theirs[name].dtype for name in ours)


REFUSED = [
    (full(weight=None), r'Missing key\(s\) in state_dict: "weight"\.'),
    (full(num_batches_tracked=None), r'Missing key\(s\) in state_dict: "num_batches_tracked"\.'),
    (full(a=ARRAY), r'Unexpected key\(s\) in state_dict: "a"\.'),
    ({"a": ARRAY}, r'Missing key\(s\) in state_dict: "weight", .* Unexpected key\(s\) in state_dict: "a"\.'),
    (full(bias=ARRAY[:2]), r"size mismatch for bias: copying a param with shape \[2\] .* current model is \[3\]"),
    (full(running_var=-ARRAY), r"running_var is >= 0, got -3"),
    (full(num_batches_tracked=np.array(-1)), r"num_batches_tracked is >= 0, got -1"),
    (full(num_batches_tracked=np.array(1.0)), r"num_batches_tracked is INT64, got FP64"),
    (full(bias=np.arange(3)), r"bias is FP16 or BF16 or FP32 or FP64, got INT64"),
]


@pytest.mark.parametrize(("tensors", "text"), REFUSED)
def test_the_wrong_kind_is_refused(tensors: State, text: str) -> None:
    layer = BatchNorm(3)
    with pytest.raises(InvalidRequestError, match=text):
        layer.loaded(tensors, 2, layer.initial())


def test_version_1_has_no_counter_and_leaves_it_as_torch_does() -> None:
    layer, module = BatchNorm(3), torch.nn.BatchNorm1d(3)
    module(torch.zeros(2, 3))
    present = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    module.load_state_dict({name: torch.zeros(3) for name in present if name != "num_batches_tracked"})
    loaded = layer.loaded({name: np.zeros(3) for name in present if name != "num_batches_tracked"}, 1, present)
    assert loaded["num_batches_tracked"] == module.num_batches_tracked == 1


def test_a_vector_of_one_is_a_scalar() -> None:
    layer = BatchNorm(3)
    assert layer.loaded(full(num_batches_tracked=np.array([5])), 2, layer.initial())["num_batches_tracked"] == 5


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("count", -1.0, "count is >= 0"),
        ("var", -1.0, "var is >= 0"),
        ("count", np.inf, "count is finite"),
        ("mean", None, "Missing"),
    ],
)
def test_the_running_layers_state_is_checked_too(name: str, value: float | None, text: str) -> None:
    layer: Layer = RunningNorm(())
    tensors = {**layer.initial(), name: np.array(value)} if value is not None else {"count": np.zeros(()), "var": np.zeros(())}
    with pytest.raises(InvalidRequestError, match=text):
        layer.loaded(tensors, 2, layer.initial())


def test_nan_is_taken() -> None:
    layer = BatchNorm(3)
    assert np.isnan(layer.loaded(full(running_var=ARRAY * np.nan), 2, layer.initial())["running_var"]).all()
