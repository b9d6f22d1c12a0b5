"""The service: models and normalization operators behind gRPC, metrics behind HTTP."""
