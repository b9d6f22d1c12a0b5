"""Every RPC, over a file and over a real PostgreSQL."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from normserve_proto import normalization_pb2 as npb
from normserve_proto import normalizers_pb2 as pb
from normserve_server.errors import AlreadyExistsError, ConflictError, InvalidRequestError, NotFoundError, OverloadedError
from normserve_server.normalizers.database import Operation

pytestmark = [
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable"),  # as in `kernels`
    pytest.mark.parametrize("state", ["sqlite", "postgresql"], indirect=True),
]

NAME = "normalizers/obs"
X = np.arange(8, dtype=np.float32).reshape(4, 2)
BATCH_NORM = {"batch_norm": pb.BatchNormLayer(num_features=2)}


async def test_create_writes_the_defaults_out(service) -> None:
    made = await service.create(batch_norm=pb.BatchNormLayer(num_features=3))
    assert made.batch_norm == pb.BatchNormLayer(
        num_features=3, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True, datatype="FP32"
    )
    assert (made.name, made.mode, made.sequence) == (NAME, pb.MODE_TRAINING, 0)
    assert made.etag
    assert made.create_time == made.update_time
    assert made.create_time.seconds > 1.7e9
    assert await service("GetNormalizer", name=NAME) == made


async def test_create_again_is_answered_and_with_another_layer_refused(service) -> None:
    made = await service.create()
    await service.observe(X)
    again = await service.create()
    assert (again.sequence, again.create_time) == (1, made.create_time)
    with pytest.raises(
        AlreadyExistsError, match=r"there is normalizers/obs already, with another layer: running_norm .* not batch"
    ):
        await service.create(**BATCH_NORM)


async def test_two_creates_at_once_make_one(service) -> None:
    made = await asyncio.gather(*(service.create() for _ in range(8)))
    assert len({one.etag for one in made}) == 1
    others = await asyncio.gather(*(service.create("b", **fields) for fields in (BATCH_NORM, {})), return_exceptions=True)
    assert [type(one) for one in others] == [pb.Normalizer, AlreadyExistsError]


async def test_apply_in_training_is_torchs_layer(service) -> None:
    await service.create(**BATCH_NORM)
    module = torch.nn.BatchNorm1d(2)
    for step, x in enumerate((X, X * 3 + 1), 1):
        output, sequence = await service.apply(x)
        assert sequence == step
        np.testing.assert_array_equal(output, module(torch.from_numpy(x)).detach().numpy())
    state = await service.state()
    assert {name: value.tobytes() for name, value in state.items()} == {
        name: value.numpy().tobytes() for name, value in module.state_dict().items()
    }
    output, sequence = await service.apply(X, mode=pb.MODE_EVALUATION)
    assert sequence == 2
    np.testing.assert_array_equal(output, module.eval()(torch.from_numpy(X)).detach().numpy())


async def test_the_normalizers_mode_counts_where_a_call_does_not_say(service) -> None:
    await service.create(mode=pb.MODE_EVALUATION, **BATCH_NORM)
    assert (await service.apply(X))[1] == 0
    assert (await service.apply(X, mode=pb.MODE_TRAINING))[1] == 1
    await service("UpdateNormalizer", normalizer=pb.Normalizer(name=NAME, mode=pb.MODE_TRAINING))
    assert (await service.apply(X))[1] == 2


async def test_a_running_norm_observes_first_and_then_normalizes(service) -> None:
    await service.create()
    output, _ = await service.apply(X)
    np.testing.assert_allclose(output, (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-8), rtol=1e-6)


async def test_without_statistics_apply_updates_nothing_and_observe_is_refused(service) -> None:
    await service.create(batch_norm=pb.BatchNormLayer(num_features=2, track_running_stats=False))
    assert (await service.apply(X))[1] == 0
    with pytest.raises(InvalidRequestError, match="does not track"):
        await service.observe(X)


async def test_a_state_dict_goes_in_and_out(service) -> None:
    made = await service.create(**BATCH_NORM)
    module = torch.nn.BatchNorm1d(2)
    module(torch.from_numpy(X))
    tensors = [
        pb.NamedTensor(
            name=name,
            tensor=npb.Tensor(
                datatype={torch.float32: "FP32", torch.int64: "INT64"}[value.dtype],
                shape=value.shape,
                data=value.detach().numpy().tobytes(),
            ),
        )
        for name, value in module.state_dict().items()
    ]
    loaded = await service("LoadStateDict", name=NAME, tensors=tensors, etag=made.etag)
    assert loaded.sequence == 0
    assert loaded.etag != made.etag
    got = await service("GetStateDict", name=NAME)
    assert list(got.tensors) == tensors
    assert (got.etag, got.sequence) == (loaded.etag, 0)
    with pytest.raises(ConflictError, match=f"has etag '{loaded.etag}' now, the call expects '{made.etag}'"):
        await service("LoadStateDict", name=NAME, tensors=tensors, etag=made.etag)
    with pytest.raises(InvalidRequestError, match="Missing key"):
        await service("LoadStateDict", name=NAME, tensors=tensors[1:])
    with pytest.raises(InvalidRequestError, match="'weight' is given twice"):
        await service("LoadStateDict", name=NAME, tensors=[*tensors, tensors[0]])
    assert await service("GetStateDict", name=NAME) == got


async def test_pages(service) -> None:
    ids = [f"n{number:02}" for number in range(7)] + ["A", "_x"[1:]]
    await asyncio.gather(*(service.create(id_) for id_ in ids))
    found, token, sizes = [], "", []
    while True:
        page = await service("ListNormalizers", page_size=4, page_token=token)
        found += [one.name.removeprefix("normalizers/") for one in page.normalizers]
        sizes.append(len(page.normalizers))
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(ids)
    assert sizes == [4, 4, 1]
    assert len((await service("ListNormalizers", page_size=5000)).normalizers) == 9
    for bad in ({"page_size": -1}, {"page_token": "?"}, {"page_token": "ÿ"}, {"page_token": "////"}):
        with pytest.raises(InvalidRequestError, match=next(iter(bad))):
            await service("ListNormalizers", **bad)


async def test_delete(service) -> None:
    made = await service.create()
    await service.observe(X)
    with pytest.raises(ConflictError):
        await service("DeleteNormalizer", name=NAME, etag=made.etag)
    await service("DeleteNormalizer", name=NAME)
    for method in ("GetNormalizer", "DeleteNormalizer", "GetStateDict", "GetSnapshot"):
        with pytest.raises(NotFoundError, match="there is no normalizer 'normalizers/obs'"):
            await service(method, name=NAME)
    with pytest.raises(NotFoundError):
        await service.observe(X)
    await service("DeleteNormalizer", name=NAME, allow_missing=True)
    assert (await service.create()).etag.partition("-")[0] != made.etag.partition("-")[0]


async def test_who_knows_a_normalizer_that_was_made_anew_looks_again(services: Callable) -> None:
    one, other = services(), services()
    await one.create()
    await one.observe(X)
    await other("DeleteNormalizer", name=NAME)
    await other.create(batch_norm=pb.BatchNormLayer(num_features=2))
    assert await one.observe(X) == 1
    assert (await other.state())["num_batches_tracked"] == 1
    await other("DeleteNormalizer", name=NAME)
    await other.create(running_norm=pb.RunningNormLayer(shape=[3]))
    assert await one.observe(np.ones((1, 3), np.float32)) == 1
    with pytest.raises(InvalidRequestError, match=r"input has shape \[..., 3\]"):
        await one.observe(X)


@pytest.mark.parametrize("method", ["Observe", "Apply"])
async def test_a_request_id_is_answered_again_and_not_applied_twice(service, method: str) -> None:
    await service.create(**BATCH_NORM)
    call = {"Observe": service.observe, "Apply": service.apply}[method]
    first = await call(X, request_id="a")
    await service.observe(X)
    for again in await asyncio.gather(*(call(X, request_id="a") for _ in range(3))):
        np.testing.assert_equal(again, first)
    assert (await service("GetNormalizer", name=NAME)).sequence == 2
    at_once = await asyncio.gather(*(call(X, request_id="b") for _ in range(3)))
    np.testing.assert_equal(at_once, [at_once[0]] * 3)
    assert (await service("GetNormalizer", name=NAME)).sequence == 3


async def test_a_request_id_outlives_the_process(services: Callable) -> None:
    one = services()
    fields = {"normalizer_id": "obs", "normalizer": pb.Normalizer(**BATCH_NORM), "request_id": "c"}
    made = await one("CreateNormalizer", **fields)
    await one.observe(X, request_id="o")
    other = services()
    assert await other.observe(X, request_id="o") == 1
    assert await other("CreateNormalizer", **fields) == made
    with pytest.raises(InvalidRequestError, match="request_id: a call of ObserveNormalizer had the same one"):
        await other.apply(X, request_id="o")


async def test_request_ids_end_with_their_normalizer_and_with_no_other(service) -> None:
    others = ("obs-2", "obs.2", "obs0", "ob")
    for id_ in ("obs", *others):
        await service.create(id_)
        await service.observe(X, id_, request_id="o")
        await service.observe(X, id_, request_id="\U0010ffff")
    await service("DeleteNormalizer", name=NAME)
    await service.create()
    assert await service.observe(X, request_id="o") == 1
    assert await service.observe(X, request_id="\U0010ffff") == 2
    for id_ in others:
        assert await service.observe(X, id_, request_id="o") == 1


async def test_a_normalizer_that_is_made_anew_within_one_group_knows_no_request_ids(service) -> None:
    await service.create()
    await service.observe(X, request_id="o")
    calls = (
        service.observe(X),  # the others come together after it
        service.observe(X, request_id="p"),
        service("DeleteNormalizer", name=NAME),
        service.create(),
        service.observe(X, request_id="o"),
        service.observe(X, request_id="p"),
    )
    assert (await asyncio.gather(*calls))[-2:] == [1, 2]
    assert await service.observe(X, request_id="p") == 2


async def test_load_state_dict_is_not_carried_out_twice(service) -> None:
    await service.create()
    tensors = (await service("GetStateDict", name=NAME)).tensors
    loaded = await service("LoadStateDict", name=NAME, tensors=tensors, request_id="l")
    await service.observe(X)
    assert await service("LoadStateDict", name=NAME, tensors=tensors, request_id="l") == loaded
    assert (await service.state())["count"] == 4


async def test_updates_are_counted(service) -> None:
    await service.create()
    await asyncio.gather(*(service.observe(X, request_id=str(number % 5)) for number in range(10)))
    assert service.registry.get_sample_value("normserve_normalizer_updates_total") == 5
    assert service.registry.get_sample_value("normserve_normalizer_group_duration_seconds_count") < 6


@pytest.mark.parametrize("rows", [4, 8192])  # computed in the transaction, and before it
async def test_a_normalizer_made_anew_without_statistics_is_applied_as_it_is_now(service, rows: int) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32)
    await service.create(**BATCH_NORM)
    await service.apply(x, mode=pb.MODE_TRAINING)
    await service("DeleteNormalizer", name=NAME)
    await service.create(batch_norm=pb.BatchNormLayer(num_features=2, track_running_stats=False))
    output, sequence = await service.apply(x, mode=pb.MODE_TRAINING)
    np.testing.assert_array_equal(output, torch.nn.BatchNorm1d(2)(torch.from_numpy(x)).detach().numpy())
    assert sequence == 0
    with pytest.raises(InvalidRequestError, match="there is nothing to update"):
        await service.observe(x)


async def test_what_has_been_updated_is_not_refused_for_want_of_room(service, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(8192, 2)).astype(np.float32)
    await service.create(**BATCH_NORM)
    await service.apply(x, mode=pb.MODE_TRAINING)
    run = service.store.run

    async def busy_after(operation: Operation) -> Any:
        outcome = await run(operation)
        service.servicer._waiting = 2000
        return outcome

    monkeypatch.setattr(service.store, "run", busy_after)
    assert (await service.apply(x, mode=pb.MODE_TRAINING))[1] == 2
    with pytest.raises(OverloadedError):
        await service.apply(x, mode=pb.MODE_TRAINING)
    monkeypatch.undo()
    assert (await service("GetNormalizer", name=NAME)).sequence == 2


async def test_what_is_known_of_normalizers_has_not_their_states(service) -> None:
    await service.create(**BATCH_NORM)
    await service.apply(X)
    assert [record.state for record in service.servicer._known.values()] == [{}]
