"""The Transformers loader, and the generation loop of all loaders on transformers."""
