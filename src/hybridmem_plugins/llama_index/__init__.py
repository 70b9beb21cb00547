"""LlamaIndex components: thin translations of the core."""
