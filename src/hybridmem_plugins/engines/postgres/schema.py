"""The tables of a memory in PostgreSQL."""

from __future__ import annotations

import hashlib

FORMAT_VERSION = 1

# How many words a passage has; generated, as memories made before have none.
LENGTH = (
    "length integer GENERATED ALWAYS AS "
    "(CASE btrim(words) WHEN '' THEN 0 ELSE 1 + length(btrim(words)) - length(replace(words, ' ', '')) END) STORED"
)

# Names and terms are compared byte by byte (COLLATE "C"): equality is all that is asked, and it is several times as
# fast. Vectors lie in a table of their own, so that scanning them reads nothing else.
TABLES = f"""
CREATE TABLE state (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    format integer NOT NULL,
    memory text NOT NULL,
    version bigint NOT NULL DEFAULT 0,
    last_row bigint NOT NULL DEFAULT 0,
    passages bigint NOT NULL DEFAULT 0,
    tokens bigint NOT NULL DEFAULT 0,
    dimension integer,
    embedder text,
    indexed boolean NOT NULL DEFAULT false
);
CREATE TABLE passages (
    row bigint PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    title text,
    text text NOT NULL,
    metadata text NOT NULL,
    fields jsonb NOT NULL,
    extraction text NOT NULL,
    words text NOT NULL,
    {LENGTH}
);
CREATE INDEX passages_fields ON passages USING gin (fields jsonb_path_ops);
CREATE TABLE vectors (row bigint PRIMARY KEY, vector vector NOT NULL);
CREATE TABLE terms (term text COLLATE "C" PRIMARY KEY, passages bigint NOT NULL);
CREATE TABLE postings (
    term text COLLATE "C", row bigint, frequency integer NOT NULL, length integer NOT NULL,
    PRIMARY KEY (term, row) INCLUDE (frequency, length)
);
CREATE TABLE definitions (
    name text COLLATE "C", row bigint, position integer NOT NULL, title text, drawer text COLLATE "C" NOT NULL,
    PRIMARY KEY (name, row)
);
CREATE INDEX definitions_row ON definitions (row);
CREATE INDEX definitions_drawer ON definitions (drawer, length(name));
CREATE TABLE first_words (word text COLLATE "C", length integer, PRIMARY KEY (word, length));
CREATE TABLE mentions (
    name text COLLATE "C", row bigint, position integer NOT NULL, kind text NOT NULL,
    PRIMARY KEY (name, row)
);
CREATE INDEX mentions_row ON mentions (row);
CREATE TABLE facts (
    subject text NOT NULL, relation text NOT NULL, object text NOT NULL, row bigint NOT NULL, position integer NOT NULL
);
CREATE INDEX facts_row ON facts (row);
CREATE INDEX facts_subject ON facts USING hash (subject);
CREATE INDEX facts_object ON facts USING hash (object);
"""
NAMES = (
    "passages", "vectors", "terms", "postings", "definitions", "first_words", "mentions", "facts", "state",
)  # fmt: skip

# PostgreSQL's trees hold keys up to 2,704 bytes.
_LONGEST_KEY = 1000
_KEPT = 200


def key(name: str) -> str:
    """Return what stands for a name or term in the tables: itself, unless it is too long for an index.

    >>> key("ada lovelace")
    'ada lovelace'
    >>> len(key("a" * 5000))
    265
    """
    if len(name) * 4 <= _LONGEST_KEY or len(name.encode()) <= _LONGEST_KEY:
        return name
    return f"{name[:_KEPT]}:{hashlib.sha256(name.encode()).hexdigest()}"
