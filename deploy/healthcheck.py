"""A container's health check, with what Python brings: `python healthcheck.py live` or `ready`; the exit status is the answer.

http.client and not urllib, which would send the request to the proxy that the environment names.
"""

import http.client
import os
import sys


def main(check: str) -> int:
    """Asks the server in this container; 0 where its health check says yes."""
    port = int(os.environ.get("NORMSERVE_HTTP_PORT", "8002"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", f"/health/{check}")
        response = connection.getresponse()
        sys.stdout.write(f"{response.read().decode(errors='replace')}\n")  # kept by the engine: `docker inspect` shows why
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0 if response.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
