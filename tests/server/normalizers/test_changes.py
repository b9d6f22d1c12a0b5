"""UpdateNormalizer and its field mask."""

from typing import Any

import numpy as np
import pytest
from normserve_proto import normalizers_pb2 as pb
from normserve_server.errors import ConflictError

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")

NAME = "normalizers/obs"
BATCH = pb.BatchNormLayer


async def update(service, *mask: str, **fields: Any) -> pb.Normalizer:
    normalizer = pb.Normalizer(name=NAME, **fields)
    return await service("UpdateNormalizer", normalizer=normalizer, update_mask={"paths": mask})


@pytest.mark.parametrize(
    ("mask", "fields", "momentum"),
    [
        ((), BATCH(momentum=0.5), 0.5),
        ((), BATCH(cumulative=True), None),
        (("batch_norm.momentum",), BATCH(momentum=0.5), 0.5),
        (("batch_norm.momentum",), BATCH(momentum=0.5, cumulative=True), 0.5),
        (("batch_norm.momentum",), BATCH(), 0.1),
        (("batch_norm.cumulative",), BATCH(cumulative=True, momentum=0.5), None),
        (("batch_norm.cumulative",), BATCH(), 0.3),
        (("batch_norm.cumulative", "batch_norm.momentum"), BATCH(momentum=0.0), 0.0),
    ],
)
async def test_momentum(service, mask: tuple[str, ...], fields: pb.BatchNormLayer, momentum: float | None) -> None:
    await service.create(batch_norm=BATCH(num_features=2, momentum=0.3))
    layer = (await update(service, *mask, batch_norm=fields)).batch_norm
    assert (layer.momentum if layer.HasField("momentum") else None, layer.cumulative) == (momentum, momentum is None)
    assert layer.num_features == 2


async def test_not_cumulative_any_more_is_the_default_momentum(service) -> None:
    await service.create(batch_norm=BATCH(num_features=2, cumulative=True))
    assert (await update(service, "batch_norm.cumulative", batch_norm=BATCH())).batch_norm.momentum == 0.1


async def test_the_statistics_stay_as_they_are_between_the_two_kinds_of_average(service) -> None:
    await service.create(batch_norm=BATCH(num_features=2))
    await service.observe(np.random.default_rng(0).random((5, 2), np.float32))
    before = await service.state()
    for fields in (BATCH(cumulative=True), BATCH(momentum=0.7)):
        await update(service, batch_norm=fields)
        after = await service.state()
        assert {name: array.tobytes() for name, array in after.items()} == {n: array.tobytes() for n, array in before.items()}


async def test_clip_and_mode_and_etag(service) -> None:
    made = await service.create()
    clipped = await update(service, etag=made.etag, running_norm=pb.RunningNormLayer(clip=5), mode=pb.MODE_EVALUATION)
    assert (clipped.running_norm.clip, clipped.mode) == (5, pb.MODE_EVALUATION)
    with pytest.raises(ConflictError):
        await update(service, etag=made.etag, mode=pb.MODE_TRAINING)
    free = await update(service, "running_norm.clip", "mode")
    assert not free.running_norm.HasField("clip")
    assert free.mode == pb.MODE_TRAINING
