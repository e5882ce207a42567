"""Tensor files and model folders: what a file holds, what it is, and where it lies."""
