"""What does the service make of a card? Each figure stands beside what bounds it on the same card, in the same run.

    operators    normalization of 268 MB, beside a copy
    service      ResNet-50 in float16 with bytes as input: under load beside onnxruntime in process at its best batch, one
                 caller beside the same in process, and batch sizes never seen before, the slowest beside the median
    in-process   the same by onnxruntime with everything bound, beside torch.compile max-autotune

Writes one JSON and one table, by default to benchmarks/results/, with the card's name in the files' names. Without a card it
says so and ends with 1; `--rehearse` then runs all of it on the CPU, on a small network and for moments: those figures mean
nothing, and go to benchmarks/out/. It needs no network, and takes less than eight minutes: what there is no time left for is
left out, and says so.

    python benchmarks/gpu.py
    python benchmarks/gpu.py operators overhead
    python benchmarks/gpu.py --rehearse
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gpu_tools import card, figures
from gpu_tools.card import Card, NoCardError
from gpu_tools.figures import Row

HERE = Path(__file__).parent
QUESTIONS = ("operators", "service", "in-process")


def main() -> None:
    arguments = parse()
    try:
        found = Card(card.REHEARSAL) if arguments.rehearse else card.find()
    except NoCardError as error:
        sys.exit(f"bench-gpu: nothing was measured: {error}. `--rehearse` tries everything on the CPU.")
    rows = list(answers(arguments))
    print(figures.sheet(found, rows, rehearsal=arguments.rehearse).markdown())
    out = arguments.out or HERE / ("out" if arguments.rehearse else "results")
    print(f"written: {figures.write(out, 'gpu', found, rows, rehearsal=arguments.rehearse)}")
    sys.exit(any(row.figure is None for row in rows))


def answers(arguments: argparse.Namespace) -> Iterator[Row]:
    from gpu_tools.questions import answered  # torch and onnxruntime, which a refusal needs not wait for
    from gpu_tools.run import REAL, REHEARSAL, Run, limited

    scale = REHEARSAL if arguments.rehearse else REAL
    with tempfile.TemporaryDirectory() as folder, limited(scale.most_seconds) as left:
        run = Run(scale, Path(folder), left)
        for name in arguments.questions or QUESTIONS:
            for row in answered(run, name):
                yield replace(row, wanted=None) if arguments.rehearse else row


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}; default: all")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, for moments: the figures mean nothing")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write")
    arguments = parser.parse_args()
    if unknown := set(arguments.questions) - set(QUESTIONS):
        parser.error(f"no question {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    return arguments


if __name__ == "__main__":
    main()
