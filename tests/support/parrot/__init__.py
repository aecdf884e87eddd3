"""The example of CONTRIBUTING.md: the folder of a new loader. Its model repeats the prompt."""
