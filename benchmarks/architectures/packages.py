"""Where the files of an installed package are, which need not be importable."""

from importlib.metadata import distribution
from pathlib import Path


def asset(package: str, path: str) -> Path:
    """Return where `path` of a package is.

    Raises:
        PackageNotFoundError: The package is not installed.
    """
    return Path(str(distribution(package).locate_file(path)))
