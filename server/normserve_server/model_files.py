"""Files in a model's folder that its config names: labels, and data for warm-up requests."""

from pathlib import Path

from normserve_server.errors import LoadError


def is_plain(name: str) -> bool:
    """Whether a name stays in its folder."""
    return Path(name).name == name and name not in {"", ".."} and "\0" not in name


def read(folder: Path, name: str, field: str) -> bytes:
    """Reads a file.

    Args:
        folder: where it is to be.
        name: as the config has it.
        field: which field names it, for the error's text.

    Raises:
        LoadError: the name leaves the folder, or there is no such file.
    """
    if not is_plain(name):
        raise LoadError(f"{field} is a plain file name, got '{name}'")
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise LoadError(f"{field} '{name}' cannot be read: {error.strerror}") from None
