"""The normalization operators as models that every server has: `normserve.layer_norm` and its like, over ModelInfer.

Each is a version like any other: listed, described, queued, measured, tried by the canary. What differs is that its tensors
have any rank and one of several datatypes, that some may be left out, and that a request's parameters are the operator's
arguments. So a request is held against a signature made for it (`planning`), and its arguments travel with its tensors, as
tensors.
"""
