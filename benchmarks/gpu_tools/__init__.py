"""What `benchmarks/gpu.py` and `tests/gpu` need: the card, the load, the network, and the figures."""
