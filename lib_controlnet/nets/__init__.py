"""Plain networks for inference; they know neither files nor hosts."""
