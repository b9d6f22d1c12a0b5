"""Dockerfile and docker-compose.yml, as far as they can be judged without an engine."""

import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from normserve_server.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
FINAL = INSTRUCTIONS[max(i for i, line in enumerate(INSTRUCTIONS) if line.startswith("FROM")) :]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES = COMPOSE["services"]
SERVERS = ("server", "server-gpu")
VARIABLES = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
IMAGE_ENVIRONMENT = dict(
    pair.split("=", 1) for line in FINAL if line.startswith("ENV ") for pair in line.removeprefix("ENV ").split()
)


def instruction(name: str) -> str:
    (line,) = (line for line in FINAL if line.startswith(f"{name} "))
    return line.removeprefix(f"{name} ").strip()


def container_ports(service: dict[str, Any]) -> set[str]:
    return {port.rsplit(":", 1)[1] for port in service["ports"]}


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Volume or folder, by the path it is mounted on."""
    return {volume.split(":")[1]: volume.split(":")[0] for volume in service["volumes"]}


def test_every_variable_is_a_setting() -> None:
    named = set(re.findall(rf"\b{PREFIX}\w+", DOCKERFILE + COMPOSE_TEXT + (ROOT / "deploy/healthcheck.py").read_text()))
    assert {"NORMSERVE_REPOSITORY", "NORMSERVE_DEVICE"} <= named <= VARIABLES


@pytest.mark.parametrize("name", SERVERS)
def test_the_settings_of_a_container_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**IMAGE_ENVIRONMENT, **SERVICES[name]["environment"]}
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable in VARIABLES & environment.keys():
        monkeypatch.setenv(variable, environment[variable])
    settings = Settings()
    assert settings.host == "0.0.0.0"
    assert {str(settings.grpc_port), str(settings.http_port)} == container_ports(SERVICES[name])
    assert instruction("EXPOSE").split() == [str(settings.grpc_port), str(settings.http_port)]
    assert mounts(SERVICES[name])[str(settings.repository[0])] == "models"
    assert mounts(SERVICES[name])[str(settings.cache_dir)] == "cache"
    state = Path(settings.state).parent
    assert mounts(SERVICES[name])[str(state)] == "state"
    assert instruction("VOLUME").split() == [str(settings.cache_dir), str(state)]


@pytest.mark.parametrize("name", SERVERS)
def test_a_container_is_given_the_time_to_drain(name: str) -> None:
    fields = Settings.model_fields
    drain = fields["drain_delay_seconds"].default + fields["drain_timeout_seconds"].default
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= drain + 10
    assert instruction("STOPSIGNAL") == "SIGTERM"


def test_the_image_runs_as_a_number_and_in_exec_form() -> None:
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", instruction("USER"))
    assert f"--uid {instruction('USER').split(':')[0]} " in "".join(FINAL)
    assert instruction("ENTRYPOINT") == '["normserve", "serve"]'


def test_both_stages_begin_with_the_base_image_of_the_argument() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE_IMAGE}", "${BASE_IMAGE}"]


def test_the_image_holds_every_package_of_the_distribution() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {line.split()[1] for line in INSTRUCTIONS if re.fullmatch(r"COPY (\S+) \1", line)}
    assert copied == set(packages)
    (stubs,) = (line for line in INSTRUCTIONS if "mkdir -p" in line)
    assert all(package in stubs for package in packages)


def test_what_the_dockerfile_changes_in_the_dependencies_is_among_them() -> None:
    (change,) = (line for line in INSTRUCTIONS if "sed -i" in line)
    project = (ROOT / "pyproject.toml").read_text()
    for name in ("onnxruntime-gpu==", "scikit-learn"):
        assert f'"{name}' in change.replace("\\", "")
        assert f'"{name}' in project
    arguments = {name: SERVICES[name]["build"]["args"].get("ONNXRUNTIME") for name in ("models", *SERVERS)}
    assert arguments == {"models": "onnxruntime", "server": "onnxruntime", "server-gpu": None}
    assert "ARG ONNXRUNTIME=onnxruntime-gpu" in INSTRUCTIONS


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    sources = [s for line in INSTRUCTIONS if re.match(r"COPY (?!--from)", line) for s in line.split()[1:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in kept), source
    assert sorted(kept) == sorted(set(sources))


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_this_machine_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_no_two_services_publish_one_port() -> None:
    published = [port.rsplit(":", 1)[0] for service in SERVICES.values() for port in service.get("ports", [])]
    defaults = [re.search(r":-(\d+)\}", port).group(1) for port in published]
    assert len(defaults) == len(set(defaults)) == 6


@pytest.mark.parametrize("name", [*SERVERS, "models"])
def test_our_containers_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "/tmp" in service["tmpfs"]
    assert service["init"] is True


def test_the_server_waits_for_its_models_which_only_their_builder_may_write() -> None:
    for name in SERVERS:
        assert SERVICES[name]["depends_on"] == {"models": {"condition": "service_completed_successfully"}}
        assert "models:/models:ro" in SERVICES[name]["volumes"]
    assert mounts(SERVICES["models"]) == {"/models": "models"}
    command = SERVICES["models"]["entrypoint"] + SERVICES["models"]["command"]
    assert command[:3] == ["python3", "-m", "normserve_models.zoo.build"]


def test_only_the_profile_gpu_asks_for_a_gpu() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["server-gpu"]
    assert SERVICES["server-gpu"]["profiles"] == ["gpu"]
    (device,) = SERVICES["server-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert "gpu" in device["capabilities"]
    assert SERVICES["server"]["environment"]["NORMSERVE_DEVICE"] == "cpu"


def test_volumes_are_declared_and_folders_are_there() -> None:
    sources = {source for service in SERVICES.values() for source in mounts(service).values()}
    assert {source for source in sources if not source.startswith(".")} == set(COMPOSE["volumes"])
    assert all((ROOT / source).is_dir() for source in sources if source.startswith("."))


def test_images_are_pinned() -> None:
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    assert len(images) == 2
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in images)


def test_no_file_names_a_registry() -> None:
    files = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *(f for f in (ROOT / "deploy").rglob("*") if f.is_file())]
    for file in files:
        assert not re.search(r"index-url[ =]+https?:|\b\w+\.(org|io)/", file.read_text()), file


@pytest.mark.parametrize("file", ["Dockerfile", "tests/containers/Dockerfile.prometheus"])
def test_hadolint_finds_nothing(file: str) -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    result = subprocess.run([hadolint, str(ROOT / file)], check=False, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout + result.stderr


def test_compose_takes_the_file() -> None:
    compose = compose_command()
    if compose is None:
        pytest.skip("neither docker compose nor docker-compose is installed")
    command = [*compose, "--profile", "gpu", "config", "--quiet"]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], check=False, capture_output=True).returncode:
            return command
    return None
