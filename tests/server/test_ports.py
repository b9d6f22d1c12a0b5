import socket

import pytest
from normserve_server.ports import StartError, check_free, joined, reserve


def test_a_reserved_port_is_for_those_who_share_it() -> None:
    with reserve("gRPC", "127.0.0.1", 0) as reserved:
        port = reserved.getsockname()[1]
        text = f"gRPC port {port} on 127.0.0.1: Address already in use"
        for claim in (check_free, reserve):
            with pytest.raises(StartError, match=text):
                claim("gRPC", "127.0.0.1", port)
        with socket.create_server(("127.0.0.1", port), reuse_port=True) as one:
            with (
                socket.create_server(("127.0.0.1", port), reuse_port=True),
                socket.create_connection(("127.0.0.1", port)),
                pytest.raises(StartError, match=text),
            ):
                check_free("gRPC", "127.0.0.1", port)
            assert one.getsockname()[1] == port
    check_free("gRPC", "127.0.0.1", port)


def test_a_port_in_use_cannot_be_reserved() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StartError, match="Address already in use"):
            reserve("gRPC", "127.0.0.1", port)


def test_a_port_that_was_just_closed_can_be_reserved() -> None:
    """The last connection's address stays taken for a minute, which stops nobody who says that he may reuse it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            listener.accept()[0].close()
    reserve("gRPC", "127.0.0.1", port).close()


def test_addresses() -> None:
    assert (joined("::1", 1), joined("localhost", 2)) == ("[::1]:1", "localhost:2")
