"""The OpenVINO backend of lepton-edge."""

from lepton_edge_openvino.backend import OpenVINOBackend

__all__ = ["OpenVINOBackend"]
