"""What was asked: the units of a request and of the panel, and how they are written down."""
