"""The machine: memory, GPUs, files, the terminal."""
