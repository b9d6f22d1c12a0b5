"""The wire: messages, stubs, and tensors to and from bytes."""

from google.protobuf.internal import api_implementation

if api_implementation.Type() != "upb":
    raise ImportError(
        "normserve needs protobuf's upb backend, which keeps its messages in a descriptor pool of their own; "
        f"this process uses {api_implementation.Type()!r} (is PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION set?)"
    )
