"""What a normalizer's verbs send, and what they make of the answer."""

import datetime
from collections import OrderedDict
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
from normserve import (
    BatchNormLayer,
    InstanceNormLayer,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    RunningNormLayer,
    StateDict,
    normalizer_requests,
)
from normserve_proto import normalizers_pb2 as pb
from normserve_proto import tensors, wire

STATE = {"weight": np.float32([1, 2]), "num_batches_tracked": np.int64(3)}
X = np.arange(12, dtype=np.float32).reshape(4, 3)
LAYERS = [
    BatchNormLayer(3),
    BatchNormLayer(3, 2, 0.0, None, False, False, np.float64),
    BatchNormLayer(3, momentum=0.0),
    InstanceNormLayer(3, 1),
    InstanceNormLayer(3, 3, 0.5, None, True, True, np.float64),
    RunningNormLayer(),
    RunningNormLayer((2, 3), 1e-3, 10.0),
]


def sent(plan):
    return plan.seen[-1].request


class TestCreating:
    @pytest.mark.parametrize("layer", LAYERS)
    async def test_a_layer_and_back(self, normalizer, plan, layer):
        info = await normalizer("create", layer)
        assert (info.name, info.layer, info.training, info.etag, info.sequence) == ("obs", layer, True, "1", 0)
        assert info.create_time == datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.UTC)
        assert sent(plan).normalizer_id == "obs"
        assert (await normalizer("get")).layer == layer

    async def test_what_is_sent(self, normalizer, plan):
        await normalizer("create", BatchNormLayer(3, momentum=None, dtype="float64"), training=False)
        layer = sent(plan).normalizer.batch_norm
        assert (layer.cumulative, layer.HasField("momentum"), layer.datatype, layer.eps) == (True, False, "FP64", 1e-5)
        assert sent(plan).normalizer.mode == pb.MODE_EVALUATION
        assert not (await normalizer("get")).training

    def test_what_a_server_leaves_out_has_the_defaults(self):
        call = normalizer_requests.get("obs")
        layers = {"batch_norm": BatchNormLayer(3), "instance_norm": InstanceNormLayer(3, 0), "running_norm": RunningNormLayer()}
        for field, layer in layers.items():
            message = pb.Normalizer(name="normalizers/obs")
            getattr(message, field).SetInParent()
            if field != "running_norm":
                getattr(message, field).num_features = 3
            info = call.read(message.SerializeToString())
            assert (info.layer, info.training) == (layer, True)

    @pytest.mark.parametrize("layer", [None, "batch_norm", torch.nn.BatchNorm1d(3)])
    async def test_what_is_no_layer(self, normalizer, plan, layer):
        with pytest.raises(InvalidArgumentError, match="wanted a BatchNormLayer"):
            await normalizer("create", layer)
        assert not plan.seen

    @pytest.mark.parametrize(
        "layer",
        [
            BatchNormLayer(2**63),
            BatchNormLayer(2.5),
            BatchNormLayer(3, eps="a"),
            BatchNormLayer(3, dtype="complex64"),
            BatchNormLayer(3, dtype="nonsense"),
            RunningNormLayer(3),
        ],
    )
    async def test_values_that_cannot_travel(self, normalizer, plan, layer):
        with pytest.raises(InvalidArgumentError, match=r"Layer.* cannot travel: "):
            await normalizer("create", layer)
        assert not plan.seen

    async def test_snapshots(self, obs, plan):
        snapshot = await obs("snapshot")
        await obs("delete")
        assert (await obs("restore", snapshot)).layer == BatchNormLayer(3)
        assert sent(plan).snapshot == snapshot
        with pytest.raises(InvalidArgumentError, match="snapshot: wanted bytes, got str"):
            await obs("restore", "a.safetensors")
        with pytest.raises(InvalidArgumentError, match="snapshot: wanted a safetensors file's bytes, got none"):
            await obs("restore", b"")

    def test_a_layer_that_is_not_known(self):
        with pytest.raises(InternalError, match=r"normalizers/obs.*no layer that this client knows"):
            normalizer_requests.get("obs").read(pb.Normalizer(name="normalizers/obs").SerializeToString())


class TestChanging:
    @pytest.mark.parametrize("momentum", [0.5, None, 0])
    async def test_momentum(self, obs, plan, momentum):
        info = await obs("update", momentum=momentum, etag="1")
        assert info.layer == replace(BatchNormLayer(3), momentum=momentum)
        assert list(sent(plan).update_mask.paths) == ["batch_norm.momentum", "batch_norm.cumulative"]
        assert sent(plan).normalizer.etag == "1"
        assert sent(plan).normalizer.name == "normalizers/obs"

    async def test_mode(self, obs, plan):
        assert not (await obs("update", training=False)).training
        assert (await obs("update", training=True)).training
        assert list(sent(plan).update_mask.paths) == ["mode"]

    @pytest.mark.parametrize("clip", [5.0, None])
    async def test_clip(self, normalizer, plan, clip):
        await normalizer("create", RunningNormLayer((3,), clip=7))
        assert (await normalizer("update", clip=clip)).layer == RunningNormLayer((3,), clip=clip)
        assert list(sent(plan).update_mask.paths) == ["running_norm.clip"]

    async def test_what_the_layer_does_not_have(self, obs, plan):
        with pytest.raises(InvalidArgumentError, match="normalizer 'obs' has no clip: it is a BatchNormLayer"):
            await obs("update", clip=3)
        assert plan.seen[-1].method == "GetNormalizer"
        with pytest.raises(InvalidArgumentError, match="nothing to change"):
            await obs("update")

    async def test_deleting(self, obs, plan):
        await obs("delete", etag="7", missing_ok=True)
        assert (sent(plan).etag, sent(plan).allow_missing) == ("7", True)
        with pytest.raises(NotFoundError, match="no normalizer 'normalizers/obs'"):
            await obs("get")

    async def test_listing_reads_all_pages(self, call, normalizer, plan):
        await normalizer("create", BatchNormLayer(3))
        assert [info.name for info in await call("normalizers")] == ["obs"]
        calls = len(plan.seen)
        template = pb.ListNormalizersResponse(normalizers=[pb.Normalizer(name="normalizers/a", batch_norm={"num_features": 1})])
        steps = normalizer_requests.list_all(2)
        assert pb.ListNormalizersRequest.FromString(next(steps).request) == pb.ListNormalizersRequest(page_size=2)
        template.next_page_token = "more"
        again = steps.send(template)
        assert pb.ListNormalizersRequest.FromString(again.request).page_token == "more"
        template.next_page_token = ""
        with pytest.raises(StopIteration) as ended:
            steps.send(template)
        assert [info.name for info in ended.value.value] == ["a", "a"]
        assert len(plan.seen) == calls


class TestTensors:
    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
    async def test_the_input_and_back(self, obs, dtype):
        output = await obs("apply", X.astype(dtype))
        assert output.dtype == dtype
        assert np.array_equal(output, X.astype(dtype))

    @pytest.mark.parametrize(("training", "mode"), [(None, 0), (True, pb.MODE_TRAINING), (False, pb.MODE_EVALUATION)])
    async def test_the_mode(self, obs, plan, training, mode):
        await obs("apply", X, training=training)
        assert sent(plan).mode == mode

    async def test_sequences(self, obs):
        assert await obs("observe", X) == 1
        output, sequence = await obs("apply_numbered", X)
        assert np.array_equal(output, X)
        assert sequence == 2
        assert (await obs("apply_numbered", X, training=False)).sequence == 2
        assert (await obs("get")).sequence == 2

    @pytest.mark.parametrize("small", [0, 64 * 1024, 2**40], ids=["scanned", "as it is", "parsed"])
    @pytest.mark.parametrize("shape", [(), (0, 3), (3,), (300, 200)])
    def test_the_bytes_are_what_protobuf_would_write(self, monkeypatch, small, shape):
        monkeypatch.setattr(wire, "SMALL", small)
        array = np.full(shape, 2.5)
        tensor = pb.ApplyNormalizerRequest().input
        tensor.datatype, tensor.data = "FP64", array.tobytes()
        tensor.shape.extend(shape)
        call = normalizer_requests.apply("obs", array, training=True, request_id="7")
        wanted = pb.ApplyNormalizerRequest(name="normalizers/obs", input=tensor, mode=pb.MODE_TRAINING, request_id="7")
        assert pb.ApplyNormalizerRequest.FromString(call.request) == wanted
        call_observe = normalizer_requests.observe("obs", array, request_id="7")
        wanted_observe = pb.ObserveNormalizerRequest(name="normalizers/obs", input=tensor, request_id="7")
        assert pb.ObserveNormalizerRequest.FromString(call_observe.request) == wanted_observe
        answer = call.read(pb.ApplyNormalizerResponse(output=tensor, sequence=5).SerializeToString())
        assert np.array_equal(answer.output, array)
        assert answer.sequence == 5

    def test_a_big_answer_is_viewed(self):
        response = wire.join(b"\x10\x05", 1, [wire.join(b"\x0a\x04FP64\x12\x03\xa0\x8d\x06", 3, [np.ones(100_000).tobytes()])])
        output = normalizer_requests.apply("obs", X, training=None, request_id="").read(response).output
        assert np.shares_memory(output, np.frombuffer(response, np.uint8))

    def test_a_dtype_without_a_name(self):
        with pytest.raises(InvalidArgumentError, match="input 'input': dtype complex64"):
            normalizer_requests.observe("obs", np.complex64([1]), request_id="")


class TestStates:
    async def test_a_state_and_back(self, obs):
        await obs("load_state_dict", STATE)
        state = await obs("state_dict")
        assert isinstance(state, StateDict)
        assert list(state) == ["weight", "num_batches_tracked"]
        assert state["weight"].tolist() == [1, 2]
        assert (state["num_batches_tracked"].dtype, state["num_batches_tracked"].shape) == (np.int64, ())
        assert (state.etag, state.sequence) == ("9", 0)

    async def test_a_torch_layers_state_and_back_bit_for_bit(self, obs, plan):
        layer = torch.nn.BatchNorm1d(3)
        layer(torch.from_numpy(X))
        layer.weight.data[0] = float("nan")
        await obs("load_state_dict", layer.state_dict(), etag="4")
        assert (sent(plan).version, sent(plan).etag) == (2, "4")
        state = (await obs("state_dict")).torch()
        assert isinstance(state, OrderedDict)
        assert state._metadata == OrderedDict({"": {"version": 2}})
        assert list(state) == list(layer.state_dict())
        for name, value in layer.state_dict().items():
            assert state[name].dtype == value.dtype
            assert state[name].numpy().tobytes() == value.numpy().tobytes()
        torch.nn.BatchNorm1d(3).load_state_dict(state)

    async def test_the_version(self, obs, plan):
        old = torch.nn.BatchNorm1d(3).state_dict()
        old._metadata[""]["version"] = 1
        for state, version in (
            (old, 1),
            (STATE, 1),
            (StateDict(STATE), 2),
            (torch.nn.BatchNorm1d(3).state_dict(), 2),
        ):
            await obs("load_state_dict", state)
            assert sent(plan).version == version

    async def test_half_precision_travels_as_it_is(self, obs, plan):
        weight = torch.tensor([1.5, 2.5], dtype=torch.bfloat16, requires_grad=True)
        await obs("load_state_dict", {"weight": weight})
        tensor = sent(plan).tensors[0].tensor
        assert tensors.decode("t", tensor.datatype, tensor.shape, tensor.data).tolist() == [1.5, 2.5]
        assert tensor.datatype == "BF16"
        assert torch.equal((await obs("state_dict")).torch()["weight"], weight)

    async def test_an_entry_that_cannot_travel_is_named(self, obs):
        with pytest.raises(InvalidArgumentError, match="input 'weight': dtype complex64"):
            await obs("load_state_dict", {"weight": np.complex64([1])})
