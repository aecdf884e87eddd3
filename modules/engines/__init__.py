"""The backends: what the worker process loads models with.

Both processes may import the pure half of an engine (arguments, notes, memory); only the worker imports the rest.
"""
