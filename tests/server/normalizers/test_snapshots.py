"""Snapshots: all of a normalizer in one file that torch can read, too."""

import struct

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from normserve_proto import normalizers_pb2 as pb
from normserve_server.errors import AlreadyExistsError, InvalidRequestError

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")

LAYERS = {
    "batch_norm": pb.BatchNormLayer(num_features=2, momentum=0.3, eps=1e-3),
    "cumulative": pb.BatchNormLayer(num_features=2, cumulative=True),
    "wide": pb.BatchNormLayer(num_features=2, datatype="FP64"),
    "instance_norm": pb.InstanceNormLayer(num_features=2, dimensions=1, track_running_stats=True),
    "running_norm": pb.RunningNormLayer(shape=[2], clip=3),
    "bare": pb.BatchNormLayer(num_features=2, affine=False, track_running_stats=False),
}


async def filled(service, kind: str) -> pb.Normalizer:
    layer = LAYERS[kind]
    field = {"cumulative": "batch_norm", "wide": "batch_norm", "bare": "batch_norm"}.get(kind, kind)
    await service.create(mode=pb.MODE_EVALUATION, **{field: layer})
    shape = (5, 2, 3) if field == "instance_norm" else (5, 2)
    for seed in range(3) if kind != "bare" else ():
        await service.observe(np.random.default_rng(seed).random(shape).astype("f8" if kind == "wide" else "f4"))
    return await service("GetNormalizer", name="normalizers/obs")


@pytest.mark.parametrize("kind", LAYERS)
async def test_a_snapshot_makes_the_same_normalizer(service, kind: str) -> None:
    original = await filled(service, kind)
    snapshot = (await service("GetSnapshot", name="normalizers/obs")).safetensors
    copy = await service("CreateNormalizer", normalizer_id="copy", snapshot=snapshot)
    ignored = ("name", "etag", "sequence", "create_time", "update_time")
    for message in (original, copy):
        for field in ignored:
            message.ClearField(field)
    assert copy == original
    assert (await service("GetSnapshot", name="normalizers/copy")).safetensors == snapshot
    await service("CreateNormalizer", normalizer_id="copy", snapshot=snapshot)


async def test_torch_loads_it(service, tmp_path) -> None:
    await filled(service, "cumulative")
    snapshot = (await service("GetSnapshot", name="normalizers/obs")).safetensors
    module = torch.nn.BatchNorm1d(2, momentum=None)
    module.load_state_dict(safetensors.torch.load(snapshot))
    for name, array in (await service.state()).items():
        np.testing.assert_array_equal(module.state_dict()[name].numpy(), array)


async def test_another_state_under_the_same_name_is_refused(service) -> None:
    await filled(service, "running_norm")
    snapshot = (await service("GetSnapshot", name="normalizers/obs")).safetensors
    await service.observe(np.zeros((1, 2), np.float32))
    with pytest.raises(AlreadyExistsError, match="with another state than the snapshot's"):
        await service("CreateNormalizer", normalizer_id="obs", snapshot=snapshot)


ONES = {name: np.ones(2, np.float32) for name in ("weight", "bias", "running_mean", "running_var")}
LAYER = {"normserve.normalizer": '{"batch_norm": {"num_features": "2"}}'}


@pytest.mark.parametrize(
    ("tensors", "metadata", "text"),
    [
        (ONES, None, "snapshot: its metadata has no 'normserve.normalizer'"),
        (ONES, {"normserve.normalizer": "{"}, "snapshot: 'normserve.normalizer' cannot be read"),
        (ONES, {"normserve.normalizer": "{}"}, "layer: one of"),
        (ONES, LAYER, 'Missing key.* "num_batches_tracked"'),
        (
            {**ONES, "num_batches_tracked": np.zeros((), np.int32)},
            LAYER,
            "snapshot: 'num_batches_tracked' is one of .* got I32",
        ),
    ],
)
async def test_what_is_no_snapshot_is_refused(service, tensors: dict, metadata: dict | None, text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        await service("CreateNormalizer", normalizer_id="obs", snapshot=safetensors.numpy.save(tensors, metadata))


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b'{"__metadata__": null}', "snapshot: its metadata has no 'normserve.normalizer'"),
        (b'{"__metadata__": {' + b" " * 65536 + b"}}", "snapshot: the header of one has at most 65536 bytes, got 65556"),
    ],
)
async def test_a_header_that_no_snapshot_has_is_refused(service, header: bytes, text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        await service("CreateNormalizer", normalizer_id="obs", snapshot=struct.pack("<Q", len(header)) + header)
