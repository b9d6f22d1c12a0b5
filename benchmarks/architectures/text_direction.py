"""A shipped file: PP-OCR's classifier that says which way up a line of text is, written by PaddlePaddle in opset 11.

A MobileNetV3 of 35 batch norms, whose parameters are Constant nodes. It comes with the package rapidocr-onnxruntime
(Apache 2.0), of which nothing else is used.
"""

from pathlib import Path

from architectures.packages import asset

INPUTS = {"x": ("FP32", (-1, 3, 48, 192))}


def shipped() -> Path:
    """Return the file.

    Raises:
        PackageNotFoundError: rapidocr-onnxruntime is not installed.
    """
    return asset("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
