"""How A1111 v1.10 holds a checkpoint and samples it; `host/forge/` is the other way."""
