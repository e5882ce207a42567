"""One generation on the U-Net: steps, windows, residuals and effects, hooks and teardown."""
