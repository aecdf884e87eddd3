"""The ExLlamav2 loader."""
