"""Networks for normserve: fold their batch norms away, prove the fold, export them, and a small zoo of examples.

No module of the package is imported here, so that a caller pays only for the module that it names.
"""

import os

# Since 1.31 onnxruntime sends usage data and keeps a device id in the home directory unless it is told not to when it loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
