"""The verbs of both clients against a real gRPC server."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import normserve
import numpy as np
import pytest
from normserve import (
    AsyncClient,
    CallCancelledError,
    Client,
    DeadlineExceededError,
    Duration,
    InternalError,
    InvalidArgumentError,
    ModelIndex,
    ModelMetadata,
    ServerMetadata,
    TensorMetadata,
)
from normserve.testing import free_port
from normserve_proto import open_inference_pb2 as pb
from normserve_proto import tensors

NUMERIC = [dtype for name, dtype in tensors.DTYPES.items() if name != "BYTES"]


class TestInfer:
    @pytest.mark.parametrize("dtype", NUMERIC, ids=str)
    async def test_arrays_go_and_come(self, call, dtype):
        array = np.arange(6).reshape(2, 3).astype(dtype)
        outputs = await call("infer", "echo", {"x": array, "empty": array[:0]})
        assert list(outputs) == ["x", "empty"]
        assert outputs["x"].dtype == dtype
        assert np.array_equal(outputs["x"], array)
        assert outputs["empty"].shape == (0, 3)

    async def test_text_and_bytes(self, call):
        outputs = await call("infer", "echo", {"u": np.array(["\u00e9"]), "o": np.array([[b"\0", "b"]], object)})
        assert outputs["u"].tolist() == ["\u00e9".encode()]
        assert outputs["o"].tolist() == [[b"\0", b"b"]]

    async def test_a_big_answer_is_a_read_only_view(self, call):
        array = np.random.default_rng(0).random((300, 1000), np.float32)
        output = (await call("infer", "echo", {"x": array}))["x"]
        assert np.array_equal(output, array)
        assert not output.flags.writeable
        assert not output.flags.owndata

    async def test_messages_over_gprcs_default_limit(self, call):
        array = np.zeros(6 * 2**20, np.uint8)
        assert (await call("infer", "echo", {"x": array}))["x"].nbytes == array.nbytes

    async def test_everything_that_was_said_arrives(self, call, plan):
        await call(
            "infer",
            "echo",
            {"x": np.float32([1])},
            version="2",
            outputs=["x", "y"],
            request_id="r1",
            parameters={"priority": 1, "flag": True, "text": "t", "share": 0.5, "big": 2**63},
            timeout=5,
            metadata={"authorization": "Bearer x", "trace-bin": b"\0\1"},
        )
        seen = plan.seen[0]
        request = seen.request
        assert (request.model_name, request.model_version, request.id) == ("echo", "2", "r1")
        assert [output.name for output in request.outputs] == ["x", "y"]
        assert {key: value.WhichOneof("parameter_choice") for key, value in request.parameters.items()} == {
            "priority": "int64_param",
            "flag": "bool_param",
            "text": "string_param",
            "share": "double_param",
            "big": "uint64_param",
        }
        assert seen.metadata["authorization"] == "Bearer x"
        assert seen.metadata["trace-bin"] == b"\0\1"
        assert seen.time_remaining == pytest.approx(5, abs=2)

    async def test_without_a_timeout_there_is_no_deadline(self, call, plan):
        await call("infer", "echo", {"x": np.float32([1])})
        assert plan.seen[0].time_remaining is None or plan.seen[0].time_remaining > 1e6

    async def test_the_deadline(self, call, plan):
        plan.delay_s = 30
        start = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            await call("infer", "echo", {"x": np.float32([1])}, timeout=0.2)
        assert time.monotonic() - start < 5

    async def test_a_dtype_without_a_name_is_refused_before_anything_is_sent(self, call, plan):
        with pytest.raises(InvalidArgumentError, match="input 'z': dtype complex64 has no datatype"):
            await call("infer", "echo", {"x": np.float32([1]), "z": np.complex64([1])})
        assert not plan.seen

    async def test_an_answer_in_typed_contents(self, call, plan):
        output = pb.ModelInferResponse.InferOutputTensor(name="y", datatype="INT32", shape=[2])
        output.contents.int_contents.extend([4, 5])
        plan.infer_response = pb.ModelInferResponse(outputs=[output])
        assert (await call("infer", "echo", {}))["y"].tolist() == [4, 5]

    async def test_an_answer_that_contradicts_itself(self, call, plan):
        output = pb.ModelInferResponse.InferOutputTensor(name="y", datatype="FP32", shape=[3])
        plan.infer_response = pb.ModelInferResponse(outputs=[output], raw_output_contents=[b"1234"])
        with pytest.raises(InternalError, match=r"cannot be read: tensor 'y': FP32 of shape \[3\] takes 12 bytes, got 4"):
            await call("infer", "echo", {})


class TestQuestions:
    async def test_live_and_ready(self, call, plan):
        assert await call("is_live") is True
        assert await call("is_ready") is True
        assert await call("is_ready", "echo") is True
        assert await call("is_ready", "echo", "2") is False
        assert [seen.method for seen in plan.seen] == ["ServerLive", "ServerReady", "ModelReady", "ModelReady"]

    async def test_config_and_statistics(self, call, plan):
        config = await call("model_config", "echo", "2")
        wanted = {"name": "x", "data_type": "TYPE_FP32", "dims": ["3"]}
        assert config == {"name": "echo", "max_batch_size": 8, "input": [wanted]}
        (statistics,) = await call("statistics", "echo")
        assert (statistics.name, statistics.version, statistics.samples, statistics.executions) == ("echo", "2", 5, 2)
        assert (statistics.success, statistics.fail) == (Duration(3, 1.5), Duration(0, 0.0))
        assert [(seen.request.name, seen.request.version) for seen in plan.seen] == [("echo", "2"), ("echo", "")]

    async def test_metadata(self, call, plan):
        x = TensorMetadata("x", "FP32", (-1, 3))
        assert await call("metadata", "echo", "1") == ModelMetadata(
            name="echo",
            versions=("1", "2"),
            platform="python",
            inputs=(x,),
            outputs=(x, TensorMetadata("y", "BYTES", ())),
            properties={"folded": "6"},
        )
        assert plan.seen[0].request == pb.ModelMetadataRequest(name="echo", version="1")

    async def test_server_metadata(self, call):
        assert await call("server_metadata") == ServerMetadata("echo-server", "7", ("statistics",))

    async def test_models(self, call):
        ready = ModelIndex("echo", "1", "READY", "")
        assert await call("models", only_ready=True) == (ready,)
        assert await call("models") == (ready, ModelIndex("[broken]", "3", "UNAVAILABLE", "no [such] operator"))

    async def test_load_and_unload(self, call, plan):
        await call("load_model", "m")
        await call("load_model", "m", config={"max_batch_size": 8}, files={"1/model.onnx": b"\0"})
        await call("load_model", "m", config="{}")
        await call("unload_model", "m")
        plain, full, text, unload = (seen.request for seen in plan.seen)
        assert plain == pb.RepositoryModelLoadRequest(model_name="m")
        assert full.parameters["config"].string_param == '{"max_batch_size": 8}'
        assert full.parameters["file:1/model.onnx"].bytes_param == b"\0"
        assert text.parameters["config"].string_param == "{}"
        assert unload == pb.RepositoryModelUnloadRequest(model_name="m")

    @pytest.mark.parametrize("wrong", [{"config": {"a": object()}}, {"config": "{}", "files": {"1/model.onnx": 3}}])
    async def test_what_cannot_be_loaded_is_not_sent(self, call, plan, wrong):
        with pytest.raises(InvalidArgumentError, match="model 'm': config is JSON and files are bytes"):
            await call("load_model", "m", **wrong)
        assert not plan.seen

    @pytest.mark.parametrize("verb", ["load_model", "unload_model"])
    async def test_what_changes_a_server_has_a_deadline(self, call, plan, verb):
        plan.delay_s = 30
        with pytest.raises(DeadlineExceededError):
            await call(verb, "m", timeout=0.1)

    @pytest.mark.parametrize("verb", ["is_live", "is_ready", "server_metadata", "models"])
    async def test_each_has_a_deadline(self, call, plan, verb):
        plan.delay_s = 30
        with pytest.raises(DeadlineExceededError):
            await call(verb, timeout=0.1)


class TestNobodyAnswers:
    NO_RETRIES = (("grpc.enable_retries", 0),)

    def test_client(self):
        with Client(f"127.0.0.1:{free_port()}", options=self.NO_RETRIES) as client:
            assert client.is_live() is False
            assert client.is_ready() is False
            assert client.is_ready("echo") is False
            with pytest.raises(normserve.UnavailableError):
                client.server_metadata()

    async def test_async_client(self):
        async with AsyncClient(f"127.0.0.1:{free_port()}", options=self.NO_RETRIES) as client:
            assert await client.is_live() is False
            assert await client.is_ready("echo") is False
            with pytest.raises(normserve.UnavailableError):
                await client.server_metadata()


class TestManyAtATime:
    def test_threads_share_a_client(self, client):
        def ask(number):
            return int(client.infer("echo", {"x": np.int64([number])})["x"][0])

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(ask, range(200))) == list(range(200))

    async def test_coroutines_share_a_client(self, address):
        async with AsyncClient(address) as client:
            answers = await asyncio.gather(*(client.infer("echo", {"x": np.int64([number])}) for number in range(200)))
        assert [int(answer["x"][0]) for answer in answers] == list(range(200))


class TestClosing:
    def test_it_cancels_what_waits(self, address, plan):
        plan.delay_s = 30
        client = Client(address)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.server_metadata)
            plan.busy.wait(10)
            client.close()
            with pytest.raises(CallCancelledError):
                waiting.result(10)

    async def test_it_cancels_what_coroutines_wait_for(self, address, plan):
        plan.delay_s = 30
        client = AsyncClient(address)
        waiting = asyncio.create_task(client.server_metadata())
        await asyncio.to_thread(plan.busy.wait, 10)
        await client.close()
        with pytest.raises(CallCancelledError):
            await waiting

    @pytest.mark.parametrize(
        ("verb", "arguments"), [("is_live", ()), ("infer", ("echo", {})), ("rms_norm", (np.ones(2), (2,)))]
    )
    async def test_a_closed_client_says_so(self, address, verb, arguments):
        client, async_client = Client(address), AsyncClient(address)
        client.close()
        await async_client.close()
        with pytest.raises(CallCancelledError, match=r"^the client is closed$"):
            getattr(client, verb)(*arguments)
        with pytest.raises(CallCancelledError, match=r"^the client is closed$"):
            await getattr(async_client, verb)(*arguments)

    async def test_cancelling_a_task_cancels_its_call(self, address, plan):
        plan.delay_s = 30
        async with AsyncClient(address) as client:
            task = asyncio.create_task(client.server_metadata())
            await asyncio.to_thread(plan.busy.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


def test_bfloat16_is_ml_dtypes(client):
    array = np.array([1.5, 2.5], ml_dtypes.bfloat16)
    assert client.infer("echo", {"x": array})["x"].dtype == ml_dtypes.bfloat16


def test_the_version_is_the_distributions():
    from importlib.metadata import version

    assert normserve.__version__ == version("normserve")
