"""The client of HTTP servers that run a model: vLLM, SGLang, llama-server, Ollama and others."""
