"""The llamacpp_HF loader."""
