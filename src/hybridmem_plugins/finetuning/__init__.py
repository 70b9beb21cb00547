"""Fine-tuning: a noisy dataset becomes an adapter, with its report."""
