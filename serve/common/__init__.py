"""What all applications share: API keys, errors, streaming."""
