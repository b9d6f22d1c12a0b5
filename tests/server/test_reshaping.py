import numpy as np
import pytest
from normserve_server.reshaping import Reshape


@pytest.mark.parametrize(
    ("dims", "shape", "batched", "client", "file"),
    [
        ((3, 4), (1, 3, 4), False, (3, 4), (1, 3, 4)),
        ((1,), (), True, (5, 1), (5,)),
        ((-1, 6), (-1, 2, 3), True, (5, 7, 6), (5, 7, 2, 3)),
        ((-1, 2, -1), (1, -1, 2, 1, -1), False, (7, 2, 9), (1, 7, 2, 1, 9)),
        ((3, -1), (3, -1, 1), False, (3, 0), (3, 0, 1)),
    ],
)
def test_there_and_back_without_a_copy(dims: tuple, shape: tuple, batched: bool, client: tuple, file: tuple) -> None:
    reshape = Reshape(dims, shape)
    sent = np.arange(np.prod(client, dtype=int)).reshape(client)
    ran = reshape.to_file(sent, batched=batched)
    assert ran.shape == file
    assert sent.size == 0 or np.shares_memory(sent, ran)
    back = reshape.to_client(ran, batched=batched)
    assert back.shape == client
    assert (back == sent).all()
