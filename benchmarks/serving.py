r"""What does serving a model cost, beside running it and beside moving its bytes?

Each question sets our server beside others, which take turns in the same run under the same load:
    in-process     onnxruntime alone, on the same file: the ceiling of the model
    echo           a bare grpc.aio server on uvloop that takes and gives as many bytes: the ceiling of the transport
    bare handler   the same with the session called in it on the last bytes of the message, and nothing checked
A ratio is taken in each round; its median counts, and the extremes stand beside it. Times on a shared machine mean little.

The load comes from h2load (Debian's package nghttp2-client). All callers share one connection, as the calls of one client
program do; `--connections` spreads them. Two workers are measured with a connection a caller, because a connection belongs
to one worker; so are the others in that table.

    python benchmarks/serving.py                          # everything, some six minutes
    python benchmarks/serving.py small mib --rounds 5     # two of the questions, more exactly
    python benchmarks/serving.py observed --callers 16 --starts 10 --rounds 24 --seconds 0.2 \
        --only "metrics off" --only "metrics and traces"  # differences of a hundredth
"""

import argparse
from dataclasses import replace

from rich.progress import Progress, TaskID
from serving_tools import report
from serving_tools.errors import NoSuchFlagError
from serving_tools.models import MIB, RESNET50, SMALL
from serving_tools.questions import (
    BEST,
    RATIO_COLUMNS,
    RATIOS,
    Cells,
    Comparison,
    Question,
    as_json,
    ask,
    figures_sheet,
    medians,
    ratio_rows,
)
from serving_tools.report import NOTICE, Sheet
from serving_tools.subjects import COLLECTOR, ECHO, SERVER, remotes

WORKERS, UNMEASURED = "2 workers", "metrics off"
AGAIN, OBSERVED, LOGGED = "metrics off, again", "metrics and traces", "metrics, traces and access log"
TRACED = ("--otlp-endpoint", COLLECTOR, "--trace-rate", "1000")
QUESTIONS = {
    "resnet50": Question(
        "resnet50, 600 KB in",
        RESNET50,
        (16,),
        [Comparison("rate", SERVER, BEST, {16: 0.97})],
        batch_sizes=(1, 2, 4, 8, 16),
        stretch=4,
    ),
    "small": Question(
        "a small network, 12 KB in and out",
        SMALL,
        (1, 16, 64),
        [
            Comparison("rate", SERVER, ECHO, {1: 0.75, 16: 0.8, 64: 0.8}),
            Comparison("cpu_us", SERVER, ECHO, {1: 1.3, 16: 1.3, 64: 1.3}),
        ],
        batch_sizes=(1,),
    ),
    "mib": Question(
        "identity, 1 MiB in and out", MIB, (1, 16), [Comparison("rate", SERVER, ECHO, {1: 0.85, 16: 0.75})], batch_sizes=(1,)
    ),
    "workers": Question(
        "the small network with two serving processes",
        SMALL,
        (16, 64),
        [Comparison("rate", WORKERS, ECHO, {}), Comparison("rate", WORKERS, SERVER, {16: 1, 64: 1})],
        servers={SERVER: (), WORKERS: ("--workers", "2")},
        spread=True,
    ),
    "metrics": Question(
        "what metrics cost",
        SMALL,
        (1, 16),
        [Comparison("rate", SERVER, UNMEASURED, {1: 0.98, 16: 0.98})],
        servers={SERVER: (), UNMEASURED: ("--no-metrics",)},
    ),
    "observed": Question(
        "what metrics, one traced request in 1000, and an access log cost together",
        SMALL,
        (1, 16),
        [
            Comparison("rate", OBSERVED, UNMEASURED, {1: 0.98, 16: 0.98}),
            Comparison("cpu_us", OBSERVED, UNMEASURED, {1: 1.02, 16: 1.02}),
            Comparison("rate", LOGGED, UNMEASURED, {1: 0.98, 16: 0.98}),
            Comparison("cpu_us", LOGGED, UNMEASURED, {1: 1.02, 16: 1.02}),
            Comparison("rate", AGAIN, UNMEASURED),  # two processes of one kind differ, too
            Comparison("cpu_us", AGAIN, UNMEASURED),
        ],
        servers={
            UNMEASURED: ("--no-metrics",),
            AGAIN: ("--no-metrics",),
            OBSERVED: TRACED,
            LOGGED: (*TRACED, "--access-log", "--log-level", "info", "--log-format", "json"),
        },
    ),
}


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__, seconds=1.5, rounds=3)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}; default: all")
    parser.add_argument(
        "--connections", type=report.count, default=1, help="that callers are spread over, where they can (default: 1)"
    )
    parser.add_argument(
        "--only", action="append", metavar="SUBJECT", help="takes part; repeatable: the fewer do, the nearer their turns are"
    )
    parser.add_argument(
        "--starts", type=report.count, default=1, help="of the servers, each a round, for two processes differ (default: 1)"
    )
    parser.add_argument(
        "--callers", type=report.count, action="append", help="calls under way; repeatable (default: the question's)"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.questions) - set(QUESTIONS):
        parser.error(f"no question {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    return arguments


def asked(name: str, arguments: argparse.Namespace) -> Question:
    question = QUESTIONS[name]
    if arguments.callers:
        question = replace(question, callers=arguments.callers)
    return question.of(arguments.only) if arguments.only else question


def answer(name: str, arguments: argparse.Namespace, bar: Progress) -> Cells:
    """The figures of a question; where servers are started several times, each start counts as one round."""
    question = asked(name, arguments)
    task = bar.add_task(name)
    starts = [start(question, arguments, bar, task) for _ in range(arguments.starts)]
    return starts[0] if len(starts) == 1 else medians(starts)


def start(question: Question, arguments: argparse.Namespace, bar: Progress, task: TaskID) -> Cells:
    with remotes(question.model, question.servers, arguments.server_flag) as servers:
        subjects = {name: server for name, server in servers.items() if not arguments.only or name in arguments.only}
        bar.update(task, total=arguments.starts * question.turns(len(subjects), arguments.rounds))
        return ask(
            question,
            subjects,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            connections=arguments.connections,
            advance=lambda: bar.advance(task),
        )


def main() -> None:
    arguments = parse()
    results = {}
    ratios = Sheet(RATIOS, RATIO_COLUMNS)
    with Progress(console=NOTICE, transient=True) as bar:
        for name in arguments.questions or QUESTIONS:
            try:
                cells = answer(name, arguments, bar)
            except NoSuchFlagError as error:
                NOTICE.print(f"{name}: not measured, {error}")
                continue
            results[name] = as_json(cells)
            question = asked(name, arguments)
            figures_sheet(question, cells).show(markdown=arguments.markdown)
            ratios.rows.extend(ratio_rows(name, question, cells))
    ratios.show(markdown=arguments.markdown)
    if arguments.json:
        report.write_json(arguments.json, results)


if __name__ == "__main__":
    report.run(main)
