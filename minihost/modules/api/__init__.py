"""HTTP interface of the embedded host."""
