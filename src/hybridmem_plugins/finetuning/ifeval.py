"""Checkers of IFEval's verifiable instructions (arXiv 2311.07911), written anew after the published rules.

Two of the original's tools are replaced by small ones: sentences are split by punctuation (the original uses NLTK's
punkt), and a reply's language is told by its script and its commonest words (the original uses langdetect). Scores are
therefore comparable among runs of this file, and near but not equal to published ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Checker = Callable[[str, Mapping[str, Any]], bool]

_SCRIPTS = {
    "kn": "\u0c80-\u0cff", "hi": "\u0900-\u097f", "mr": "\u0900-\u097f", "ne": "\u0900-\u097f", "pa": "\u0a00-\u0a7f",
    "gu": "\u0a80-\u0aff", "ta": "\u0b80-\u0bff", "te": "\u0c00-\u0c7f", "bn": "\u0980-\u09ff", "th": "\u0e00-\u0e7f",
    "ko": "\uac00-\ud7af", "ja": "\u3040-\u30ff", "ar": "\u0600-\u06ff", "fa": "\u0600-\u06ff", "ur": "\u0600-\u06ff",
    "ru": "\u0400-\u04ff", "bg": "\u0400-\u04ff", "uk": "\u0400-\u04ff", "zh": "\u4e00-\u9fff", "he": "\u0590-\u05ff",
}  # fmt: skip
_COMMON = {
    "en": "the of and to in is that it for was with as on be are this by not you or have from at an",
    "de": "der die das und ist nicht ein eine zu mit den von auf für sich des dem es im auch",
    "fr": "le la les des et est une un que pour dans qui pas sur au avec ce il du en",
    "es": "el la los de y que es en un una por con para no se las del al lo su",
    "pt": "o a os de e que é em um uma por com para não se as do da no na",
    "it": "il la di e che è un una per con non si le del della in i gli nel sono",
    "fi": "ja on ei se että oli hän mutta ovat kun myös joka niin tai kuin",
    "vi": "và của là có được cho không trong một những các với người này",
    "sw": "na ya wa kwa ni katika za la kuwa hii ambayo kama",
    "pl": "i w na się z do nie że to jest o jak po co ale",
    "nl": "de het een en van in is dat op te met voor niet zijn aan",
    "sv": "och att det i en som är på för med av den till inte",
}


def _compare(count: int, relation: str, wanted: int) -> bool:
    return count < wanted if relation == "less than" else count >= wanted


def _language(text: str, code: str) -> bool:
    letters = [letter for letter in text if letter.isalpha()]
    code = code.split("-")[0].lower()
    if code in _SCRIPTS:
        own = re.findall(f"[{_SCRIPTS[code]}]", text)
        return bool(letters) and len(own) > 0.5 * len(letters)
    words = re.findall(r"\w+", text.lower())
    scores = {name: sum(word in common.split() for word in words) for name, common in _COMMON.items()}
    return bool(words) and scores.get(code, 0) > 0 and scores.get(code, 0) == max(scores.values())


def _sentences(text: str) -> int:
    return len([part for part in re.split(r"(?<=[.!?])[\"')\]]*\s+|\n+", text) if re.search(r"\w", part)])


def _paragraphs(text: str, wanted: int) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner_empty = any(not part.strip() for part in parts[1:-1])
    return not inner_empty and sum(bool(part.strip()) for part in parts) == wanted


def _first_word(text: str, options: Mapping[str, Any]) -> bool:
    parts = text.split("\n\n")
    nth = int(options["nth_paragraph"])
    if sum(bool(part.strip()) for part in parts) != options["num_paragraphs"] or nth > len(parts):
        return False
    words = parts[nth - 1].split()
    found = re.match(r"[^.,?!'\"]*", words[0].lstrip("'\"")) if words else None
    return found is not None and found.group().lower() == str(options["first_word"]).lower()


def _highlights(text: str) -> int:
    single = [part for part in re.findall(r"\*[^\n*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n*]*\*\*", text) if part[2:-2].strip()]
    return len(single) + len(double)


def _json(text: str) -> bool:
    text = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _two_responses(text: str) -> bool:
    parts = text.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    kept = [part.strip() for part in parts if part.strip()]
    return len(kept) == 2 and kept[0] != kept[1]


def _postscript(text: str, marker: str) -> bool:
    patterns = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    return bool(re.findall(patterns.get(marker, r"\s*" + re.escape(marker.lower()) + r".*$"), text.lower(), re.M))


def _ends(text: str, phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(phrase.strip().lower())


CHECKERS: dict[str, Checker] = {
    "keywords:existence": lambda t, o: all(re.search(re.escape(k), t, re.I) for k in o["keywords"]),
    "keywords:frequency": lambda t, o: _compare(
        len(re.findall(re.escape(o["keyword"]), t, re.I)), o["relation"], o["frequency"]
    ),
    "keywords:forbidden_words": lambda t, o: (
        not any(re.search(rf"\b{re.escape(w)}\b", t, re.I) for w in o["forbidden_words"])
    ),
    "keywords:letter_frequency": lambda t, o: _compare(
        t.lower().count(o["letter"].lower()), o["let_relation"], o["let_frequency"]
    ),
    "language:response_language": lambda t, o: _language(t, o["language"]),
    "length_constraints:number_sentences": lambda t, o: _compare(_sentences(t), o["relation"], o["num_sentences"]),
    "length_constraints:number_paragraphs": lambda t, o: _paragraphs(t, o["num_paragraphs"]),
    "length_constraints:number_words": lambda t, o: _compare(len(re.findall(r"\w+", t)), o["relation"], o["num_words"]),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda t, o: len(re.findall(r"\[.*?\]", t)) >= o["num_placeholders"],
    "detectable_content:postscript": lambda t, o: _postscript(t, o["postscript_marker"]),
    "detectable_format:number_bullet_lists": lambda t, o: (
        len(re.findall(r"^\s*\*[^\*].*$", t, re.M)) + len(re.findall(r"^\s*-.*$", t, re.M)) == o["num_bullets"]
    ),
    "detectable_format:constrained_response": lambda t, o: bool(re.search(r"My answer is (?:yes|no|maybe)\.", t)),
    "detectable_format:number_highlighted_sections": lambda t, o: _highlights(t) >= o["num_highlights"],
    "detectable_format:multiple_sections": lambda t, o: (
        len(re.split(r"\s?" + re.escape(o["section_spliter"]) + r"\s?\d+\s?", t)) - 1 >= o["num_sections"]
    ),
    "detectable_format:json_format": lambda t, o: _json(t),
    "detectable_format:title": lambda t, o: any(part[2:-2].strip("<> ") for part in re.findall(r"<<[^\n]+>>", t)),
    "combination:two_responses": lambda t, o: _two_responses(t),
    "combination:repeat_prompt": lambda t, o: t.strip().lower().startswith(o["prompt_to_repeat"].strip().lower()),
    "startend:end_checker": lambda t, o: _ends(t, o["end_phrase"]),
    "startend:quotation": lambda t, o: len(t.strip()) > 1 and t.strip().startswith('"') and t.strip().endswith('"'),
    "change_case:capital_word_frequency": lambda t, o: _compare(
        sum(word.isupper() for word in re.findall(r"[\w'-]+", t)), o["capital_relation"], o["capital_frequency"]
    ),
    "change_case:english_capital": lambda t, o: t.isupper() and _language(t, "en"),
    "change_case:english_lowercase": lambda t, o: t.islower() and _language(t, "en"),
    "punctuation:no_comma": lambda t, o: "," not in t,
}
"""One checker for each instruction id: takes the reply and the instruction's options."""


def followed(reply: str, instructions: Sequence[str], options: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Tell of each instruction whether a reply follows it, strictly: the reply as it stands, and never a blank one.

    Args:
        reply: What the model said.
        instructions: Instruction ids, as in IFEval's `instruction_id_list`.
        options: Their `kwargs`, in the same order.

    Raises:
        ValueError: An instruction id is unknown.

    >>> followed("No commas here.", ["punctuation:no_comma"], [{}])
    [True]
    """
    unknown = [name for name in instructions if name not in CHECKERS]
    if unknown:
        msg = f"Unknown IFEval instruction {unknown[0]!r}."
        raise ValueError(msg)
    return [
        bool(reply.strip()) and CHECKERS[name](reply, option)
        for name, option in zip(instructions, options, strict=True)
    ]
