"""The ExLlamav2_HF loader."""
