"""The folder of a new loader, as an example for CONTRIBUTING.md. Its model repeats the prompt."""
