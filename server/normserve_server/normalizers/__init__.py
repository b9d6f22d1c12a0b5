"""Named normalizers: layers that live in the service, whose running statistics many callers share, durably.

A call is read by `servicer` into an operation (`operations`), which the thread of `store` carries out in a transaction together
with all others that wait. What a layer computes is in `batch_norm`, `instance_norm` and `running_norm`, as pure functions.
"""
