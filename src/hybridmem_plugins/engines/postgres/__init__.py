"""PostgreSQL with pgvector: passages, vectors, words and graph in one database, changed in one transaction."""
