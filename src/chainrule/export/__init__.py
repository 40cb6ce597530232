"""Models for other programs: ONNX, a Python file that needs NumPy only, and PyTorch's state_dict in and out."""

from .onnx_graph import to_onnx as to_onnx
from .predictor import to_python as to_python
from .torch_state import from_state_dict as from_state_dict
from .torch_state import state_dict as state_dict
