"""What does it cost that an update of shared statistics is on the disk before it is answered?

    echo           a bare grpc.aio server on uvloop that takes and gives as many bytes: the ceiling
    observe        ObserveNormalizer on one normalizer, in SQLite on this disk with every commit flushed
    apply          ApplyNormalizer in training; the answer is as large as the input
    evaluate       ApplyNormalizer in evaluation, which changes nothing
    commit         one row of a bare SQLite file, updated and flushed again and again: what a flush costs here

All but the last are measured from outside, by h2load. Rates are calls a second.

    python benchmarks/normalizers.py
    python benchmarks/normalizers.py --callers 1,16,64,256 --state postgresql://user@127.0.0.1/database
"""

import argparse
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import grpc
import numpy as np
from normserve_proto import normalization_pb2 as npb
from normserve_proto import normalizers_pb2 as pb
from normserve_proto.normalizers_pb2_grpc import NormalizerServiceStub
from rich.progress import Progress
from serving_tools import figures, h2load, report
from serving_tools.figures import Figure, Turn
from serving_tools.models import OUT
from serving_tools.other_servers import PATH, Process, other_server
from serving_tools.report import NOTICE, Sheet
from serving_tools.subjects import ECHO, Remote, call, free_address, our_server

SERVICE = "/normserve.v1.NormalizerService/"
ID = "bench"
NAME = f"normalizers/{ID}"
OBSERVE, APPLY, EVALUATE, COMMIT = "observe", "apply", "evaluate", "commit"
FAR = 2**22  # updates so far, so that the number has one size in all answers: h2load holds them to it
TARGET = 0.5
LAYERS = {
    "running": pb.Normalizer(running_norm=pb.RunningNormLayer(shape=[64])),
    "batch_norm": pb.Normalizer(batch_norm=pb.BatchNormLayer(num_features=64)),
}


def requests(samples: int) -> dict[str, tuple[str, bytes]]:
    """Path and message of each subject."""
    x = np.random.default_rng(0).normal(3, 2, (samples, 64)).astype(np.float32)
    tensor = npb.Tensor(datatype="FP32", shape=x.shape, data=x.tobytes())
    apply = {
        mode: pb.ApplyNormalizerRequest(name=NAME, input=tensor, mode=mode) for mode in (pb.MODE_TRAINING, pb.MODE_EVALUATION)
    }
    return {
        OBSERVE: (f"{SERVICE}ObserveNormalizer", pb.ObserveNormalizerRequest(name=NAME, input=tensor).SerializeToString()),
        APPLY: (f"{SERVICE}ApplyNormalizer", apply[pb.MODE_TRAINING].SerializeToString()),
        EVALUATE: (f"{SERVICE}ApplyNormalizer", apply[pb.MODE_EVALUATION].SerializeToString()),
    }


@contextmanager
def served(arguments: argparse.Namespace) -> Iterator[Process]:
    """Our server with one normalizer, which has been updated many times."""
    folder = OUT / "normalizers"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "repository").mkdir(parents=True)
    file = folder / "state.db"
    with our_server(folder / "repository", ["--state", arguments.state or str(file), *arguments.server_flag]) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = NormalizerServiceStub(channel)
            stub.DeleteNormalizer(pb.DeleteNormalizerRequest(name=NAME, allow_missing=True))
            stub.CreateNormalizer(pb.CreateNormalizerRequest(normalizer_id=ID, normalizer=LAYERS[arguments.layer]))
        _set_sequence(arguments.state, file)
        yield server


def _set_sequence(state: str | None, file: Path) -> None:
    statement = f"UPDATE normserve_normalizers SET sequence = {FAR} WHERE id = '{ID}'"  # no input of anybody's
    if state is None:
        with closing(sqlite3.connect(file)) as database, database:
            database.execute(statement)
        return
    import psycopg

    with psycopg.connect(state) as connection:
        connection.execute(statement)


@contextmanager
def subjects(arguments: argparse.Namespace) -> Iterator[dict[str, Remote]]:
    """What takes calls: ours, and an echo for each size of answer."""
    with served(arguments) as server:
        ours = {}
        for name, (path, message) in requests(arguments.samples).items():
            body = h2load.write_body(message, OUT / "requests" / f"normalizers-{name}")
            ours[name] = Remote(server, path, body, len(call(server.address, path, message)))
        first = ours[OBSERVE]
        with other_server("echo", free_address(), first.answer_bytes) as echo:
            yield {ECHO: Remote(echo, PATH, first.body, first.answer_bytes), **ours}


def commits() -> Turn:
    """A bare file's updates, one by one."""
    file = OUT / "normalizers" / "bare.db"
    file.unlink(missing_ok=True)
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, state BLOB)")
    database.execute("INSERT INTO bare VALUES (1, x'')")
    return figures.local(figures.timed(lambda: database.execute("UPDATE bare SET state = randomblob(1024)")), 1)


def measure(arguments: argparse.Namespace, advance: Callable[[], None]) -> dict[int, dict[str, list[Figure]]]:
    """All figures, by the number of callers."""
    out = {}
    with subjects(arguments) as remotes:
        for callers in arguments.callers:
            turns = {name: remote.turn(callers, 1) for name, remote in remotes.items()} | {COMMIT: commits()}
            out[callers] = figures.alternate(turns, rounds=arguments.rounds, seconds=arguments.seconds, advance=advance)
    return out


def sheet(seen: dict[int, dict[str, list[Figure]]], arguments: argparse.Namespace) -> Sheet:
    """Medians over the rounds."""
    columns = ("callers", "subject", "calls/s", "p50 ms", "p99 ms", "CPU µs a call")
    out = Sheet(f"{arguments.samples} samples of 64 features, FP32, layer {arguments.layer}", columns)
    for callers, turns in seen.items():
        for name, each in turns.items():
            middle = figures.median(each)
            cpu = "" if middle.cpu_us is None else f"{middle.cpu_us:.0f}"
            texts = (f"{middle.rate:.0f}", f"{middle.p50_ms:.2f}", f"{middle.p99_ms:.2f}", cpu)
            out.rows.append([str(callers), name, *texts])
    return out


def ratios(seen: dict[int, dict[str, list[Figure]]]) -> Sheet:
    """Beside the echo; the target is for many callers, of whom a flush serves as many as came during the one before."""
    out = Sheet("rates, median of the rounds (extremes)", ("callers", "what", "measured", "target"))
    for callers, turns in seen.items():
        for name in (OBSERVE, APPLY, EVALUATE):
            target = f"≥ {TARGET}" if name == OBSERVE and callers >= 64 else ""
            out.rows.append([str(callers), f"{name} / echo", str(figures.ratio(turns[name], turns[ECHO], "rate")), target])
        out.rows.append([str(callers), f"{OBSERVE} / commit", str(figures.ratio(turns[OBSERVE], turns[COMMIT], "rate")), ""])
    return out


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = report.parser(__doc__, seconds=2, rounds=3)
    parser.add_argument("--callers", type=counts, default=(64,), help="calls under way, with commas (default: 64)")
    parser.add_argument("--samples", type=report.count, default=16, help="of a call (default: 16)")
    parser.add_argument("--layer", choices=LAYERS, default="running", help="what the normalizer is (default: running)")
    parser.add_argument("--state", help="a postgresql:// URL instead of a file under benchmarks/out")
    return parser.parse_args(given)


def counts(text: str) -> tuple[int, ...]:
    return tuple(report.count(part) for part in text.split(","))


def show(seen: dict[int, dict[str, list[Figure]]], arguments: argparse.Namespace) -> None:
    sheet(seen, arguments).show(markdown=arguments.markdown)
    ratios(seen).show(markdown=arguments.markdown)


def main() -> None:
    arguments = parse()
    with Progress(console=NOTICE, transient=True) as progress:
        task = progress.add_task("measuring", total=len(arguments.callers) * 5 * (arguments.rounds + 1))
        seen = measure(arguments, lambda: progress.advance(task))
    show(seen, arguments)
    if arguments.json:
        values = {str(n): {name: [asdict(f) for f in each] for name, each in turns.items()} for n, turns in seen.items()}
        report.write_json(arguments.json, values)


if __name__ == "__main__":
    report.run(main)
