"""Generates the stubs of `normserve_proto`, or checks that the committed ones are current.

    python proto/generate.py           # write
    python proto/generate.py --check   # compare; exit code 1 and the names of the files that differ

The generator is pinned to an old release on purpose: its stubs load on every protobuf runtime from 5.29 to 7. It lives in a
virtual environment of its own under `.cache/`, because it needs another protobuf than the project runs with.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

GENERATOR = "grpcio-tools==1.71.0"
GENERATOR_NEEDS = ("setuptools==80.9.0", "protobuf==5.29.5", "grpcio==1.71.0")
SOURCE_ROOT = Path(__file__).resolve().parent
PACKAGE = SOURCE_ROOT / "normserve_proto"
PROTOS = ("open_inference.proto", "normalization.proto", "normalizers.proto")
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")

DEFAULT_POOL = "_descriptor_pool.Default()"
PRIVATE_POOL = "_descriptor_pool.DescriptorPool()"


def generator_python() -> Path:
    """Returns the interpreter of the generator's own environment, creating it the first time."""
    home = SOURCE_ROOT.parent / ".cache" / GENERATOR.replace("==", "-")
    python = home / "bin" / "python"
    stamp = home / ".installed"
    if not stamp.exists():
        venv.create(home, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, GENERATOR, *GENERATOR_NEEDS], check=True)
        stamp.touch()
    return python


def privatise(stub: str) -> str:
    """Moves the open-inference stub into a descriptor pool of its own.

    tritonclient and kserve register the same symbols in the default pool, and a pool takes each symbol once.
    """
    if stub.count(DEFAULT_POOL) != 1:
        raise SystemExit(f"expected exactly one {DEFAULT_POOL} in the stub, found {stub.count(DEFAULT_POOL)}")
    return stub.replace(DEFAULT_POOL, PRIVATE_POOL)


def generate() -> dict[Path, str]:
    """Generates all stubs; maps each file's place in the package to its text."""
    with tempfile.TemporaryDirectory() as folder:
        out = ("--python_out", "--pyi_out", "--grpc_python_out")
        command = [str(generator_python()), "-m", "grpc_tools.protoc", f"-I{SOURCE_ROOT}"]
        command += [f"{option}={folder}" for option in out]
        command += [f"{PACKAGE.name}/{proto}" for proto in PROTOS]
        subprocess.run(command, check=True, cwd=SOURCE_ROOT)
        generated = sorted((Path(folder) / PACKAGE.name).iterdir())
        stubs = {PACKAGE / file.name: file.read_text() for file in generated if file.name.endswith(SUFFIXES)}
    private = PACKAGE / "open_inference_pb2.py"
    return stubs | {private: privatise(stubs[private])}


def main() -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed stubs, write nothing")
    check = parser.parse_args().check
    stale = {file: text for file, text in generate().items() if not file.exists() or file.read_text() != text}
    for file, text in stale.items():
        print(f"{'stale' if check else 'wrote'}: {file.relative_to(SOURCE_ROOT.parent)}")
        if not check:
            file.write_text(text)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
