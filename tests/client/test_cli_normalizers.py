"""`normserve normalizers` against a real gRPC server: what it sends, prints, writes and exits with."""

import json

import grpc
import numpy as np
import pytest
from cli_refusals import refused
from normserve import BatchNormLayer, InstanceNormLayer, RunningNormLayer
from normserve.testing import free_port


@pytest.fixture
def obs(client):
    normalizer = client.normalizer("obs")
    normalizer.create(RunningNormLayer((2, 3), clip=10.0))
    normalizer.load_state_dict({"count": np.float64(4), "mean": np.arange(6.0).reshape(2, 3), "var": np.full((2, 3), np.nan)})
    return normalizer


class TestCreate:
    @pytest.mark.parametrize(
        ("arguments", "layer"),
        [
            (["running_norm"], RunningNormLayer()),
            (["running_norm", "--shape", "", "--eps", "0.5"], RunningNormLayer(eps=0.5)),
            (["running_norm", "--shape", "4,84", "--clip", "10"], RunningNormLayer((4, 84), clip=10.0)),
            (["batch_norm", "--features", "3"], BatchNormLayer(3)),
            (["batch_norm", "--features", "3", "--cumulative", "--no-affine"], BatchNormLayer(3, momentum=None, affine=False)),
            (
                ["batch_norm", "--features=3", "--dimensions=2", "--momentum=0", "--no-track-running-stats", "--dtype=float64"],
                BatchNormLayer(3, 2, momentum=0.0, track_running_stats=False, dtype="float64"),
            ),
            (
                ["instance_norm", "--features", "3", "--dimensions", "1", "--affine", "--track-running-stats"],
                InstanceNormLayer(3, 1, affine=True, track_running_stats=True),
            ),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_layers(self, normserve, client, arguments, layer):
        code, out, err = normserve("normalizers", "create", "obs", *arguments)
        assert (code, err) == (0, "")
        assert "obs" in out
        assert "training" in out
        info = client.normalizer("obs").get()
        assert (info.layer, info.training) == (layer, True)

    def test_evaluation(self, normserve, client):
        assert "evaluation" in normserve("normalizers", "create", "obs", "running_norm", "--evaluation")[1]
        assert not client.normalizer("obs").get().training

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["batch_norm"], "batch_norm needs --features"),
            (["instance_norm", "--features", "3"], "instance_norm needs --dimensions"),
            (["batch_norm", "--features", "3", "--clip", "1"], "batch_norm takes no --clip"),
            (["running_norm", "--features", "3"], "running_norm takes no --features"),
            (["running_norm", "--momentum", "0.1"], "running_norm takes no --momentum"),
            (["running_norm", "--cumulative"], "running_norm takes no --cumulative"),
            (["running_norm", "--no-affine"], "running_norm takes no --affine"),
            (["batch_norm", "--features", "3", "--cumulative", "--momentum", "0.1"], "exclude each other"),
            (["running_norm", "--shape", "4x84"], "--shape: wanted integers such as 4,84,84, got '4x84'"),
        ],
    )
    def test_wrong_input(self, normserve, plan, arguments, text):
        refused(normserve("normalizers", "create", "obs", *arguments), 2, text)
        assert not plan.seen

    def test_a_layer_that_is_none(self, normserve):
        code, _, err = normserve("normalizers", "create", "obs", "group_norm")
        assert code == 2
        assert "'group_norm' is not one of" in err


class TestReading:
    def test_list(self, normserve, obs, client):
        client.normalizer("features").create(BatchNormLayer(64), training=False)
        obs.observe(np.zeros((2, 3)))
        code, out, err = normserve("normalizers", "list")
        assert (code, err) == (0, "")
        for text in (
            "obs",
            "RunningNorm(shape=(2, 3), eps=1e-08, clip=10.0)",
            "features",
            "dtype=float32",
            "evaluation",
            "1970",
        ):
            assert text in out
        listed = json.loads(normserve("normalizers", "list", "--json")[1])
        assert [entry["name"] for entry in listed] == ["features", "obs"]
        assert listed[0]["layer"]["kind"] == "batch_norm"
        assert (listed[0]["layer"]["dtype"], listed[0]["training"], listed[1]["sequence"]) == ("float32", False, 1)

    @pytest.mark.usefixtures("obs")
    def test_get(self, normserve):
        code, out, err = normserve("normalizers", "get", "obs")
        assert (code, err) == (0, "")
        for text in ("obs", "RunningNorm", "mean", "FP64", "[2, 3]", "0., 1., 2."):
            assert text in out

    @pytest.mark.usefixtures("obs")
    def test_get_as_json(self, normserve):
        described = json.loads(normserve("normalizers", "get", "obs", "--json")[1], parse_constant=pytest.fail)
        assert described["layer"] == {"kind": "running_norm", "shape": [2, 3], "eps": 1e-8, "clip": 10.0}
        assert described["state"]["mean"] == {"datatype": "FP64", "shape": [2, 3], "data": [[0, 1, 2], [3, 4, 5]]}
        assert described["state"]["count"] == {"datatype": "FP64", "shape": [], "data": 4.0}
        assert described["state"]["var"]["data"][0][0] == "NaN"

    @pytest.mark.parametrize(
        "command",
        [["get", "nobody"], ["update", "nobody", "--clip=1"], ["delete", "nobody"], ["export", "nobody", "x.safetensors"]],
    )
    def test_a_name_that_is_none(self, normserve, command, address, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        refused(normserve("normalizers", *command), 1, "NOT_FOUND", address, "nobody")
        assert not list(tmp_path.iterdir())

    def test_nobody_answers(self, normserve):
        address = f"127.0.0.1:{free_port()}"
        refused(normserve("normalizers", "list", "--address", address), 1, "UNAVAILABLE", address)

    @pytest.mark.usefixtures("obs")
    def test_the_timeout(self, normserve, plan):
        plan.delay_s = 30
        refused(normserve("normalizers", "get", "obs", "--timeout", "0.1"), 1, "DEADLINE_EXCEEDED")


class TestUpdate:
    @pytest.mark.parametrize(
        ("arguments", "mask", "text"),
        [
            (["--evaluation"], ["mode"], "evaluation"),
            (["--training"], ["mode"], "training"),
            (["--momentum", "0.25"], ["batch_norm.momentum", "batch_norm.cumulative"], "momentum=0.25"),
            (["--cumulative"], ["batch_norm.momentum", "batch_norm.cumulative"], "momentum=None"),
        ],
    )
    def test_what_is_given_is_changed_and_nothing_else(self, normserve, client, plan, arguments, mask, text):
        client.normalizer("features").create(BatchNormLayer(3))
        code, out, err = normserve("normalizers", "update", "features", *arguments)
        assert (code, err) == (0, "")
        assert text in "".join(out.split())
        assert plan.seen[-1].method == "UpdateNormalizer"
        assert list(plan.seen[-1].request.update_mask.paths) == mask

    @pytest.mark.usefixtures("obs")
    @pytest.mark.parametrize(("arguments", "clip"), [(["--clip", "5"], "clip=5.0"), (["--no-clip"], "clip=None")])
    def test_clip(self, normserve, arguments, clip):
        assert clip in "".join(normserve("normalizers", "update", "obs", *arguments)[1].split())

    @pytest.mark.parametrize("pair", [["--cumulative", "--momentum=0.1"], ["--no-clip", "--clip=1"]])
    def test_options_that_exclude_each_other(self, normserve, plan, pair):
        refused(normserve("normalizers", "update", "obs", *pair), 2, "exclude each other")
        assert not plan.seen


class TestMoving:
    def test_delete(self, normserve, obs, client):
        assert "obs is deleted" in normserve("normalizers", "delete", "obs")[1]
        assert client.normalizers() == ()

    def test_export_and_import(self, normserve, obs, client, tmp_path):
        file = tmp_path / "obs.safetensors"
        assert f"obs is in {file}" in normserve("normalizers", "export", "obs", file)[1]
        assert file.read_bytes() == obs.snapshot()
        assert list(tmp_path.iterdir()) == [file]
        code, out, _ = normserve("normalizers", "import", "copy", file)
        assert (code, "copy" in out) == (0, True)
        assert client.normalizer("copy").get().layer == RunningNormLayer((2, 3), clip=10.0)

    @pytest.mark.usefixtures("obs")
    def test_files_that_cannot_be(self, normserve, tmp_path):
        there = tmp_path / "there"
        there.mkdir()
        refused(normserve("normalizers", "export", "obs", there), 2, str(there))
        assert [path.name for path in tmp_path.iterdir()] == ["there"]
        refused(normserve("normalizers", "export", "obs", tmp_path / "no" / "x"), 2, "No such file")
        (tmp_path / "file").touch()
        refused(normserve("normalizers", "export", "obs", tmp_path / "file" / "x"), 2, "Not a directory")
        refused(normserve("normalizers", "export", "obs", "n" * 300), 2, "File name too long")
        for folder in ("", ".", "/"):
            refused(normserve("normalizers", "export", "obs", folder), 2, "Is a directory")
        refused(normserve("normalizers", "import", "obs", tmp_path / "x"), 2, "No such file")

    def test_what_the_server_refuses(self, normserve, plan, tmp_path):
        file = tmp_path / "x.safetensors"
        file.write_bytes(b"no")
        plan.failures.append((grpc.StatusCode.INVALID_ARGUMENT, "snapshot is no safetensors file"))
        refused(normserve("normalizers", "import", "obs", file), 1, "INVALID_ARGUMENT", "no safetensors file")
