"""From an adapter and a context to an answer."""
