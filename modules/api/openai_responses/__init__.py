"""OpenAI's Responses API: bodies, their conversion into chat requests, and answers as items."""
