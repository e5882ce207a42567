"""Notes what controls really do to a U-Net, for the matrix tests."""
