from pathlib import Path

import pytest
from normserve_server import settings
from normserve_server.__main__ import main
from normserve_server.settings import SettingError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"NORMSERVE_{name.upper()}", raising=False)


def test_flag_wins_over_environment_wins_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('repository = "from-file"\ngrpc_port = 1\nhttp_port = 1\nhost = "0.0.0.0"\n')
    monkeypatch.setenv("NORMSERVE_GRPC_PORT", "2")
    monkeypatch.setenv("NORMSERVE_HTTP_PORT", "2")
    chosen = settings.read(["--config", str(file), "--http-port", "3", "--no-fold"])
    assert (chosen.repository, chosen.host) == ((Path("from-file"),), "0.0.0.0")
    assert (chosen.grpc_port, chosen.http_port, chosen.fold) == (2, 3, False)


def test_the_file_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('repository = "r"\nmax_queue_size = 7\n')
    monkeypatch.setenv("NORMSERVE_CONFIG", str(file))
    assert settings.read([]).max_queue_size == 7


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "repository: required; set --repository, NORMSERVE_REPOSITORY or repository in the settings file"),
        (["--repository", "r", "--grpc-port", "x"], "grpc_port: wanted .*integer.*, got 'x'"),
        (["--repository", "r", "--grpc-port", "70000"], "grpc_port: wanted less than or equal to 65535, got '70000'"),
        (["--repository", "r", "--log-level", "loud"], "log_level: wanted 'debug', 'info', 'warning' or 'error', got 'loud'"),
        (["--repository", "r", "--model-control-mode", "push"], "model_control_mode: wanted 'none', 'poll' or 'explicit'"),
        (["--repository", "r", "--load-model", "m"], "load_model: wanted model control mode explicit beside it, got "),
        (["--repository", "r", "--repository-poll-seconds", "0"], "repository_poll_seconds: wanted greater than 0, got '0'"),
        (
            ["--repository", "r", "--otlp-endpoint", "collector:4317"],
            "otlp_endpoint: wanted http://host:port or https://host:port",
        ),
        (["--repository", "r", "--otlp-endpoint", "http://c:4317/v1/traces"], "otlp_endpoint: wanted http://host:port"),
        (["--repository", "r", "--otlp-endpoint", ""], "otlp_endpoint: wanted http://host:port"),
        (["--repository", "r", "--trace-rate", "0"], "trace_rate: wanted greater than or equal to 1, got '0'"),
        (["--repository", "r", "--config", "/no/such.toml"], "config: there is no file /no/such.toml"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_wanted(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingError, match=text):
        settings.read(arguments)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("normserve serve: ")


@pytest.mark.parametrize(
    ("content", "text"),
    [("grpc-prot = 3", "grpc-prot: there is no such setting; there are repository, "), ("grpc_port = = 3", "config .*line 1")],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, text: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(content)
    with pytest.raises(SettingError, match=text):
        settings.read(["--repository", "r", "--config", str(file)])


@pytest.mark.parametrize(
    ("arguments", "variable", "file", "expected"),
    [
        (["--repository", "a"], None, "", ("a",)),
        (["--repository", "a", "--repository", "b c"], None, "", ("a", "b c")),
        (["--repository", "a,b", "--repository", "c"], None, "", ("a", "b", "c")),
        ([], "a", "", ("a",)),
        ([], "a,b", "", ("a", "b")),
        ([], None, 'repository = "a"', ("a",)),
        ([], None, 'repository = ["a", "b,c"]', ("a", "b,c")),
        (["--repository", "a"], "b", 'repository = "c"', ("a",)),
        ([], "b", 'repository = ["c"]', ("b",)),
    ],
)
def test_several_repositories_in_each_place(
    arguments: list[str],
    variable: str | None,
    file: str,
    expected: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "settings.toml").write_text(file)
    if variable is not None:
        monkeypatch.setenv("NORMSERVE_REPOSITORY", variable)
    chosen = settings.read(["--config", str(tmp_path / "settings.toml"), *arguments])
    assert chosen.repository == tuple(map(Path, expected))


def test_models_to_load_at_the_start() -> None:
    flags = ["--repository", "r", "--model-control-mode", "explicit"]
    assert settings.read(flags).load_model == ()
    assert settings.read([*flags, "--load-model", "m", "--load-model", "*"]).load_model == ("m", "*")


def test_variables_that_are_no_settings_are_found_but_for_kubernetes_own() -> None:
    environment = dict.fromkeys(
        (
            "NORMSERVE_GRPC_PORT",
            "NORMSERVE_GRPC_PROT",
            "NORMSERVE_SERVICE_HOST",
            "NORMSERVE_SERVICE_PORT_GRPC",
            "NORMSERVE_PORT",
            "NORMSERVE_PORT_8001_TCP_ADDR",
            "NORMSERVE_GPU_PORT_8001_TCP",
            "OTHER",
        ),
        "x",
    )
    assert settings.unknown_variables(environment) == ["NORMSERVE_GRPC_PROT"]


def test_help_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        settings.read(["--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in printed for name in settings.Settings.model_fields)
