"""The TensorRT backend of lepton-edge."""

from lepton_edge_tensorrt.backend import TensorRTBackend

__all__ = ["TensorRTBackend"]
