"""The Notebook page: its routes, its stream of events, and the bridge by which its script starts generations."""
