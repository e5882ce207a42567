"""Running preprocessors: which there are, what they take, and what they give."""
