"""Many callers that update normalizers, try again until they are answered, and remember what they were told."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from normserve_proto import normalization_pb2 as npb
from normserve_proto import normalizers_pb2 as pb
from normserve_proto.normalizers_pb2_grpc import NormalizerServiceStub

AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
CHANNELS = 4
OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)


@dataclass
class Told:
    """What one update was answered.

    Attributes:
        normalizer: its id.
        sequence: after it.
        seed: of the batch.
    """

    normalizer: str
    sequence: int
    seed: int


@dataclass
class Callers:
    """All of them together.

    Attributes:
        told: every answered update.
        tries: calls, of which some were not answered.
        errors: what no caller should see.
    """

    told: list[Told] = field(default_factory=list)
    tries: int = 0
    errors: list[str] = field(default_factory=list)
    thread: threading.Thread | None = None

    def sequences(self, normalizer: str) -> list[Told]:
        """The updates of one normalizer, in their order."""
        return sorted((one for one in self.told if one.normalizer == normalizer), key=lambda one: one.sequence)


def batch(seed: int, features: int) -> np.ndarray:
    """A batch of 2 to 9 samples; the same for the same seed."""
    numbers = np.random.default_rng(seed)
    return numbers.normal(numbers.normal(0, 5), 2, (numbers.integers(2, 10), features)).astype(np.float32)


def tensor(x: np.ndarray) -> npb.Tensor:
    return npb.Tensor(datatype={np.float32: "FP32", np.float64: "FP64"}[x.dtype.type], shape=x.shape, data=x.tobytes())


@contextmanager
def calling(
    addresses: Sequence[str], normalizers: Sequence[str], features: int, callers: int, updates: int
) -> Iterator[Callers]:
    """Callers that make so many updates each, in a thread; the end of the `with` waits for them.

    Each address has CHANNELS connections, and each try takes another.
    """
    all_ = Callers()
    work: Callable[[], None] = lambda: asyncio.run(_all(all_, addresses, normalizers, features, callers, updates))  # noqa: E731
    all_.thread = threading.Thread(target=work)
    all_.thread.start()
    yield all_
    all_.thread.join()


async def _all(
    all_: Callers, addresses: Sequence[str], normalizers: Sequence[str], features: int, callers: int, updates: int
) -> None:
    channels = [grpc.aio.insecure_channel(address, OPTIONS) for address in addresses for _ in range(CHANNELS)]
    stubs = [NormalizerServiceStub(channel) for channel in channels]
    try:
        await asyncio.gather(*(_one(all_, stubs, normalizers, features, n, updates) for n in range(callers)))
    except Exception as error:  # noqa: BLE001 - the test shows it
        all_.errors.append(repr(error))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def _one(
    all_: Callers, stubs: Sequence[NormalizerServiceStub], normalizers: Sequence[str], features: int, number: int, updates: int
) -> None:
    for update in range(updates):
        seed = number * updates + update
        id_ = normalizers[seed % len(normalizers)]
        request = {"name": f"normalizers/{id_}", "input": tensor(batch(seed, features)), "request_id": str(seed)}
        all_.told.append(Told(id_, await _answered(all_, stubs, request), seed))


async def _answered(all_: Callers, stubs: Sequence[NormalizerServiceStub], request: dict) -> int:
    while True:
        stub = random.choice(stubs)
        all_.tries += 1
        try:
            return (await _call(stub, request)).sequence
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN:
                raise
        await asyncio.sleep(random.uniform(0, 0.05))


def _call(stub: NormalizerServiceStub, request: dict) -> Awaitable:
    if int(request["request_id"]) % 4:
        return stub.ObserveNormalizer(pb.ObserveNormalizerRequest(**request))
    return stub.ApplyNormalizer(pb.ApplyNormalizerRequest(**request, mode=pb.MODE_TRAINING))
