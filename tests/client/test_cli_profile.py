"""`normserve profile` of a running server: whose time is counted as what, how it is drawn, and what it refuses."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from normserve import Client
from normserve.cli import profile_server
from normserve.cli.profile_counts import Counted
from normserve.cli.profile_file import told
from normserve.cli.profile_server import stages
from normserve.cli.profile_stages import Kernel, Profile, Stage
from normserve.cli.profile_tables import WIDTH, bar, view
from normserve.testing import free_port
from normserve_server.profiling.bench import Times
from normserve_server.profiling.measuring import Measured
from normserve_server.profiling.operators import Operator
from rich.console import Console

EACH = Counted(1, 1.0, 0.1, 0.02, 0.5, 0.03, {"decode": 0.04, "queue": 0.1, "compute": 0.6, "encode": 0.05})
DIGITS = (
    "caller, gRPC, network",
    "decode and check",
    "wait in the queue",
    "put batch together",
    "run the model",
    "split the outputs",
    "hand over, and back",
    "encode",
)


@pytest.fixture
def profile(normserve, digits_server):
    """Runs the command on the digits network."""
    addresses = ("--address", digits_server.grpc_address, "--http-address", digits_server.http_address)
    return lambda *arguments: normserve("profile", "digits", *addresses, *arguments)


class TestStages:
    def test_each_second_is_in_one_stage(self):
        found = stages(EACH, 1.5)
        assert [(stage.name, stage.kind) for stage in found] == list(
            zip(DIGITS, ("outside", "host", "waiting", "copy in", "kernels", "copy out", "host", "host"), strict=True)
        )
        assert [stage.seconds for stage in found] == pytest.approx([0.5, 0.04, 0.1, 0.02, 0.5, 0.03, 0.26, 0.05])
        assert sum(stage.seconds for stage in found) == pytest.approx(1.5)

    def test_without_metrics_the_hosts_share_is_one(self):
        found = stages(replace(EACH, phases={}), 1.5)
        assert found[-1] == Stage("decode, hand over, encode", "host", pytest.approx(0.35))
        assert sum(stage.seconds for stage in found) == pytest.approx(1.5)

    def test_what_came_on_top_is_told_for_one_request(self):
        before = Counted(10, 5.0, 1.0, 1.0, 1.0, 1.0, {"decode": 1.0})
        after = Counted(14, 9.0, 3.0, 1.4, 2.0, 1.8, {"decode": 1.2, "encode": 0.4})
        assert after.since(before).requests == 4
        assert after.since(before).each() == Counted(
            1, 1.0, 0.5, pytest.approx(0.1), 0.25, pytest.approx(0.2), pytest.approx({"decode": 0.05, "encode": 0.1})
        )


class TestBar:
    @pytest.mark.parametrize(
        ("began", "length", "drawn"),
        [
            (0.0, 1.0, "████"),
            (0.5, 0.5, "  ██"),
            (0.25, 0.25, " █"),
            (0.0, 0.125, "▌"),
            (0.5, 1e-9, "  ▏"),
            (1.0, 1e-9, "   ▏"),
            (0.5, 0.0, ""),
        ],
    )
    def test_drawn(self, began, length, drawn):
        assert bar(began, length, 4) == drawn

    def test_the_whole_table_fits_into_80_columns(self):
        kernels = [Kernel(f"Operator{number}", "CUDAExecutionProvider", 3, 1e-3) for number in range(14)]
        whole = Profile("net/1", 7, 16, stages(EACH, 1.5), kernels, ["read me"])
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(view(whole))
        text = console.export_text()
        assert text.startswith("net/1: 1.5 s a request of 16 samples, mean of 7\n")
        assert "…" not in text
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
        assert sum(line.count("█") for line in text.splitlines()) == pytest.approx(WIDTH, abs=4)
        assert "note: read me" in text
        assert "2 more" in text
        assert "CUDAExecutionProvider" not in text


class TestServer:
    def test_json_adds_up_and_counts_only_its_own(self, profile, digits_server):
        with Client(digits_server.grpc_address) as client:
            before = client.statistics("digits", "1")[0].success.count
            code, out, err = profile("--json", "--requests", 5, "--samples", 3)
            after = client.statistics("digits", "1")[0].success.count
        found = json.loads(out)
        assert (code, err) == (0, "")
        assert after - before == 5 + profile_server.WARM_UP_REQUESTS + 1  # one more finds out the version
        assert (found["subject"], found["requests"], found["samples"], found["notes"]) == ("digits/1", 5, 3, [])
        assert [stage["name"] for stage in found["stages"]] == list(DIGITS)
        assert sum(stage["seconds"] for stage in found["stages"]) == pytest.approx(found["seconds"])
        assert sum(found["by_kind"].values()) == pytest.approx(found["seconds"])
        assert all(found["by_kind"][kind] > 0 for kind in ("copy in", "kernels", "host", "outside"))

    def test_a_table_with_a_bar(self, profile):
        code, out, _ = profile("--requests", 2)
        assert code == 0
        assert out.startswith("digits/1: ")
        for name in DIGITS:
            assert name in out
        assert "█" in out
        assert "kernels " in out.splitlines()[-2]

    def test_where_no_metrics_answer_it_says_so(self, normserve, digits_server):
        nowhere = f"127.0.0.1:{free_port()}"
        addresses = ("--address", digits_server.grpc_address, "--http-address", nowhere)
        code, out, _ = normserve("profile", "digits", *addresses, "--requests", 2, "--version", "1")
        assert code == 0
        assert "decode, hand over, encode" in out
        assert f"note: decoding and encoding are not told apart: http://{nowhere}/metrics has no phases" in out

    def test_inputs_from_files(self, profile, tmp_path):
        np.save(tmp_path / "x.npy", np.ones((2, 1, 8, 8), np.float32))
        code, out, _ = profile("--requests", 1, "--json", "--input", f"image={tmp_path / 'x.npy'}")
        assert (code, json.loads(out)["samples"]) == (0, 2)

    def test_others_that_call_meanwhile_are_said(self):
        counted = replace(EACH, requests=7)
        assert profile_server.notes(counted, 5, "http://here") == [
            "2 other requests were counted, too: the server's times are means of all"
        ]


class TestRefusals:
    def test_an_input_that_the_model_lacks(self, profile, tmp_path):
        np.save(tmp_path / "x.npy", np.ones(2, np.float32))
        code, _, err = profile("--input", f"picture={tmp_path / 'x.npy'}")
        assert (code, err) == (2, "normserve: --input: digits has no input picture; it has image\n")

    def test_an_extent_that_nobody_knows(self, normserve, memory_server):
        code, _, err = normserve("profile", "double", "--address", memory_server.grpc_address)
        assert code == 2
        assert "has shape [-1, -1]: give it with --input x=FILE.npy" in err

    def test_an_unknown_model(self, normserve, digits_server):
        code, _, err = normserve("profile", "absent", "--address", digits_server.grpc_address)
        assert (code, "NOT_FOUND" in err) == (1, True)

    def test_a_server_that_counts_nothing(self, normserve, address, monkeypatch):
        monkeypatch.setattr(profile_server, "COUNTING_SECONDS", 0.05)
        code, _, err = normserve("profile", "echo", "--address", address)
        assert (code, "does not count what it answers" in err) == (1, True)


class TestFile:
    @pytest.fixture
    def file(self, digits_repository):
        return digits_repository / "digits" / "1" / "model.onnx"

    def test_kernels_by_operator(self, normserve, file):
        code, out, err = normserve(
            "profile", file, "--json", "--requests", 3, "--samples", 2, "--threads", 1, "--device", "cpu"
        )
        found = json.loads(out)
        assert (code, err) == (0, "")
        assert (found["subject"], found["requests"], found["samples"]) == (f"{file} on cpu", 3, 2)
        assert [stage["name"] for stage in found["stages"]] == [
            "run the kernels",
            "onnxruntime around them",
            "call onnxruntime",
        ]
        assert found["by_kind"]["kernels"] > 0
        assert {"Conv", "Gemm"} < {kernel["operator"] for kernel in found["kernels"]}
        assert found["notes"] == []

    def test_a_table(self, normserve, file):
        code, out, _ = normserve("profile", file, "--requests", 2, "--threads", 1)
        assert code == 0
        assert "median of 2" in out
        assert any(line.split()[:2] == ["Conv", "CPU"] for line in out.splitlines())

    def test_on_a_device_apart_copies_are_stages(self):
        operators = [
            Operator("Conv", "CUDAExecutionProvider", 5, 1e-4),
            Operator("MemcpyToHost", "CUDAExecutionProvider", 2, 1e-6),
        ]
        operators.append(Operator("NonZero", "CPUExecutionProvider", 1, 1e-6))
        found = told(Measured(Times(0.1, 0.6, 0.2, 0.1), operators, 4), "net.onnx on cuda:0", 9, apart=True)
        assert [(stage.kind, stage.seconds) for stage in found.stages] == [
            ("copy in", 0.1),
            ("kernels", 0.6),
            ("copy out", 0.2),
            ("host", 0.1),
        ]
        assert "2 nodes copy between host and device within the graph, and 1 run on the host" in found.notes

    def test_on_the_host_what_is_no_kernel_is_the_hosts(self):
        operators = [Operator("Conv", "CPUExecutionProvider", 5, 0.25)]
        found = told(Measured(Times(0.0, 0.5, 0.0, 0.125), operators, 1), "net.onnx on cpu", 9, apart=False)
        assert [(stage.kind, stage.seconds) for stage in found.stages] == [("kernels", 0.25), ("host", 0.25), ("host", 0.125)]

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["absent.onnx"], "absent.onnx: onnxruntime: "),
            (["absent.onnx", "--device", "cuda:99"], "device cuda:99: "),
            (["absent.onnx", "--version", "1"], "--version is a server's, and an ONNX file was given"),
            (["digits", "--threads", "1"], "--device and --threads are for an ONNX file, and 'digits' is a server's model"),
        ],
    )
    def test_wrong_input_is_2(self, normserve, arguments, text):
        code, out, err = normserve("profile", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"normserve: {text}")
