"""Puts a client that others wrote, unmodified, into a folder, and prints the program there that runs it.

    python tests/conformance/install_client.py perf_analyzer .cache/perf_analyzer
    python tests/conformance/install_client.py kserve .cache/kserve

perf_analyzer is Triton's load generator. Its wheel wants glibc 2.38: where the system's is older, as on Debian 12, libraries of
Debian 13 are laid beside it, from the mirror that the system's own sources name, and its own loader takes them from there.
kserve's client comes with all of kserve, which brings 60 packages: it gets an environment, whose Python is the program.
Nothing outside the folder changes.
"""

import platform
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

KSERVE = "kserve==0.21.0"
PERF_ANALYZER = "perf-analyzer==2.60.0"
WHEELS_PLATFORM = "manylinux_2_38_x86_64"
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
OLD, NEW = "bookworm", "trixie"
LIBRARIES = ("libc6", "libgcc-s1", "libssl3t64", "libstdc++6", "libzstd1", "zlib1g")
PLACE = "usr/lib/x86_64-linux-gnu"
LAUNCHER = f"""#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/{PLACE}/ld-linux-x86-64.so.2" --library-path "$here/{PLACE}" "$here/perf_analyzer/bin/perf_analyzer" "$@"
"""


class NotHereError(Exception):
    """It cannot be installed on this machine; the text says why."""


def install(fill: Callable[[Path], Path], folder: Path) -> Path:
    """Fills a folder, unless it is there already; then it is whole, whoever else fills it at the same time.

    Args:
        fill: puts a client into a new folder, and gives its program.
        folder: where it is to be; it may be moved there.

    Returns:
        The program.

    Raises:
        NotHereError: no build for this machine, no registry or mirror within reach.
    """
    stamp = folder / ".program"
    if not stamp.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            filled = Path(scratch) / "filled"
            filled.mkdir()
            (filled / ".program").write_text(str(fill(filled).relative_to(filled)))
            _publish(filled, folder)
    return folder / stamp.read_text()


def _publish(filled: Path, folder: Path) -> None:
    try:
        filled.rename(folder)
    except OSError:
        if not (folder / ".program").exists():  # else another process was quicker
            raise


def kserve(folder: Path) -> Path:
    """An environment that holds kserve."""
    venv.create(folder)
    python = folder / "bin" / "python"
    constraints = (HERE.parents[1] / "constraints.txt", HERE / "kserve-constraints.txt")
    options = [option for path in constraints for option in ("-c", str(path))]
    _run(*PIP, "--python", str(python), "install", "--quiet", "--no-compile", *options, KSERVE)
    return python


def perf_analyzer(folder: Path) -> Path:
    """The program of the wheel, and libraries where the system's are too old for it."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise NotHereError(f"there is no build for {platform.system()} on {platform.machine()}")
    _run(*PIP, "download", "--quiet", "--no-deps", "--platform", WHEELS_PLATFORM, "--dest", str(folder), PERF_ANALYZER)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(folder)
    wheel.unlink()
    program = folder / "perf_analyzer" / "bin" / "perf_analyzer"
    program.chmod(0o755)
    if subprocess.run([program, "--version"], capture_output=True, check=False).returncode:
        _add_libraries(folder)
        program = folder / "run"
        program.write_text(LAUNCHER)
        program.chmod(0o755)
    _run(str(program), "--version")
    return program


def _add_libraries(folder: Path) -> None:
    if not SOURCES.exists() or OLD not in SOURCES.read_text() or shutil.which("apt-get") is None:
        raise NotHereError("this system's libraries are too old, and how to get newer ones is known for Debian 12 only")
    apt = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "new.sources").write_text(SOURCES.read_text().replace(f"{OLD}-updates", "").replace(OLD, NEW))
    places = {"Dir::State": apt, "Dir::State::status": apt / "status", "Dir::Cache": apt / "cache"}
    places |= {"Dir::Etc::sourcelist": apt / "new.sources", "Dir::Etc::sourceparts": "/dev/null", "APT::Sandbox::User": "root"}
    command = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in places.items())]
    _run(*command, "update")
    _run(*command, "download", *LIBRARIES, cwd=apt / "packages")
    for package in (apt / "packages").iterdir():
        _run("dpkg-deb", "--extract", str(package), str(folder))
    shutil.rmtree(apt)


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise NotHereError(f"{' '.join(command[:4])} ended with {done.returncode}: {words[-1] if words else 'without a word'}")


if __name__ == "__main__":
    client = {"kserve": kserve, "perf_analyzer": perf_analyzer}[sys.argv[1]]
    try:
        print(install(client, Path(sys.argv[2]).absolute()))
    except NotHereError as error:
        sys.exit(f"{client.__name__} cannot be installed here: {error}")
