"""What does a fold cost, in time and memory, and does it grow as the model does?

Each figure comes from processes of its own, the least of several, for what else the machine does only adds to it. The peak
memory is what the kernel says of the process. ResNet-50 is held against the limits that the project has set itself; chains of
Conv, BatchNormalization and Relu of growing length have to cost the same time a node. The floor of the memory is a process that
has only imported what a fold needs.

    python benchmarks/fold_cost.py                      # all of it, about three minutes
    python benchmarks/fold_cost.py --skip-proof         # only load, fold and write
    python benchmarks/fold_cost.py --json results.json  # keep the figures
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

OUT = Path(__file__).parent / "out"
NODES = (100, 1_000, 10_000)
STEPS = ("load", "fold", "write", "proof")
CHANNELS = 8
MEGA = 1e6
FOLD_LIMIT_S, PROOF_LIMIT_S, MEMORY_LIMIT = 2.0, 30.0, 4.0  # the last one in sizes of the file

Figures = dict[str, float]


def child(what: str, source: Path | None) -> None:
    """Run one measurement in this process; print the seconds of each step as JSON."""
    from normserve_models import graph, prepare
    from normserve_models.fold import fold

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "folded.onnx"
        seconds: Figures = {}
        if source is not None and what == "proof":
            seconds = prepare.fold_file(source, target).seconds
        elif source is not None:
            clock = [time.perf_counter()]
            model = graph.load(source)
            clock.append(time.perf_counter())
            fold(model)
            clock.append(time.perf_counter())
            graph.save(model, target, "folded.onnx.data")
            clock.append(time.perf_counter())
            seconds = {step: end - start for step, start, end in zip(STEPS, clock, clock[1:], strict=False)}
        print(json.dumps(seconds))


def measured(what: str, source: Path | None) -> Figures:
    """Run a measurement in a child; return its seconds, and its peak memory in MB as `peak`."""
    command = [sys.executable, __file__, "--child", what, *([str(source)] if source else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as output:
        said = output.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return {**json.loads(said), "peak": usage.ru_maxrss * unit / MEGA}


def fastest(figures: list[Figures]) -> Figures:
    return {name: min(figure[name] for figure in figures) for name in figures[0]}


def write_chain(nodes: int, path: Path) -> None:
    """Write Conv -> BatchNormalization -> Relu, over and over, of so many nodes."""
    import numpy as np
    import onnx
    from normserve_models.testing import Draft

    draft = Draft()
    y = draft.input("batch", CHANNELS, 4, 4)
    weights = np.random.default_rng(0).standard_normal((nodes, CHANNELS, CHANNELS, 1, 1)) / CHANNELS**0.5
    while len(draft.nodes) + 3 <= nodes:
        y = draft.node("Conv", y, draft.constant(weights[len(draft.nodes)]))
        y = draft.node("Relu", draft.norm(y, CHANNELS))
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(draft.output(y), path)


def chain(nodes: int) -> Path:
    """Write a chain in a child: a parent that has grown counts in the peak of its children."""
    path = OUT / f"chain-{nodes}.onnx"
    subprocess.run([sys.executable, __file__, "--chain", str(nodes), str(path)], check=True)
    return path


def resnet50() -> Path:
    repository = OUT / "repository"
    subprocess.run(
        [sys.executable, "-m", "normserve_models.zoo.build", "--repository", str(repository), "resnet50"], check=True
    )
    return repository / "resnet50" / "1" / "model.onnx"


def repeated(what: str, source: Path | None, rounds: int) -> Figures:
    return fastest([measured(what, source) for _ in range(rounds)])


def network_table(found: dict[str, Any]) -> Table:
    out = Table("", "limit", "measured", "", title=f"ResNet-50, {found['file']:.0f} MB")
    fold, proof = found["fold"], found.get("proof")
    rows = [
        ("fold and write", FOLD_LIMIT_S, fold["fold"] + fold["write"], "s"),
        ("peak memory", MEMORY_LIMIT * found["file"], fold["peak"], "MB"),
    ]
    if proof:
        rows += [
            ("with the proof", PROOF_LIMIT_S, sum(proof[step] for step in STEPS), "s"),
            ("peak memory, with the proof", MEMORY_LIMIT * found["file"], proof["peak"], "MB"),
        ]
    for name, limit, figure, unit in rows:
        out.add_row(name, f"{limit:.0f} {unit}", f"{figure:.2f} {unit}", "kept" if figure <= limit else "NOT KEPT")
    steps = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in (proof or fold).items() if step in STEPS)
    out.caption = f"{steps}; imports alone {found['floor']['peak']:.0f} MB"
    return out


def chain_table(found: dict[int, Figures]) -> Table:
    steps = [step for step in STEPS if step in next(iter(found.values()))]
    out = Table("nodes", *steps, "peak", title="Conv, BatchNormalization, Relu, ...: microseconds a node")
    for nodes, figures in found.items():
        out.add_row(f"{nodes:,}", *(f"{figures[step] / nodes * MEGA:.0f}" for step in steps), f"{figures['peak']:.0f} MB")
    ratios = growth(found)
    out.add_row("last : middle", *(f"{ratios[step]:.2f}" for step in steps), "", end_section=True)
    out.caption = "the ratio is 1 where the time is linear; the shortest chain is mostly fixed cost"
    return out


def growth(found: dict[int, Figures]) -> Figures:
    """Return, for each step, the time per node of the longest chain in units of that of the one before."""
    *_, before, last = found
    return {step: found[last][step] / last / (found[before][step] / before) for step in STEPS if step in found[last]}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    parser.add_argument("--skip-proof", action="store_true", help="measure load, fold and write only")
    parser.add_argument("--skip-chains", action="store_true", help="measure ResNet-50 only")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--chain", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]) if len(arguments.child) > 1 else None)
    elif arguments.chain:
        write_chain(int(arguments.chain[0]), Path(arguments.chain[1]))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    console = Console()
    source = resnet50()
    network: dict[str, Any] = {"file": source.stat().st_size / MEGA, "floor": repeated("imports", None, arguments.rounds)}
    for what in ("fold",) if arguments.skip_proof else ("fold", "proof"):
        network[what] = repeated(what, source, arguments.rounds)
    console.print(network_table(network))
    chains: dict[int, Figures] = {}
    if not arguments.skip_chains:
        what = "fold" if arguments.skip_proof else "proof"
        for nodes in track(NODES, "chains", console=console, transient=True):
            chains[nodes] = repeated(what, chain(nodes), arguments.rounds)
        console.print(chain_table(chains))
    if arguments.json:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        figures = {"machine": machine, "resnet50": network, "chains": chains}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
