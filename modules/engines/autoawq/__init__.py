"""The AutoAWQ loader."""
