"""Exact rewrites and precision passes over ONNX graphs."""
