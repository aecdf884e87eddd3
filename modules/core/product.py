"""The name of the program, and the path of its log."""

PRODUCT = "Text Studio"
"""The one name of the program: in the page, the API, the terminal and the documents."""

LOG_FILE = "logs/text-studio.log"
"""Relative to the checkout, as shown to users."""
