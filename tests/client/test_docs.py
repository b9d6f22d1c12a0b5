"""The Python in docs/client.md runs, as it stands, against a real server."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_examples_run(digits_server, digits_repository, capsys):
    text = (ROOT / "docs" / "client.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    code = "\n".join(blocks).replace("localhost:8001", digits_server.grpc_address)
    exec(compile(code.replace("models/repository", str(digits_repository)), "client.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "image FP32 (-1, 1, 8, 8)" in printed
    assert "input 'image' has shape" in printed
