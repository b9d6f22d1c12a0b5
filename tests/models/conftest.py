"""What is there when a test begins is no business of the garbage collections in it, as in the process that folds."""

from normserve_models import memory


def pytest_runtest_setup() -> None:
    """Each fold asks for seven collections; over all that torch and onnx bring in, one takes 80 ms."""
    memory.settle()
