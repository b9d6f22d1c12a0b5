"""Where one run of an ONNX file spends its time, in this process: copies to and from the device, kernels, and the host."""
