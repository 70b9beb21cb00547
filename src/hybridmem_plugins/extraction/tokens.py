"""Text to normalised tokens: the one place that decides which spellings are the same word."""

from __future__ import annotations

import re
import unicodedata

# Scripts written without spaces between words (Han, kana, Thai, Lao, Khmer, Burmese, Tibetan): one token a character,
# so that a name is still a run of tokens. Everything else is split at what is neither letter, digit nor mark.
_UNSPACED = "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|(?:[^\W_{_UNSPACED}]|[\u0300-\u036f\u0900-\u0dff])+")
_POSSESSIVE = re.compile(r"(?<=\w)['’](?:s\b)?")
_MARKS = re.compile(r"[\u0300-\u036f]+")


def normalise(text: str) -> str:
    """Fold compatibility forms, case, Latin/Greek/Cyrillic accents and possessives.

    >>> normalise("Beyoncé’s ﬁlm")
    'beyonce film'
    """
    if text.isascii():
        folded = text.lower()
    else:
        folded = unicodedata.normalize("NFKC", text).casefold()
        folded = unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", folded)))
    return _POSSESSIVE.sub("", folded) if "'" in folded or "’" in folded else folded


def words(text: str) -> list[str]:
    """Split a text into normalised tokens.

    >>> words("Lothair II's mother")
    ['lothair', 'ii', 'mother']
    >>> words("東京 Tower")
    ['東', '京', 'tower']
    """
    return _TOKEN.findall(normalise(text))


def name_key(name: str) -> str:
    """Return the form under which spellings of one name meet.

    >>> name_key("The  Beyoncé-Album!") == name_key("the beyonce album")
    True
    """
    return " ".join(words(name))
