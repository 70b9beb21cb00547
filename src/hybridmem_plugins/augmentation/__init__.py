"""From clean context to labelled noisy context."""
