"""Endpoints beside those of OpenAI."""
