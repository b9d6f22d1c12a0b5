"""`normserve demo`: a server that shows itself answering, and then serves. What `make run` runs."""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import numpy as np
import typer
from normserve_proto.tensors import Array
from rich.table import Table

from normserve.cli.console import fail, needs_extra, out
from normserve.cli.terminal import own_ctrl_c
from normserve.client import Client
from normserve.errors import NormserveError, UnavailableError
from normserve.server_process import ServerProcess, ServerStartError

HOST = "127.0.0.1"
MODEL = "digits"
IMAGES = 8
START_TIMEOUT_S = 300
POLL_S = 0.05

# One braille character is two columns of four dots; the bits are in Unicode's order.
_BRAILLE = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


def demo(
    repository: Annotated[Path, typer.Option(help="Folder of models, `digits` among them.")],
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
) -> None:
    """Start a server, show it real handwritten digits, and serve until Ctrl-C.

    [bold]Example[/bold]

    normserve demo --repository models/repository
    """
    grpc_address, http_address = f"{HOST}:{grpc_port}", f"{HOST}:{http_port}"
    flags = ["--repository", str(repository), "--host", HOST, "--grpc-port", str(grpc_port), "--http-port", str(http_port)]
    with own_ctrl_c():
        code = _run(flags, grpc_address, http_address)
    raise typer.Exit(code)


def _run(flags: list[str], grpc_address: str, http_address: str) -> int:
    server = ServerProcess(["-m", "normserve.cli", "serve", *flags, "--log-format", "console"], http_address=http_address)
    try:
        _forward_signals(server)
        images, labels = _digits()  # while the server starts
        _show(server, grpc_address, images[:IMAGES], labels[:IMAGES])
        return server.wait()
    finally:
        server.close()


def _digits() -> tuple[Array, Array]:
    with needs_extra("server"):
        from normserve_models.zoo.digits_data import held_out

        return held_out()


def _forward_signals(server: ServerProcess) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        server.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _show(server: ServerProcess, grpc_address: str, images: Array, labels: Array) -> None:
    """Waits, asks, prints; returns early if the server is told to stop meanwhile."""
    try:
        with Client(grpc_address) as client:
            with out.status("starting the server"):
                server.wait_until("live", START_TIMEOUT_S)
                _wait_for_model(client)
            out.print(_answers(client, images, labels))
    except ServerStartError as error:
        if not server.stopping:
            _die(error)
        return
    except NormserveError as error:
        if not server.stopping:
            server.close()
            fail(f"{error.code.name}: {error.message}", 1)
        return
    _tell(grpc_address, server.http_address)
    server.forward_log(sys.stderr)


def _wait_for_model(client: Client) -> None:
    """Returns when the model serves.

    Raises:
        NotFoundError: the repository has no such model.
        UnavailableError: it failed to load, with the reason; or it is not there in time.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while not client.is_ready(MODEL):
        failed = [entry.reason for entry in client.models() if entry.name == MODEL and entry.state == "UNAVAILABLE"]
        if failed or time.monotonic() > deadline:
            raise UnavailableError(f"{MODEL}: {failed[0] if failed else f'not ready after {START_TIMEOUT_S} s'}")
        time.sleep(POLL_S)


def _die(error: ServerStartError) -> None:
    sys.stderr.write(f"{error}\n")
    raise typer.Exit(error.exit_code or 1)


def _answers(client: Client, images: Array, labels: Array) -> Table:
    table = Table("image", "label", "answer", "confidence", "ms", title=f"{MODEL}, images that its training has not seen")
    for image, label in zip(images, labels, strict=True):
        start = time.perf_counter()
        logits = client.infer(MODEL, {"image": image[np.newaxis]}, timeout=30)["logits"][0]
        milliseconds = (time.perf_counter() - start) * 1e3
        answer = int(logits.argmax())
        colour = "green" if answer == label else "red"
        confidence = f"{_softmax(logits)[answer]:.1%}"
        table.add_row(_drawn(image[0]), str(label), f"[{colour}]{answer}[/{colour}]", confidence, f"{milliseconds:.2f}")
    return table


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def _drawn(image: Array) -> str:
    """Draws pixels of 0 to 1 in braille, which is two pixels wide and four high."""
    rows, columns = image.shape
    cells = (image > 0.5).reshape(rows // 4, 4, columns // 2, 2).transpose(0, 2, 1, 3)
    codes = 0x2800 + (cells * _BRAILLE).sum((2, 3))
    return "\n".join("".join(map(chr, row)) for row in codes)


def _tell(grpc_address: str, http_address: str) -> None:
    call = f"normserve.Client('{grpc_address}').infer('{MODEL}', {{'image': np.zeros((1, 1, 8, 8), 'float32')}})"
    out.print(f"gRPC     {grpc_address}")
    out.print(f"page     http://{http_address}/")
    out.print(f"metrics  http://{http_address}/metrics")
    out.print(f'call     {sys.executable} -c "import normserve, numpy as np; print({call})"', markup=False, soft_wrap=True)
    out.print("serving until Ctrl-C")
