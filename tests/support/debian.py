"""Programs from the distribution's packages, and a Debian as a folder, which stands in for images that cannot be pulled."""

import os
import shutil
import subprocess
from pathlib import Path

RELEASE = "bookworm"
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")
ENVIRONMENT = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}


def why_not(programs: dict[str, str]) -> str | None:
    """What keeps `install` from having these programs, by package; None if nothing does."""
    if os.geteuid() != 0:
        return "only root may start a Docker Engine and make a Debian by debootstrap"
    missing = [program for program in programs if shutil.which(program) is None]
    if missing and shutil.which("apt-get") is None:
        return f"there is no {', '.join(missing)}, and no apt-get to install it with"
    return None


def install(programs: dict[str, str]) -> None:
    """Installs the packages of the programs that are not there, and nothing that these only recommend."""
    missing = [package for program, package in programs.items() if shutil.which(program) is None]
    if missing:
        apt_get = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq"]
        subprocess.run([*apt_get, "update"], check=True, env=ENVIRONMENT)
        subprocess.run([*apt_get, "install", "--yes", "--no-install-recommends", *missing], check=True, env=ENVIRONMENT)


def bootstrap(tree: Path, *packages: str) -> None:
    """Makes a Debian of essential packages and these, which trusts whom this machine trusts."""
    include = f"--include=ca-certificates,{','.join(packages)}"
    subprocess.run(["debootstrap", "--variant=minbase", include, RELEASE, str(tree)], check=True, env=ENVIRONMENT)
    for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(tree / folder)
        (tree / folder / "partial").mkdir(parents=True)
    if (Path("/") / CERTIFICATES).exists():
        shutil.copyfile(Path("/") / CERTIFICATES, tree / CERTIFICATES)
