"""What computes, behind one narrow interface: the host, an NVIDIA GPU, and in tests a device that only pretends to be one.

`interface` says what the service wants of a device. `host` is the CPU, which needs no copies. `cuda` is the only file that
knows CUDA, by way of torch, and is imported only where a GPU is used. `opened` has one of each device for the whole process.
"""
