"""How fast do other Python model servers serve the same file, under the same load, in the same run?

MLServer 1.7.1 and KServe 0.21 stand beside the echo, the bare handler and our server. Each lives in a virtual environment of
its own under benchmarks/out/, which is made where it is missing (some 500 MB each). Each runs the small network of 12 KB,
folded, with onnxruntime on one thread, by the fewest lines that its documentation allows, in one process, on uvloop, and
without a line of log for each call: what serves it best. The answer of each is compared with onnxruntime's before anything is
timed.

    python benchmarks/rivals.py
    python benchmarks/rivals.py kserve --callers 16 --rounds 5
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
from normserve_proto import open_inference_pb2 as pb
from rich.progress import Progress
from serving_tools import questions, report, rivals
from serving_tools.errors import BenchmarkError
from serving_tools.models import OUT, SMALL
from serving_tools.other_servers import open_session
from serving_tools.questions import RATIO_COLUMNS, RATIOS, Comparison, Question
from serving_tools.report import NOTICE, Sheet
from serving_tools.rivals import RIVALS
from serving_tools.subjects import ECHO, INFER, SERVER, Remote, call, remotes

FOLDED = OUT / "folded" / SMALL.name / "model.onnx"


@contextmanager
def subjects(names: list[str], flags: list[str]) -> Iterator[dict[str, Remote]]:
    """The echo, the bare handler, our server, and those rivals; all answer, and with the same numbers."""
    with ExitStack() as stack:
        servers = dict(stack.enter_context(remotes(SMALL, {SERVER: ()}, flags)))
        for rival in (RIVALS[name] for name in names):
            process = stack.enter_context(rivals.serving(rival, SMALL, FOLDED))
            size = len(call(process.address, INFER, SMALL.request()))
            servers[rival.title] = replace(servers[SERVER], process=process, answer_bytes=size)
        for name in (SERVER, *(RIVALS[name].title for name in names)):
            check(name, servers[name].process.address)
        yield servers


def check(name: str, address: str) -> None:
    """Holds an answer to what onnxruntime computes in this process."""
    answer = pb.ModelInferResponse.FromString(call(address, INFER, SMALL.request()))
    raw = answer.raw_output_contents
    got = np.frombuffer(raw[0], np.float32) if raw else np.array(answer.outputs[0].contents.fp32_contents, np.float32)
    sample = SMALL.samples(1)
    wanted = open_session(FOLDED, SMALL.threads).run(None, {SMALL.input_name: sample})[0]
    if not np.allclose(got.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-6):
        raise BenchmarkError(f"{name} answers other numbers than onnxruntime")


def question(names: list[str], callers: tuple[int, ...]) -> Question:
    titles = [SERVER, *(RIVALS[name].title for name in names)]
    comparisons = [Comparison(what, title, ECHO) for what in ("rate", "cpu_us") for title in titles]
    return Question("the small network, 12 KB in and out, served by others", SMALL, callers, comparisons, batch_sizes=(1,))


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__, seconds=1.5, rounds=3)
    parser.add_argument("rivals", nargs="*", metavar="RIVAL", help=f"of {', '.join(RIVALS)}; default: all")
    parser.add_argument(
        "--callers", type=report.count, action="append", help="calls under way; repeatable (default: 1, 16 and 64)"
    )
    parser.add_argument("--connections", type=report.count, default=1, help="that callers are spread over (default: 1)")
    arguments = parser.parse_args()
    if unknown := set(arguments.rivals) - set(RIVALS):
        parser.error(f"no rival {', '.join(sorted(unknown))}; there are {', '.join(RIVALS)}")
    arguments.rivals = arguments.rivals or list(RIVALS)
    return arguments


def main() -> None:
    arguments = parse()
    asked = question(arguments.rivals, tuple(arguments.callers or (1, 16, 64)))
    with subjects(arguments.rivals, arguments.server_flag) as servers, Progress(console=NOTICE, transient=True) as bar:
        task = bar.add_task("rivals", total=asked.turns(len(servers), arguments.rounds))
        cells = questions.ask(
            asked,
            servers,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            connections=arguments.connections,
            advance=lambda: bar.advance(task),
        )
    questions.figures_sheet(asked, cells).show(markdown=arguments.markdown)
    Sheet(RATIOS, RATIO_COLUMNS, questions.ratio_rows("rivals", asked, cells)).show(markdown=arguments.markdown)
    if arguments.json:
        report.write_json(arguments.json, questions.as_json(cells))


if __name__ == "__main__":
    report.run(main)
