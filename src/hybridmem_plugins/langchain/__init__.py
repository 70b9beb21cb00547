"""LangChain components: thin translations of the core."""
