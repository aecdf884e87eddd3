"""What every process speaks: errors and events. Standard library only."""
