"""What the operators send, and what they make of the answer."""

import ml_dtypes
import numpy as np
import pytest
from normserve import DeadlineExceededError, InternalError, InvalidArgumentError, NormResult, normalization
from normserve_proto import normalization_pb2 as pb
from normserve_proto import tensors, wire

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
C = np.arange(3, dtype=np.float32)


def sent(plan):
    request = plan.seen[-1].request
    return getattr(request, request.WhichOneof("operator"))


def value(tensor):
    return tensors.decode("t", tensor.datatype, tensor.shape, tensor.data).tolist()


class TestWhatIsSent:
    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
    async def test_the_input_and_back(self, call, dtype):
        output = await call("layer_norm", X.astype(dtype), [4])
        assert output.dtype == dtype
        assert np.array_equal(output, X.astype(dtype))

    async def test_batch_norm(self, call, plan):
        await call("batch_norm", X, C, C + 1, C + 2, C + 3, False, 0.3, 0.5)
        operator = sent(plan)
        assert [value(getattr(operator, name))[0] for name in ("running_mean", "running_var", "weight", "bias")] == [0, 1, 2, 3]
        assert (operator.training, operator.momentum, operator.eps, operator.cumulative) == (False, 0.3, 0.5, False)
        assert not operator.HasField("num_batches_tracked")

    async def test_defaults_are_torchs(self, call, plan):
        await call("batch_norm", X, C, C)
        operator = sent(plan)
        assert (operator.momentum, operator.eps, operator.training) == (0.1, 1e-5, False)
        assert not operator.HasField("weight")
        await call("instance_norm", X)
        operator = sent(plan)
        assert (operator.use_input_stats, operator.momentum, operator.eps) == (True, 0.1, 1e-5)
        assert not operator.HasField("running_mean")
        await call("group_norm", X, 3)
        assert (sent(plan).num_groups, sent(plan).eps) == (3, 1e-5)
        await call("layer_norm", X, (3, 4))
        assert (list(sent(plan).normalized_shape), sent(plan).eps) == ([3, 4], 1e-5)
        await call("rms_norm", X, (4,))
        assert (list(sent(plan).normalized_shape), sent(plan).HasField("eps")) == ([4], False)

        await call("local_response_norm", X, 2)
        assert (sent(plan).size, sent(plan).alpha, sent(plan).beta, sent(plan).k) == (2, 1e-4, 0.75, 1.0)
        await call("normalize", X)
        assert (sent(plan).p, sent(plan).dim, sent(plan).eps) == (2.0, 1, 1e-12)

    async def test_the_arguments_of_those_without_parameters(self, call, plan):
        await call("local_response_norm", X, 5, 0.5, 2.0, 0.25)
        assert (sent(plan).size, sent(plan).alpha, sent(plan).beta, sent(plan).k) == (5, 0.5, 2.0, 0.25)
        await call("normalize", X, np.inf, -2, 0.5)
        assert (sent(plan).p, sent(plan).dim, sent(plan).eps) == (np.inf, -2, 0.5)

    async def test_instance_norm(self, call, plan):
        await call("instance_norm", X, C, C + 1, C + 2, C + 3, False, 0.3, 0.5)
        operator = sent(plan)
        assert [value(getattr(operator, name))[0] for name in ("running_mean", "running_var", "weight", "bias")] == [0, 1, 2, 3]
        assert (operator.use_input_stats, operator.momentum, operator.eps) == (False, 0.3, 0.5)

    async def test_affine_parameters_of_the_others(self, call, plan):
        for arguments in (("layer_norm", X, [4], X[0, 0], X[0, 1], 0.5), ("group_norm", X, 3, C, C + 1, 0.5)):
            await call(*arguments)
            assert (value(sent(plan).weight)[0], value(sent(plan).bias)[0] > 0, sent(plan).eps) == (0, True, 0.5)
        await call("rms_norm", X, [4], X[0, 1], 0.5)
        assert (value(sent(plan).weight)[0], sent(plan).eps) == (4, 0.5)

    async def test_no_momentum_is_the_average_over_all_batches(self, call, plan):
        await call("batch_norm", X, C, C, training=True, momentum=None, num_batches_tracked=7)
        operator = sent(plan)
        assert (operator.cumulative, operator.HasField("momentum"), operator.num_batches_tracked) == (True, False, 7)

    async def test_the_timeout(self, call, plan):
        plan.delay_s = 30
        for arguments in (
            ("batch_norm", X, C, C),
            ("layer_norm", X, [4]),
            ("instance_norm", X),
            ("group_norm", X, 3),
            ("rms_norm", X, [4]),
            ("local_response_norm", X, 3),
            ("normalize", X),
        ):
            with pytest.raises(DeadlineExceededError):
                await call(*arguments, timeout=0.05)

    @pytest.mark.parametrize("name", ["running_mean", "running_var", "weight", "bias"])
    async def test_a_dtype_without_a_name_names_the_argument(self, call, plan, name):
        arguments = {"running_mean": C, "running_var": C, name: np.complex64([1])}
        with pytest.raises(InvalidArgumentError, match=f"input '{name}': dtype complex64"):
            await call("batch_norm", X, **arguments)
        assert not plan.seen


class TestWhatComesBack:
    async def test_batch_norm_in_training(self, call):
        result = await call("batch_norm", X, C, C + 1, training=True)
        assert isinstance(result, NormResult)
        output, running_mean, running_var = result
        assert np.array_equal(output, X)
        assert running_mean.tolist() == [0, 1, 2]
        assert running_var.tolist() == [1, 2, 3]

    async def test_batch_norm_in_training_without_statistics(self, call):
        result = await call("batch_norm", X, None, None, training=True)
        assert result.running_mean is None
        assert result.running_var is None

    async def test_instance_norm_that_updates_statistics(self, call):
        assert isinstance(await call("instance_norm", X, C, C), NormResult)

    @pytest.mark.parametrize(
        "arguments",
        [
            ("batch_norm", X, C, C),
            ("instance_norm", X),
            ("instance_norm", X, C, C, None, None, False),
            ("layer_norm", X, [4]),
            ("group_norm", X, 3),
            ("rms_norm", X, [4]),
            ("local_response_norm", X, 3),
            ("normalize", X),
        ],
    )
    async def test_everything_else_gives_the_array(self, call, arguments):
        assert np.array_equal(await call(*arguments), X)

    @pytest.mark.parametrize("shape", [(), (0, 3), (1,), (70_000,)])
    async def test_any_shape(self, call, shape):
        array = np.ones(shape)
        assert (await call("layer_norm", array, [1])).shape == shape


class TestBytes:
    """Big requests are serialized, and big answers read, past protobuf."""

    @pytest.fixture(params=[0, 64 * 1024, 2**40], ids=["scanned", "as it is", "parsed"])
    def small(self, request, monkeypatch):
        monkeypatch.setattr(wire, "SMALL", request.param)

    def answer(self, output, **fields):
        tensor = pb.Tensor(datatype=tensors.datatype_of(output), shape=output.shape, data=bytes(tensors.encode(output)))
        return pb.NormalizeResponse(output=tensor, **fields).SerializeToString()

    @pytest.mark.parametrize("shape", [(), (0,), (3,), (200, 300)])
    def test_a_request_is_what_protobuf_would_write(self, shape):
        array = np.ones(shape, np.float32)
        call = normalization.output_of(array, normalization.group_norm(2, None, None, 0.5))
        wanted = pb.NormalizeRequest(
            input=pb.Tensor(datatype="FP32", shape=shape, data=array.tobytes()), group_norm=pb.GroupNorm(num_groups=2, eps=0.5)
        )
        assert pb.NormalizeRequest.FromString(call.request) == wanted

    @pytest.mark.usefixtures("small")
    @pytest.mark.parametrize("shape", [(), (0,), (3,), (200, 300)])
    def test_an_answer_is_read(self, shape):
        array = np.full(shape, 2, np.float64)
        statistic = pb.Tensor(datatype="FP64", shape=[1], data=np.float64(5).tobytes())
        call = normalization.result_of(array, normalization.group_norm(2, None, None, 0.5))
        result = call.read(self.answer(array, running_mean=statistic, num_batches_tracked=-1))
        assert np.array_equal(result.output, array)
        assert (result.running_mean.tolist(), result.running_var) == ([5], None)

    def test_a_big_answer_is_viewed(self):
        response = self.answer(np.ones(100_000))
        output = normalization.output_of(X, pb.NormalizeRequest()).read(response)
        assert np.shares_memory(output, np.frombuffer(response, np.uint8))

    @pytest.mark.usefixtures("small")
    def test_an_answer_in_two_parts_is_merged_as_protobuf_does(self):
        array = np.ones(20_000)
        whole = self.answer(array)
        split = pb.NormalizeResponse(output=pb.Tensor(datatype="FP64")).SerializeToString() + whole
        output = normalization.output_of(X, pb.NormalizeRequest()).read(split)
        assert np.array_equal(output, array)

    @pytest.mark.usefixtures("small")
    def test_of_a_field_that_is_there_twice_the_last_counts_as_in_protobuf(self):
        data = [np.full(20_000, value).tobytes() for value in (1.0, 2.0)]
        described = pb.Tensor(datatype="FP64", shape=[20_000]).SerializeToString()
        response = wire.join(b"", 1, [wire.join(described, 3, data)])
        assert normalization.output_of(X, pb.NormalizeRequest()).read(response)[0] == 2

    @pytest.mark.usefixtures("small")
    @pytest.mark.parametrize("response", [b"", b"\x0a\xff", b"\x0a\x02\x0a\xff", b"\xff" * 70_000])
    def test_an_answer_that_is_none(self, response):
        with pytest.raises(InternalError, match="cannot be read"):
            normalization.output_of(X, pb.NormalizeRequest()).read(response)
