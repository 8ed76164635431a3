"""`ddsctl`: the control plane's API for people at a terminal. It talks HTTP and nothing else."""
