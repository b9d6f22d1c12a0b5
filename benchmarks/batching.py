"""What does batching cost a service that is idle but for one caller?

One server has the same network three times: twice with batching on, and once with it off. One caller calls each for a moment,
in turns; so the server process, its memory and its connection are the same for all, which two servers of one kind would not
have. The floor of the comparison is what the two with batching on differ by. There is no echo: whichever had its turn behind
it, the server having rested, would be slower.

    python benchmarks/batching.py
    python benchmarks/batching.py --network resnet50 --seconds 2
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from rich.progress import Progress
from serving_tools import figures, h2load, models, report
from serving_tools.figures import Figure
from serving_tools.models import OUT, RESNET50, SMALL, Model
from serving_tools.report import NOTICE, Sheet
from serving_tools.subjects import INFER, Remote, call, our_server

ON, AGAIN, OFF = "batching on", "batching on, again", "batching off"
NETWORKS = {model.name: model for model in (SMALL, RESNET50)}
CONFIGS = {ON: "", OFF: "max_batch_size: 1", AGAIN: ""}
TARGET = 1.01


@contextmanager
def subjects(network: Model, flags: list[str]) -> Iterator[dict[str, Remote]]:
    """The server's three models."""
    named = {subject: replace(network, name=f"{network.name}_{number}") for number, subject in enumerate(CONFIGS)}
    with our_server(repository(network, named), flags) as ours:
        bodies = {who: h2load.write_body(model.request(), OUT / "requests" / model.name) for who, model in named.items()}
        size = len(call(ours.address, INFER, named[ON].request()))
        yield {who: Remote(ours, INFER, body, size) for who, body in bodies.items()}


def repository(network: Model, named: dict[str, Model]) -> Path:
    """A folder with the network under each of the names, and its configuration."""
    source = models.build(network, OUT / "repositories" / network.name)
    folder = OUT / "batching" / network.name
    shutil.rmtree(folder, ignore_errors=True)
    for subject, model in named.items():
        version = folder / model.name / "1"
        version.mkdir(parents=True)
        shutil.copy(source, version)
        if CONFIGS[subject]:
            (version.parent / "config.pbtxt").write_text(CONFIGS[subject] + "\n")
    return folder


def sheets(rounds: dict[str, list[Figure]]) -> list[Sheet]:
    out = Sheet("one caller", ("subject", "calls/s", "p50 ms", "p99 ms"))
    for name, turns in rounds.items():
        figure = figures.median(turns)
        out.rows.append([name, f"{figure.rate:,.0f}", f"{figure.p50_ms:.3f}", f"{figure.p99_ms:.3f}"])
    ratios = Sheet("p50: median of the rounds (extremes)", ("what", "measured", "target"))
    for one in (ON, AGAIN):
        ratios.rows.append([f"{one} / {OFF}", str(figures.ratio(rounds[one], rounds[OFF], "p50_ms")), f"≤ {TARGET:g}"])
    ratios.rows.append([f"{AGAIN} / {ON}", str(figures.ratio(rounds[AGAIN], rounds[ON], "p50_ms")), "1: the same"])
    return [out, ratios]


def main() -> None:
    parser = report.parser(__doc__, seconds=0.25, rounds=40)
    parser.add_argument("--network", choices=NETWORKS, default=SMALL.name, help="that is served (default: %(default)s)")
    arguments = parser.parse_args()
    with (
        subjects(NETWORKS[arguments.network], arguments.server_flag) as found,
        Progress(console=NOTICE, transient=True) as bar,
    ):
        task = bar.add_task("batching", total=len(found) * (arguments.rounds + 1))
        turns = {name: remote.turn(1, 1) for name, remote in found.items()}
        rounds = figures.alternate(turns, rounds=arguments.rounds, seconds=arguments.seconds, advance=lambda: bar.advance(task))
    for sheet in sheets(rounds):
        sheet.show(markdown=arguments.markdown)
    if arguments.json:
        report.write_json(arguments.json, {name: [asdict(turn) for turn in each] for name, each in rounds.items()})


if __name__ == "__main__":
    report.run(main)
