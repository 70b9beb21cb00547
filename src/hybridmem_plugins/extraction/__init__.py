"""Text to entities, mentions, links and facts."""
