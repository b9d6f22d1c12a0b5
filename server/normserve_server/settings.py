"""Every setting of the service, declared once: flag, environment variable and key of the settings file have one name.

`--grpc-port 9000`, `NORMSERVE_GRPC_PORT=9000` and `grpc_port = 9000` in the TOML file named by `--config` or NORMSERVE_CONFIG
say the same; a flag wins over the environment, and the environment over the file.
"""

import argparse
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliApp,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from normserve_server.accelerators.tuning import Tuning

PREFIX = "NORMSERVE_"
PROGRAM = "normserve serve"
ALL_MODELS = "*"
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT\w*)$|_PORT(_\d+_(TCP|UDP)\w*)?$")


class SettingError(ValueError):
    """A setting that cannot be; the text names it, what was wanted and what came."""


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "normserve"


def default_state() -> str:
    """The file in which normalizers are kept where the setting does not say."""
    folder = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return str(Path(folder) / "normserve/normalizers.db")


def _split(value: Any) -> Any:
    """Flags come joined by commas, however often they are given; a variable is written so; a file may have a list."""
    return value.split(",") if isinstance(value, str) else value


T = TypeVar("T")
Several = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Serve the models of a repository over gRPC, with metrics and health over HTTP."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, cli_kebab_case=True, cli_implicit_flags=True, cli_prog_name=PROGRAM
    )

    repository: Several[Path] = Field(
        min_length=1, description="folder of models, <model>/<version>/model.onnx; may be given several times, or with commas"
    )
    model_control_mode: Literal["none", "poll", "explicit"] = Field(
        "none", description="none: load all at the start; poll: follow the folders; explicit: load what callers say"
    )
    load_model: Several[str] = Field(
        (), description="in mode explicit, a model to load at the start, * for all; may be given several times, or with commas"
    )
    repository_poll_seconds: float = Field(15.0, gt=0, description="time between two looks at the folders, in mode poll")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    grpc_port: int = Field(8001, ge=0, le=65535, description="gRPC port; 0 for any free one")
    http_port: int = Field(8002, ge=0, le=65535, description="HTTP port of the page, /metrics and /health; 0 for any free one")
    direct_calls: bool = Field(True, description="take single calls from gRPC's core; else through grpc.aio, which is slower")
    workers: int = Field(1, ge=1, le=256, description="serving processes; more than one share the gRPC port")
    worker_timeout_seconds: float = Field(
        30.0, ge=1, description="longest silence of one of several workers before it is killed and replaced"
    )
    device: str = Field("auto", description="auto, cpu or cuda:N; auto is the first GPU where there is one")
    gpu_mem_limit: int = Field(
        0, ge=0, description="most bytes of GPU memory that one instance's model may take; 0 for no limit"
    )
    cudnn_conv_algo_search: Literal["HEURISTIC", "EXHAUSTIVE", "DEFAULT"] = Field(
        "HEURISTIC", description="how cuDNN's convolutions are chosen on a GPU; EXHAUSTIVE searches longer for each batch size"
    )
    tf32: bool = Field(False, description="let float32 products be rounded to 10 bits of mantissa on a GPU, which is faster")
    prefer_nhwc: bool = Field(False, description="bring convolutions into channels-last order on a GPU")
    cuda_graphs: bool = Field(
        False, description="experimental: capture each bucket's run once as a CUDA graph, and replay it from then on"
    )
    tensorrt: bool = Field(False, description="run models by TensorRT where it can; it has to be installed")
    double_buffering: bool = Field(
        False, description="experimental: give each instance on a GPU two threads, so that one copies while the other computes"
    )
    restart_sessions: bool = Field(
        False, description="experimental: open a model anew where its GPU broke; without it, it waits for a new process"
    )
    fold: bool = Field(True, description="fold and prove each version before it serves; false serves files as they are")
    cache_dir: Path = Field(default_factory=_default_cache, description="where folded and proved models are kept")
    state: str | None = Field(
        None,
        description="where normalizers are kept: an SQLite file, or postgresql://…; a file in the user's state folder if none",
    )
    intra_op_threads: int = Field(0, ge=0, description="threads within one operator; 0 for one per core, or a worker's share")
    default_max_batch_size: int = Field(64, ge=0, description="most samples in a batch of a model that does not say")
    max_queue_size: int = Field(1024, ge=1, description="most requests waiting for one model")
    built_in_models: bool = Field(True, description="serve the normalization operators as models too, named normserve.*")
    allow_shared_memory: bool = Field(False, description="let callers pass tensors in this machine's shared memory")
    max_admitted_bytes: int = Field(2**30, ge=1, description="most bytes of requests in flight")
    error_codes: Literal["grpc", "triton"] = Field(
        "grpc", description="triton says UNAVAILABLE, as Triton does, where a queue is full or a request waited too long"
    )
    keepalive_seconds: float = Field(
        30.0, ge=0.1, le=86400, description="silence after which a caller is asked whether it is there, and then waited for"
    )
    drain_delay_seconds: float = Field(
        0.0, ge=0, description="time between saying NOT_SERVING and refusing calls, for load balancers to notice"
    )
    drain_timeout_seconds: float = Field(30.0, gt=0, description="longest wait for accepted calls when stopping")
    canary_interval_seconds: float = Field(
        10.0, ge=0, description="time between two trials of each version that nobody calls; 0 for none"
    )
    canary_timeout_seconds: float = Field(30.0, gt=0, description="longest time that a trial, or a run, may take")
    metrics: bool = Field(True, description="record metrics; false records none, and /metrics is not found")
    dashboard: bool = Field(True, description="serve the page at / of the HTTP port, and keep the last hour for it")
    otlp_endpoint: str | None = Field(
        None,
        description="OpenTelemetry collector that spans are sent to, http://host:4317 or https://…; needs the extra tracing",
    )
    trace_rate: int = Field(
        1000, ge=1, description="one of so many requests is traced where tracing is on; callers may change it"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["auto", "console", "json"] = Field("auto", description="auto is console on a terminal, else json")
    access_log: bool = Field(False, description="log each call, at level info")
    config: Path | None = Field(None, description="TOML file with any of these settings")

    @property
    def tuning(self) -> Tuning:
        """How sessions use a GPU."""
        return Tuning(
            memory_limit_bytes=self.gpu_mem_limit,
            conv_algo_search=self.cudnn_conv_algo_search,
            tf32=self.tf32,
            prefer_nhwc=self.prefer_nhwc,
            cuda_graphs=self.cuda_graphs,
            tensorrt=self.tensorrt,
        )

    @field_validator("state")
    @classmethod
    def _place(cls, state: str | None) -> str | None:
        if state == "" or (state and "://" in state and not state.startswith("postgresql://")):
            raise ValueError("a file or a postgresql:// URL")
        return state

    @field_validator("otlp_endpoint")
    @classmethod
    def _endpoint(cls, endpoint: str | None) -> str | None:
        url = urlsplit(endpoint or None)
        if endpoint is not None and not (url.scheme in {"http", "https"} and url.hostname and url.path in {"", "/"}):
            raise ValueError("http://host:port or https://host:port")
        return endpoint

    @field_validator("load_model")
    @classmethod
    def _explicit(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if names and info.data.get("model_control_mode", "explicit") != "explicit":
            raise ValueError("model control mode explicit beside it")
        return names


def read(arguments: list[str]) -> Settings:
    """Reads the settings.

    Args:
        arguments: the command line behind the program's name.

    Raises:
        SettingError: a setting is missing or wrong.
        SystemExit: a flag is unknown, or `--help` was asked for and printed.
    """
    path = _config_path(arguments)

    class Sourced(Settings):
        __doc__ = Settings.__doc__

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            *_unused: PydanticBaseSettingsSource,
            **_also_unused: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)

    try:
        return CliApp.run(Sourced, cli_args=arguments)
    except ValidationError as error:
        raise SettingError("\n".join(_line(detail) for detail in error.errors())) from None
    except SettingsError as error:
        raise SettingError(str(error)) from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"config {path}: {error}") from None


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Names the environment variables that look like settings and are none; they may be mistyped, or somebody else's.

    Those that Kubernetes makes for a service named normserve, such as NORMSERVE_PORT_8001_TCP, are left out.
    """
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return sorted(
        name for name in environment if name.startswith(PREFIX) and name not in known and not _SERVICE_LINK.search(name)
    )


def _config_path(arguments: list[str]) -> Path | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=os.environ.get(f"{PREFIX}CONFIG"))
    name = parser.parse_known_args(arguments)[0].config
    if name is None:
        return None
    if not Path(name).is_file():
        raise SettingError(f"config: there is no file {name}")
    return Path(name)


def _line(detail: ErrorDetails) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{name}: there is no such setting; there are {', '.join(Settings.model_fields)}"
    places = f"--{name.replace('_', '-')}, {PREFIX}{name.upper()} or {name} in the settings file"
    if detail["type"] == "missing":
        return f"{name}: required; set {places}"
    wanted = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{name}: wanted {wanted}, got {detail['input']!r} (from {places})"
