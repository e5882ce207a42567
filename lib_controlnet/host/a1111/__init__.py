"""What a second host replaces: model, sampler, rows and schedule of A1111 v1.10."""
