"""The vLLM loader: it starts `vllm serve`, and is a client of it."""
