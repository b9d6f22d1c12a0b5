"""The service: models and normalization operators behind gRPC, metrics behind HTTP."""

import os

# Since 1.31 onnxruntime sends usage data and keeps a device id in the home directory unless it is told not to when it loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
