"""Whatever is wrong is named, and the state is as it was."""

from typing import Any

import numpy as np
import pytest
from normserve_proto import normalization_pb2 as npb
from normserve_proto import normalizers_pb2 as pb
from normserve_proto.tensors import TensorError
from normserve_server.errors import InvalidRequestError, NotFoundError

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")

NAME = "normalizers/obs"
BATCH = pb.BatchNormLayer
X = np.ones((4, 2), np.float32)
INPUT = npb.Tensor(datatype="FP32", shape=X.shape, data=X.tobytes())


def norm(**fields: Any) -> dict[str, Any]:
    return {"normalizer": pb.Normalizer(**fields)}


CREATES = [
    ({"normalizer_id": ""}, "normalizer_id: an id is 1 to 63 letters"),
    ({"normalizer_id": "_a"}, "normalizer_id: .* got '_a'"),
    ({"normalizer_id": "a/b"}, "normalizer_id: .* got 'a/b'"),
    ({"normalizer_id": "a\n"}, "normalizer_id: "),
    ({"normalizer_id": "ä"}, "normalizer_id: "),
    ({"normalizer_id": "a" * 64}, "normalizer_id: "),
    ({}, "normalizer or snapshot: one of the two is required"),
    (norm(batch_norm=BATCH(num_features=1)) | {"snapshot": b"x"}, "normalizer or snapshot: .* not both"),
    (norm(), "layer: one of batch_norm, instance_norm, running_norm is required, got none"),
    (norm(name="normalizers/b", batch_norm=BATCH(num_features=1)), "normalizer.name: 'normalizers/new' or nothing"),
    (norm(mode=7, batch_norm=BATCH(num_features=1)), "mode: one of MODE_UNSPECIFIED, .* got 7"),
    (norm(batch_norm=BATCH()), "num_features is > 0 and <= 1048576, got 0"),
    (norm(batch_norm=BATCH(num_features=2**40)), "num_features is > 0 and <= 1048576, got 1099511627776"),
    (norm(batch_norm=BATCH(num_features=1, dimensions=4)), "dimensions is 0 to 3, got 4"),
    (norm(batch_norm=BATCH(num_features=1, eps=-1)), "eps is >= 0 and finite, got -1"),
    (norm(batch_norm=BATCH(num_features=1, eps=float("nan"))), "eps is >= 0 and finite, got nan"),
    (norm(batch_norm=BATCH(num_features=1, momentum=1.5)), r"momentum is in \[0, 1\], got 1.5"),
    (norm(batch_norm=BATCH(num_features=1, momentum=-0.1)), r"momentum is in \[0, 1\], got -0.1"),
    (norm(batch_norm=BATCH(num_features=1, momentum=float("nan"))), r"momentum is in \[0, 1\], got nan"),
    (norm(batch_norm=BATCH(num_features=1, momentum=0.1, cumulative=True)), "cumulative averaging takes no momentum"),
    (norm(batch_norm=BATCH(num_features=1, datatype="FP16")), "datatype is FP32 or FP64, got 'FP16'"),
    (norm(instance_norm=pb.InstanceNormLayer(num_features=1)), "dimensions is 1 to 3, got 0"),
    (norm(running_norm=pb.RunningNormLayer(shape=[2, 0])), r"shape has at most 32 extents > 0 .* got \[2, 0\]"),
    (norm(running_norm=pb.RunningNormLayer(shape=[2**11, 2**11])), "shape has .* 1048576 elements"),
    (norm(running_norm=pb.RunningNormLayer(eps=0)), "eps is > 0 and finite, got 0"),
    (norm(running_norm=pb.RunningNormLayer(clip=0)), "clip is > 0 and finite, got 0"),
    (norm(running_norm=pb.RunningNormLayer(clip=float("inf"))), "clip is > 0 and finite, got inf"),
    (norm(running_norm=pb.RunningNormLayer(clip=float("nan"))), "clip is > 0 and finite, got nan"),
    (norm(batch_norm=BATCH(num_features=1)) | {"request_id": "x" * 129}, "request_id has at most 128 characters"),
    ({"snapshot": b"none"}, "snapshot: no safetensors file"),
]


@pytest.mark.parametrize(("fields", "text"), CREATES)
async def test_nothing_is_made_of_what_cannot_be(service, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        await service("CreateNormalizer", **({"normalizer_id": "new"} | fields))
    assert not (await service("ListNormalizers")).normalizers


def state_dict(**changed: Any) -> dict[str, Any]:
    arrays = {name: np.ones(2, np.float32) for name in ("weight", "bias", "running_mean", "running_var")}
    arrays |= {"num_batches_tracked": np.array(3)} | changed
    kinds = {"f4": "FP32", "i8": "INT64"}
    return {
        "name": NAME,
        "tensors": [
            pb.NamedTensor(name=n, tensor=npb.Tensor(datatype=kinds[a.dtype.str[1:]], shape=a.shape, data=a.tobytes()))
            for n, a in arrays.items()
        ],
    }


def changed(*mask: str, name: str = NAME, **fields: Any) -> dict[str, Any]:
    return norm(name=name, **fields) | {"update_mask": {"paths": list(mask)}}


CALLS = [
    ("ObserveNormalizer", {"name": NAME}, InvalidRequestError, "input: required, got none"),
    (
        "ObserveNormalizer",
        {"name": "obs", "input": INPUT},
        InvalidRequestError,
        "name: 'normalizers/<id>' is wanted, got 'obs'",
    ),
    ("ObserveNormalizer", {"name": "normalizers/none", "input": INPUT}, NotFoundError, "no normalizer 'normalizers/none'"),
    ("ApplyNormalizer", {"name": "normalizers/none", "input": INPUT}, NotFoundError, "no normalizer 'normalizers/none'"),
    ("ApplyNormalizer", {"name": NAME, "input": INPUT, "mode": 9}, InvalidRequestError, "mode: one of"),
    (
        "ApplyNormalizer",
        {"name": NAME, "input": npb.Tensor(datatype="FP32", shape=[3], data=b"")},
        TensorError,
        "takes 12 bytes",
    ),
    (
        "ObserveNormalizer",
        {"name": NAME, "input": npb.Tensor(datatype="INT32", shape=[0, 2])},
        InvalidRequestError,
        "got INT32",
    ),
    (
        "ObserveNormalizer",
        {"name": NAME, "input": npb.Tensor(datatype="FP32", shape=[0, 3])},
        InvalidRequestError,
        "3 elements not 2",
    ),
    (
        "ApplyNormalizer",
        {"name": NAME, "input": npb.Tensor(datatype="FP32", shape=[0, 3])},
        InvalidRequestError,
        "3 elements not 2",
    ),
    ("LoadStateDict", state_dict(running_var=np.array([1, -1], "f4")), InvalidRequestError, "running_var is >= 0, got -1"),
    ("LoadStateDict", state_dict(running_mean=np.ones(3, "f4")), InvalidRequestError, "size mismatch for running_mean"),
    ("LoadStateDict", state_dict(count=np.ones(2, "f4")), InvalidRequestError, "Unexpected key"),
    (
        "LoadStateDict",
        {"name": NAME, "tensors": [pb.NamedTensor(name=str(number)) for number in range(17)]},
        InvalidRequestError,
        "tensors: a state has at most 16, got 17",
    ),
    ("UpdateNormalizer", {}, InvalidRequestError, "normalizer: required, got none"),
    ("UpdateNormalizer", changed(), InvalidRequestError, "update_mask: some of mode, .* are wanted, got none"),
    ("UpdateNormalizer", changed("batch_norm.eps"), InvalidRequestError, "update_mask: .* got batch_norm.eps"),
    ("UpdateNormalizer", changed("running_norm.clip"), InvalidRequestError, "is a batch_norm, and has no running_norm.clip"),
    ("UpdateNormalizer", changed(batch_norm=BATCH(momentum=2)), InvalidRequestError, "momentum is in"),
    ("UpdateNormalizer", changed(batch_norm=BATCH(momentum=0.5, cumulative=True)), InvalidRequestError, "takes no momentum"),
    ("UpdateNormalizer", changed("mode", mode=5), InvalidRequestError, "mode: one of"),
    ("UpdateNormalizer", changed("mode", name="normalizers/none"), NotFoundError, "no normalizer 'normalizers/none'"),
]


@pytest.mark.parametrize(("method", "fields", "error", "text"), CALLS)
async def test_a_wrong_call_changes_nothing(service, method: str, fields: dict, error: type, text: str) -> None:
    await service.create(batch_norm=BATCH(num_features=2))
    before = await service("GetStateDict", name=NAME), await service("GetNormalizer", name=NAME)
    with pytest.raises(error, match=text):
        await service(method, **fields)
    assert (await service("GetStateDict", name=NAME), await service("GetNormalizer", name=NAME)) == before
    assert await service.observe(X) == 1


async def test_a_nan_stays_in_the_statistics_as_in_torch(service) -> None:
    await service.create(batch_norm=BATCH(num_features=2))
    await service.observe(np.array([[np.nan, 1], [1, 2]], np.float32))
    state = await service.state()
    np.testing.assert_array_equal(np.isnan(state["running_mean"]), [True, False])


async def test_a_count_that_is_full_stays_as_it_is(service) -> None:
    await service.create(batch_norm=BATCH(num_features=2))
    await service("LoadStateDict", **state_dict(num_batches_tracked=np.array(2**63 - 1)))
    before = await service("GetStateDict", name=NAME)
    with pytest.raises(InvalidRequestError, match="num_batches_tracked is 9223372036854775807, which cannot be counted up"):
        await service.observe(X)
    assert await service("GetStateDict", name=NAME) == before


async def test_samples_of_nothing_are_not_many(service) -> None:
    await service.create(instance_norm=pb.InstanceNormLayer(num_features=1, dimensions=1, track_running_stats=True))
    assert await service.observe(np.ones((2**16, 1, 0), np.float32)) == 1
    with pytest.raises(InvalidRequestError, match="at most 65536 samples without elements, got 65537"):
        await service.observe(np.ones((2**16 + 1, 1, 0), np.float32))
