"""What the benchmarks of the service share: the load, the servers beside ours, the models, and how figures are shown."""
