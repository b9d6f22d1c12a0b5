"""What a normalizer's verbs send again, and what they fail with."""

import grpc
import numpy as np
import pytest
from normserve import (
    AbortedError,
    AlreadyExistsError,
    BatchNormLayer,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    normalizer_requests,
    requests,
)
from normserve_proto import normalizers_pb2 as pb

X = np.ones((4, 3), np.float32)
CALLS = [
    ("create", (BatchNormLayer(3),)),
    ("restore", (pb.Normalizer(batch_norm={"num_features": 3}).SerializeToString(),)),
    ("apply", (X,)),
    ("apply_numbered", (X,)),
    ("observe", (X,)),
    ("load_state_dict", ({},)),
]


class TestRetries:
    @pytest.mark.parametrize(("verb", "arguments"), CALLS, ids=[verb for verb, _ in CALLS])
    async def test_what_is_sent_again_has_the_same_id(self, obs, plan, verb, arguments):
        plan.seen.clear()
        plan.failures.extend([(grpc.StatusCode.UNAVAILABLE, "draining")] * 2)
        await obs(verb, *arguments)
        await obs(verb, *arguments)
        ids = [seen.request.request_id for seen in plan.seen]
        assert len(ids) == 4
        assert ids[0] == ids[1] == ids[2] != ids[3]
        assert all(0 < len(id_) <= 128 for id_ in ids)

    @pytest.mark.parametrize(("verb", "arguments"), CALLS, ids=[verb for verb, _ in CALLS])
    async def test_a_callers_own_id(self, obs, plan, verb, arguments):
        await obs(verb, *arguments, request_id="batch 17")
        assert plan.seen[-1].request.request_id == "batch 17"

    async def test_what_was_answered_is_not_counted_twice(self, obs):
        assert [await obs("observe", X, request_id="a") for _ in range(2)] == [1, 1]

    async def test_what_would_fail_for_having_worked_is_sent_once(self, obs, plan):
        plan.seen.clear()
        plan.failures.append((grpc.StatusCode.UNAVAILABLE, "draining"))
        with pytest.raises(UnavailableError, match="draining"):
            await obs("delete")
        assert len(plan.seen) == 1
        assert requests.UPDATE_NORMALIZER not in requests.METHODS


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (grpc.StatusCode.ABORTED, AbortedError),
            (grpc.StatusCode.ALREADY_EXISTS, AlreadyExistsError),
            (grpc.StatusCode.NOT_FOUND, NotFoundError),
            (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgumentError),
        ],
    )
    async def test_codes(self, obs, plan, code, kind):
        plan.failures.append((code, "no"))
        with pytest.raises(kind, match="no") as failed:
            await obs("observe", X)
        assert failed.value.code == code

    async def test_a_timeout_is_of_all_steps(self, obs, plan):
        plan.delay_s = 0.2
        with pytest.raises(DeadlineExceededError):
            await obs("update", training=False, timeout=0.3)

    @pytest.mark.parametrize(
        "call",
        [
            normalizer_requests.get("a"),
            normalizer_requests.apply("a", X, training=None, request_id=""),
            normalizer_requests.observe("a", X, request_id=""),
            normalizer_requests.get_state_dict("a"),
            normalizer_requests.get_snapshot("a"),
        ],
    )
    def test_an_answer_that_is_none(self, call):
        with pytest.raises(InternalError, match="cannot be read"):
            call.read(b"\xff\xff")
