"""The llama.cpp loader."""
