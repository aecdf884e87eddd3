"""The example of CONTRIBUTING.md: the folder of a new loader, whose model repeats the prompt."""
