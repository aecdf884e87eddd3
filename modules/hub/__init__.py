"""Hugging Face and its mirrors: endpoints, clients, file lists, safe paths."""
