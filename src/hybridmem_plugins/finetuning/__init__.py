"""From a noisy data set to an adapter, with its report."""
