"""The notebook: plain texts that a model continues, with the tokens it chose and what it might have chosen."""
