"""Text to normalised tokens: the one place that decides which spellings are the same word."""

from __future__ import annotations

import re
import unicodedata

# Scripts written without spaces between words (Han, kana, Thai, Lao, Khmer, Burmese, Tibetan): one token a character,
# so that a name is still a run of tokens. Everything else is split at what is neither letter, digit nor mark.
_UNSPACED = "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|(?:[^\W_{_UNSPACED}]|[\u0300-\u036f\u0900-\u0dff])+")
_ASCII_TOKEN = re.compile("[a-z0-9]+")  # the same for what is ASCII and folded, and three times as fast
_POSSESSIVE = re.compile(r"(?<=\w)['’]+(?:s\b)?")
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
        folded = without_accents(folded)
    return _POSSESSIVE.sub("", folded) if "'" in folded or "’" in folded else folded


def without_accents(text: str) -> str:
    """Leave out the accents of Latin, Greek and Cyrillic letters."""
    return unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", text)))


def words(text: str) -> list[str]:
    """Split a text into normalised tokens.

    >>> words("Lothair II's mother")
    ['lothair', 'ii', 'mother']
    >>> words("東京 Tower")
    ['東', '京', 'tower']
    """
    folded = normalise(text)
    return (_ASCII_TOKEN if folded.isascii() else _TOKEN).findall(folded)


def name_key(name: str) -> str:
    """Return the form under which spellings of one name meet.

    >>> name_key("The  Beyoncé-Album!") == name_key("the beyonce album")
    True
    """
    if name.isascii() and name.replace(" ", "").isalnum():  # most names, and much faster
        return " ".join(name.lower().split())
    return " ".join(words(name))


# Function words: they carry no subject, so they neither link a question to an entity nor weigh in coverage.
STOPWORDS = frozenset(
    (
        "a an the of in on at by for from to with as and or but nor if so is are was were be been being am has "
        "have had do does did will would can could shall should may might must what which who whom whose when "
        "where why how that this these those it its he she they we you i his her hers their theirs our your my me "
        "him them us not no than then there here also into onto about over under between during after before both "
        "each any all some such only own same too very s t der die das ein eine und oder ist von zu mit im le la "
        "les un une et ou est de du des el los las y o en que"
    ).split()
)
