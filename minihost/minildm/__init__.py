"""Small latent diffusion modules that load Stable Diffusion checkpoints in their own layout."""
