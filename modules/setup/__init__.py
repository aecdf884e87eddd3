"""Install what the program and its loaders need."""
