"""A server of which every metric has something to tell, and calls that see to it.

It has the digits network, and three whose runs take tens of milliseconds: `steady`, which is called one by one and each call
timed, `crowded`, which callers do not wait for long enough, and `swapped`, whose versions change.
"""

import shutil
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from normserve import Client, InternalError, NormserveError
from normserve.layers import BatchNormLayer
from normserve.testing import RunningServer, running_server

ROWS, WIDTH = 64, 256
STEADY_CALLS = 50
PATIENCE_MICROSECONDS = 1000  # in the queue, where a run takes longer
SAMPLES = {"x": np.ones((ROWS, WIDTH), np.float32)}
NETWORKS = ("steady", "crowded", "swapped")
CUT_SHORT = 'normserve_requests_cut_short_total{method="ModelInfer",model="crowded",phase="%s",reason="deadline",version="1"}'


def get(address: str, path: str, **query: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}?{urllib.parse.urlencode(query)}", timeout=5) as response:
        return str(response.read().decode())


class MeteredServer:
    """The server, and what its callers have measured.

    Args:
        server: it.
        folder: of the model `swapped`.

    Attributes:
        server: it.
        steady_seconds: of each call to `steady`.
    """

    def __init__(self, server: RunningServer, folder: Path) -> None:
        self.server = server
        self._folder = folder
        self._version = 1
        self.steady_seconds: list[float] = []

    @property
    def metrics(self) -> str:
        """What it exports now."""
        return get(self.server.http_address, "/metrics")

    def prepare(self) -> None:
        """Calls that come once, before all others."""
        with Client(self.server.grpc_address) as client:
            for _ in range(STEADY_CALLS):
                began = time.perf_counter()
                client.infer("steady", SAMPLES)
                self.steady_seconds.append(time.perf_counter() - began)
            client.normalizer("shared").create(BatchNormLayer(4))
            self.swap()
            self._fail_to_swap(client)
            self._until(lambda: CUT_SHORT % "queue" in self.metrics, lambda: self._crowd(client))
            self._until(lambda: CUT_SHORT % "compute" in self.metrics, lambda: self._leave(client))

    @contextmanager
    def called(self) -> Iterator[None]:
        """Has it called until the end."""
        stop = threading.Event()
        thread = threading.Thread(target=self._call, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _call(self, stop: threading.Event) -> None:
        """Per round one call is answered, two are refused by their callers' fault, and some concern no model."""
        with Client(self.server.grpc_address) as client:
            while not stop.is_set():
                client.infer("digits", {"image": np.zeros((3, 1, 8, 8), np.float32)})
                client.layer_norm(np.ones((2, 4), np.float32), (4,))
                client.normalizer("shared").observe(np.ones((2, 4), np.float32))
                client.is_ready("digits")
                for model, shape in (("digits", (1, 1, 9, 9)), ("absent", (1, 1, 8, 8))):
                    with suppress(NormserveError):
                        client.infer(model, {"image": np.zeros(shape, np.float32)})
                time.sleep(0.01)

    def swap(self) -> None:
        """Puts a new version in the place of that of `swapped`."""
        shutil.copytree(self._folder / "1", self._folder / str(self._version + 1))
        with Client(self.server.grpc_address) as client:
            client.load_model("swapped")
        self._version += 1

    def _until(self, condition: Callable[[], bool], attempt: Callable[[], None]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            attempt()

    def _crowd(self, client: Client) -> None:
        """Whoever comes while another's batch runs waits too long for its own."""

        def call(_number: int) -> None:
            with suppress(NormserveError):
                client.infer("crowded", SAMPLES, parameters={"timeout": PATIENCE_MICROSECONDS})

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(call, range(8)))

    def _leave(self, client: Client) -> None:
        with suppress(NormserveError):
            client.infer("crowded", SAMPLES, timeout=0.005)

    def _fail_to_swap(self, client: Client) -> None:
        broken = self._folder / str(self._version + 1)
        broken.mkdir()
        (broken / "model.onnx").write_bytes(b"no model")
        with suppress(InternalError):
            client.load_model("swapped")
        shutil.rmtree(broken)


@contextmanager
def metered_server(repository: Path, cache_dir: Path) -> Iterator[MeteredServer]:
    """Starts it, and makes the calls that come once.

    Args:
        repository: with version 1 of each.
        cache_dir: where artifacts are kept.
    """
    arguments = ["--cache-dir", str(cache_dir), "--model-control-mode", "explicit", "--load-model", "*"]
    with running_server(repository, arguments=[*arguments, "--state", str(repository / "state.db")]) as server:
        metered = MeteredServer(server, repository / "swapped")
        metered.prepare()
        yield metered
