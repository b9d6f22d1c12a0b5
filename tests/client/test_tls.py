"""Both clients over TLS, by a certificate made for the test."""

import grpc
import numpy as np
import pytest
from normserve import AsyncClient, Client, UnavailableError

NO_RETRIES = (("grpc.enable_retries", 0),)


@pytest.fixture
def secure_address(echo_server, certificate):
    port = echo_server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([certificate]))
    echo_server.start()
    return f"127.0.0.1:{port}"


@pytest.fixture
def credentials(certificate):
    return grpc.ssl_channel_credentials(root_certificates=certificate[1])


def test_client(secure_address, credentials):
    with Client(secure_address, credentials=credentials) as client:
        assert client.infer("echo", {"x": np.float32([1])})["x"].tolist() == [1]


async def test_async_client(secure_address, credentials):
    async with AsyncClient(secure_address, credentials=credentials) as client:
        assert (await client.infer("echo", {"x": np.float32([1])}))["x"].tolist() == [1]


def test_a_certificate_that_is_not_trusted(secure_address):
    with Client(secure_address, credentials=grpc.ssl_channel_credentials(), options=NO_RETRIES) as client:
        assert not client.is_live()
        with pytest.raises(UnavailableError):
            client.server_metadata()
