"""What the extension uses of A1111 1.10.1, for the type checker alone."""
