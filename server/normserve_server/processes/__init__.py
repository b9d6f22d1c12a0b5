"""Several serving processes on one port, with `--workers N`: a supervisor without models, and its workers.

`supervisor` keeps N workers alive and takes them down; `worker` is what each of them runs, an `App` with a `place`. They talk
over unix sockets in a private folder: `control` at the supervisor's end and `private` at a worker's. `fan_out` sends a call
that is everybody's business, such as RepositoryModelLoad, from the worker that gRPC gave it to by way of the supervisor to all.
"""
