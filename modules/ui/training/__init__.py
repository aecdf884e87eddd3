"""The Training page: its routes. Its views are drawn by static/training.js and the scripts that it imports."""
