"""The command line against a real gRPC server: what it prints, writes and exits with."""

import json
import subprocess
import sys

import grpc
import ml_dtypes
import numpy as np
import pytest
from cli_refusals import refused
from normserve.testing import free_port
from normserve_proto import open_inference_pb2 as pb

HEAVY = {"torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "sklearn", "scipy", "normserve_server", "normserve_models"}


@pytest.fixture
def x(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(6, dtype=np.float32).reshape(2, 3))
    return path


class TestStart:
    def test_help_brings_in_nothing_heavy(self):
        program = (
            "import sys\nfrom normserve.cli import main\n"
            "for command in ('', 'infer', 'normalize', 'models', 'top', 'profile', 'load', 'unload', 'demo', 'fold', 'export', "
            "'normalizers', 'normalizers create'):\n"
            "    sys.argv = ['normserve', *command.split(), '--help']\n"
            "    try:\n        main()\n    except SystemExit as ended:\n        assert not ended.code\n"
            "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
        assert ended.stdout.count("Usage: normserve") == 13
        assert not HEAVY & set(ended.stderr.split())

    def test_every_command_is_in_the_help(self, normserve):
        code, out, _ = normserve("--help")
        assert code == 0
        for command in (
            "infer",
            "normalize",
            "normalizers",
            "models",
            "top",
            "profile",
            "load",
            "unload",
            "serve",
            "demo",
            "fold",
            "export",
        ):
            assert f" {command} " in out

    def test_as_a_module(self):
        command = [sys.executable, "-m", "normserve.cli", "--version"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("normserve ")

    @pytest.mark.parametrize("arguments", [["nonsense"], ["infer"], ["infer", "m", "--nonsense"], ["normalize", "sort"]])
    def test_wrong_usage_is_2(self, normserve, arguments):
        code, _, err = normserve(*arguments)
        assert code == 2
        assert "Usage" in err
        assert "Traceback" not in err


class TestInfer:
    def test_table(self, normserve, x):
        code, out, err = normserve("infer", "echo", "--input", f"in={x}")
        assert (code, err) == (0, "")
        for text in ("in", "FP32", "[2, 3]", "0., 1., 2."):
            assert text in out

    def test_json(self, normserve, x, tmp_path):
        odd = tmp_path / "odd.npy"
        np.save(odd, np.array([np.nan, np.inf, -np.inf, 0.5]))
        text = tmp_path / "text.npy"
        np.save(text, np.array(["caf\u00e9"]))
        code, out, _ = normserve("infer", "echo", "-i", f"x={x}", "-i", f"odd={odd}", "-i", f"text={text}", "--json")
        assert code == 0
        assert json.loads(out, parse_constant=pytest.fail) == {
            "x": {"datatype": "FP32", "shape": [2, 3], "data": [[0, 1, 2], [3, 4, 5]]},
            "odd": {"datatype": "FP64", "shape": [4], "data": ["NaN", "Infinity", "-Infinity", 0.5]},
            "text": {"datatype": "BYTES", "shape": [1], "data": ["caf\u00e9"]},
        }

    def test_output_dir(self, normserve, x, tmp_path):
        folder = tmp_path / "answers" / "of today"
        assert normserve("infer", "echo", "--input", f"y={x}", "--output-dir", folder)[0] == 0
        assert np.array_equal(np.load(folder / "y.npy"), np.load(x))

    def test_an_output_cannot_leave_the_folder(self, normserve, x, tmp_path):
        folder = tmp_path / "answers"
        assert normserve("infer", "echo", "--input", f"../../y={x}", "--output-dir", folder)[0] == 0
        assert [path.name for path in folder.iterdir()] == ["y.npy"]

    def test_what_npy_files_cannot_hold(self, normserve, plan, tmp_path):
        described = pb.ModelInferResponse.InferOutputTensor
        half = np.array([1.5], ml_dtypes.bfloat16)
        plan.infer_response = pb.ModelInferResponse(
            outputs=[described(name="b", datatype="BF16", shape=[1]), described(name="s", datatype="BYTES", shape=[2])],
            raw_output_contents=[half.tobytes(), b"\1\0\0\0a\2\0\0\0bc"],
        )
        x = tmp_path / "x.npy"
        np.save(x, half.astype(np.float32))
        assert normserve("infer", "echo", "--input", f"x={x}", "--output-dir", tmp_path)[0] == 0
        assert np.load(tmp_path / "b.npy").tolist() == [1.5]
        assert np.load(tmp_path / "s.npy").tolist() == [b"a", b"bc"]

    def test_version_and_timeout(self, normserve, x, plan):
        assert normserve("infer", "echo", "--input", f"x={x}", "--version", "3", "--timeout", "5")[0] == 0
        assert plan.seen[0].request.model_version == "3"
        assert plan.seen[0].time_remaining == pytest.approx(5, abs=2)

    def test_the_server_says_no(self, normserve, x, plan, address):
        plan.failures.append((grpc.StatusCode.NOT_FOUND, "there is no model 'echo'\n  but two lines"))
        refused(normserve("infer", "echo", "--input", f"x={x}"), 1, "NOT_FOUND", address, "no model 'echo' but two lines")

    def test_nobody_answers(self, normserve, x):
        address = f"127.0.0.1:{free_port()}"
        refused(normserve("infer", "echo", "--input", f"x={x}", "--address", address), 1, "UNAVAILABLE", address)

    def test_wrong_input(self, normserve, x, tmp_path):
        refused(normserve("infer", "echo", "--input", "x"), 2, "wanted NAME=FILE.npy, got 'x'")
        refused(normserve("infer", "echo", "--input", f"={x}"), 2, "wanted NAME=FILE.npy")
        refused(normserve("infer", "echo", "--input", "x=missing.npy"), 2, "missing.npy")
        refused(normserve("infer", "echo", "-i", f"x={x}", "-i", f"x={x}"), 2, "given twice")
        refused(normserve("infer", "echo", "-i", f"x={x}", "--output-dir", x), 2, "--output-dir")

    @pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY\x01\x00", b"\x80\x04N."])
    def test_a_file_that_holds_no_array(self, normserve, tmp_path, content):
        path = tmp_path / "x.npy"
        path.write_bytes(content)
        refused(normserve("infer", "echo", "--input", f"x={path}"), 2, str(path))

    def test_a_pickle_is_not_run(self, normserve, tmp_path):
        path = tmp_path / "x.npy"
        np.save(path, np.array([{}], object), allow_pickle=True)
        refused(normserve("infer", "echo", "--input", f"x={path}"), 2, str(path))

    def test_an_archive_of_arrays(self, normserve, tmp_path):
        path = tmp_path / "x.npz"
        np.savez(path, a=np.ones(1))
        refused(normserve("infer", "echo", "--input", f"x={path}"), 2, "archive")

    def test_a_dtype_without_a_name(self, normserve, tmp_path):
        path = tmp_path / "x.npy"
        np.save(path, np.ones(1, np.complex64))
        refused(normserve("infer", "echo", "--input", f"x={path}"), 2, f"{path}: dtype complex64")


class TestNormalize:
    def test_layer_norm(self, normserve, x, plan, tmp_path):
        result = normserve(
            "normalize", "layer_norm", "-i", x, "-o", tmp_path / "y.npy", "--normalized-shape", "2,3", "--eps", "1"
        )
        assert result == (0, "", "")
        assert np.array_equal(np.load(tmp_path / "y.npy"), np.load(x))
        assert list(plan.seen[0].request.layer_norm.normalized_shape) == [2, 3]
        assert plan.seen[0].request.layer_norm.eps == 1

    def test_group_norm(self, normserve, x, plan, tmp_path):
        assert normserve("normalize", "group_norm", "-i", x, "-o", tmp_path / "y.npy", "--num-groups", "3", "--bias", x)[0] == 0
        assert plan.seen[0].request.group_norm.num_groups == 3
        assert plan.seen[0].request.group_norm.HasField("bias")

    def test_batch_norm_in_training_writes_the_statistics_too(self, normserve, x, tmp_path):
        statistics = ("--running-mean", x, "--running-var", x)
        output = tmp_path / "y.npy"
        assert normserve("normalize", "batch_norm", "-i", x, "-o", output, *statistics, "--training")[0] == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "y.npy", "y.running_mean.npy", "y.running_var.npy"]

    def test_batch_norm_without_statistics(self, normserve, x, tmp_path):
        assert normserve("normalize", "batch_norm", "-i", x, "-o", tmp_path / "y.npy", "--training")[0] == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "y.npy"]

    @pytest.mark.parametrize("operator", ["instance_norm", "rms_norm"])
    def test_the_others(self, normserve, x, tmp_path, operator):
        needed = ("--normalized-shape", "3") if operator == "rms_norm" else ()
        assert normserve("normalize", operator, "-i", x, "-o", tmp_path / "y.npy", *needed)[0] == 0

    def test_local_response_norm(self, normserve, x, plan, tmp_path):
        given = ("--size", "3", "--alpha", "0.5", "--beta", "0.25", "--k", "2")
        assert normserve("normalize", "local_response_norm", "-i", x, "-o", tmp_path / "y.npy", *given)[0] == 0
        operator = plan.seen[0].request.local_response_norm
        assert (operator.size, operator.alpha, operator.beta, operator.k) == (3, 0.5, 0.25, 2)
        refused(normserve("normalize", "local_response_norm", "-i", x, "-o", "y.npy"), 2, "local_response_norm needs --size")

    def test_normalize(self, normserve, x, plan, tmp_path):
        given = ("--p", "inf", "--dim", "-1", "--eps", "0.5")
        assert normserve("normalize", "normalize", "-i", x, "-o", tmp_path / "y.npy", *given)[0] == 0
        operator = plan.seen[0].request.normalize
        assert (operator.p, operator.dim, operator.eps) == (np.inf, -1, 0.5)

    def test_options_of_another_operator(self, normserve, x, plan):
        run = ("normalize", "layer_norm", "-i", x, "-o", "y.npy", "--normalized-shape", "3")
        refused(normserve(*run, "--num-groups", "3"), 2, "layer_norm takes no --num-groups")
        refused(normserve(*run, "--training"), 2, "layer_norm takes no --training")
        refused(normserve("normalize", "layer_norm", "-i", x, "-o", "y.npy"), 2, "layer_norm needs --normalized-shape")
        refused(normserve("normalize", "group_norm", "-i", x, "-o", "y.npy"), 2, "group_norm needs --num-groups")
        refused(normserve(*run[:-1], "3,a"), 2, "wanted integers such as 8,8, got '3,a'")
        assert not plan.seen

    def test_the_server_says_no(self, normserve, x, plan):
        plan.failures.append((grpc.StatusCode.INVALID_ARGUMENT, "expected more"))
        refused(normserve("normalize", "instance_norm", "-i", x, "-o", "y.npy"), 1, "INVALID_ARGUMENT", "expected more")

    def test_an_output_that_cannot_be_written(self, normserve, x, tmp_path):
        refused(normserve("normalize", "instance_norm", "-i", x, "-o", tmp_path / "no" / "y.npy"), 2, "y.npy")


class TestModels:
    def test_all(self, normserve):
        code, out, _ = normserve("models")
        assert code == 0
        for text in (
            "echo",
            "READY",
            "x FP32[-1,3]",
            "y BYTES[]",
            "folded: 6",
            "[broken]",
            "UNAVAILABLE",
            "no [such] operator",
        ):
            assert text in out

    def test_some(self, normserve):
        code, out, _ = normserve("models", "echo")
        assert code == 0
        assert "[broken]" not in out

    def test_one_that_is_not_there(self, normserve):
        refused(normserve("models", "echo", "gone"), 2, "has no model gone")


class TestLoad:
    def test_from_the_repository(self, normserve, plan):
        assert normserve("load", "m", "--timeout", "9") == (0, "m serves\n", "")
        assert plan.seen[0].request == pb.RepositoryModelLoadRequest(model_name="m")

    def test_from_files(self, normserve, plan, tmp_path):
        (tmp_path / "c.json").write_text("{}")
        (tmp_path / "x.onnx").write_bytes(b"\0x")
        run = ("load", "m", "--config", tmp_path / "c.json", "--file", f"3/model.onnx={tmp_path / 'x.onnx'}")
        assert normserve(*run)[0] == 0
        parameters = plan.seen[0].request.parameters
        assert (parameters["config"].string_param, parameters["file:3/model.onnx"].bytes_param) == ("{}", b"\0x")

    def test_wrong_input(self, normserve, plan, tmp_path):
        refused(normserve("load", "m", "--config", tmp_path / "none"), 2, "--config", "No such file")
        refused(normserve("load", "m", "--file", "3/model.onnx"), 2, "--file: wanted VERSION/NAME=FILE")
        refused(normserve("load", "m", "--file", f"3/model.onnx={__file__}"), 2, "--file: needs --config")
        twice = ("--file", f"1/m={__file__}", "--file", f"1/m={__file__}")
        refused(normserve("load", "m", "--config", __file__, *twice), 2, "given twice")
        assert not plan.seen

    def test_the_server_says_no(self, normserve, plan):
        plan.failures.append((grpc.StatusCode.INTERNAL, "model 'm' does not load"))
        refused(normserve("load", "m"), 1, "INTERNAL", "does not load")

    def test_unload(self, normserve, plan):
        assert normserve("unload", "m") == (0, "m is unloaded\n", "")
        assert plan.seen[0].request == pb.RepositoryModelUnloadRequest(model_name="m")
        plan.failures.append((grpc.StatusCode.NOT_FOUND, "no model 'm'"))
        refused(normserve("unload", "m"), 1, "NOT_FOUND", "no model 'm'")


class TestServe:
    def test_all_arguments_are_the_servers(self):
        command = [sys.executable, "-m", "normserve.cli", "serve", "--help"]
        assert "--repository" in subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def test_its_exit_code_is_the_servers(self, tmp_path):
        command = [sys.executable, "-m", "normserve.cli", "serve", "--repository", str(tmp_path / "none"), "--device", "cpu"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 1
        assert "none" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_without_its_dependencies(self):
        code = "import sys\nsys.modules['structlog'] = None\nfrom normserve.cli import main\nsys.argv[1:] = ['serve']\nmain()"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 2
        assert ended.stderr == "normserve: this needs the package 'structlog': pip install 'normserve[server]'\n"
