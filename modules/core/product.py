"""What the program is called, and where it writes its log."""

PRODUCT = "Text Studio"
"""The one name of the program: in the page, the API, the terminal and the documents."""

LOG_FILE = "logs/text-studio.log"
"""Relative to the checkout, as shown to users."""
