"""The built-in extractor: names, links, quotations and years by their typography, with no model."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from hybridmem_plugins.extraction.model import Extraction, Mention, MentionKind
from hybridmem_plugins.extraction.sentences import sentence_spans
from hybridmem_plugins.extraction.tokens import STOPWORDS, name_key
from hybridmem_plugins.passage import Passage

# Lower-case words that may stand inside a name ("University of Paris", "Charles de Gaulle").
_CONNECTORS = frozenset(
    ("of the de la le du des von van der den zu di da del della dos das do y e al el bin ibn af av").split()
)
# Words that open sentences with a capital letter and are no names.
_OPENERS = frozenset(
    (
        "a an the this that these those it its he she they we i you his her their our my your in on at by of for "
        "from to with as and or but nor so yet if when while where who whom whose which what why how after before "
        "since until during although though because however also not no yes all some many most several both each "
        "every there here then thus one two three four five six seven eight nine ten is are was were be been being "
        "has have had do does did will would can could may might must shall should other another such only than "
        "into over under between among about above der die das ein eine er sie es und oder im am le la les un une "
        "il elle et ou en el los las y o"
    ).split()
)
_ARTICLES = ("the ", "a ", "an ")
_WORD = re.compile(r"[^\W_](?:[\w'’\-]*\w)?|[^\w\s]")
# Here and below, what can open a match comes first and what must not stand before it after that: searching then skips
# to such characters. In text of ASCII only: words with a capital, and what may stand between two of them in a name.
_ASCII_CAPITALISED = re.compile(
    r"[A-Z](?<![^\W_][A-Z])(?<![^\W_][_'\-][A-Z])(?<![^\W_][_'\-]{2}[A-Z])(?:[\w'\-]*\w)?", re.ASCII
)
_ASCII_NUMBERS = re.compile(r"(?:[\s_]\d+(?!['\-]*\w))+", re.ASCII)
_ASCII_BETWEEN = re.compile(rf"(?:[\s_]*(?:(?:{'|'.join(sorted(_CONNECTORS))})(?!['\-]*\w)|[&.]))*[\s_]*", re.ASCII)
_YEAR = re.compile(r"[12](?<![\d.,/-].)(?:(?<=1)[0-9]|0)\d\d(?![\d/-]|[.,]\d)")
_QUOTE = re.compile(r"[“\"«„「『]([^“”\"«»„」』\n]{2,80})[”\"»“」』]")
_QUOTE_MARKS = '“"«„「『'
_MARKDOWN_LINK = re.compile(r"\[([^\[\]\n]{1,200})\]\(([^()\s]{1,500})[^()\n]*\)")
_WIKI_LINK = re.compile(r"\[\[([^\[\]|\n]{1,200})(?:\|([^\[\]\n]{1,200}))?\]\]")
_HTML_LINK = re.compile(r"<a\s[^<>]*href\s*=\s*[\"']([^\"']{1,500})[\"'][^>]*>([^<]{1,200})</a>", re.IGNORECASE)
_HEADING = re.compile(r"^#{1,6}[ \t]+(.{1,300}?)[ \t#]*$", re.MULTILINE)
_QUALIFIER = re.compile(r"\s*[(（\[].*[)）\]]\s*$")
_LOWER = re.compile(r"\W*[a-zß-öø-ÿа-яё]")  # as a note begins that is not about the name it says first
_FILE = re.compile(r"[^/\\]\.[A-Za-z]{1,8}$")
_LONGEST_FILE_TITLE = 200  # characters
# A title that is a file's name, and not `Node.js` or `Amazon.com`.
_FILE_TITLE = re.compile(
    r"[^/\\]\.(?:txt|text|md|markdown|rst|adoc|tex|html?|xhtml|xml|json|jsonl|ya?ml|csv|tsv|log|pdf|docx?|odt|rtf|epub|"
    r"pptx?|odp|xlsx?|ods)$",
    re.IGNORECASE,
)
# What follows the first word of a name that is defined, though not all of it has capitals.
_DEFINED = re.compile(
    r"((?:[ ][\w'’\-]+){1,6}?)\s*(?:\(|\s(?:is|was|are|were|ist|est|es)\s(?:an?|the|one|eine?|une?|una?)\b)"
)
# Letters and digits in a row, and those that stand inside a sentence.
_RUN, _INSIDE = re.compile(r"\w+"), re.compile(r"(?<=[\w,;)] )\w+")
_MAX_NAME_WORDS = 8
_LONGEST_QUALIFIED = 1000  # characters; finding brackets takes a time that grows with the square


class BuiltinExtractor:
    """Reads names from typography: capital letters, links, quotation marks, headings and digits.

    Scripts without letter case have no capitals to go by; there, names come from links, quotations and the titles of
    other passages, which the graph finds in any script.

    >>> passage = Passage(text="Boso the Elder was the father of Teutberga. She married Lothair II.", title="Boso")
    >>> [m.name for m in BuiltinExtractor().extract([passage])[0].mentions]
    ['boso the elder', 'teutberga', 'lothair ii']
    """

    def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
        """Return one extraction for each passage, in order."""
        return [_extract(passage) for passage in passages]


def defined_names(title: str) -> list[str]:
    """Return the normalised names that a title defines, the fullest first.

    >>> defined_names("The Mercury (planet)")
    ['the mercury planet', 'the mercury', 'mercury']
    """
    bare = _QUALIFIER.sub("", title) if len(title) <= _LONGEST_QUALIFIED else title
    names = [name_key(title), name_key(bare)]
    names += [name.removeprefix(article) for name in names[1:] for article in _ARTICLES if name.startswith(article)]
    return list(dict.fromkeys(name for name in names if name))


def capitalised_names(text: str) -> list[str]:
    """Return the runs of capitalised words in a text, as they are written.

    >>> capitalised_names("When did Lothair II of Lotharingia marry?")
    ['Lothair II of Lotharingia']
    """
    return [surface for surface, _, _ in _names(text, sentence_spans(text))]


def _extract(passage: Passage) -> Extraction:
    text = passage.text
    sentences = sentence_spans(text)
    defines = dict.fromkeys(_definitions(passage, text, sentences))
    found: dict[str, Mention] = {}
    for surface, kind, sentence in _surfaces(text, sentences):
        name = _without_article(name_key(surface))
        if name and name not in found and name not in defines and name.count(" ") < _MAX_NAME_WORDS:
            found[name] = Mention(name, kind, sentence)
    return Extraction(sentences=tuple(sentences), defines=tuple(defines), mentions=tuple(found.values()))


def _definitions(passage: Passage, text: str, sentences: list[tuple[int, int]]) -> list[str]:
    titles = [passage.title] if passage.title else []
    if "#" in text:
        titles += [match.group(1) for match in _HEADING.finditer(text)]
    document, source = passage.metadata.get("document"), passage.metadata.get("source")
    titles += _bounded([document] if isinstance(document, str) else [])
    files = [title for title in titles if _FILE_TITLE.search(title)]
    files += [source] if isinstance(source, str) and _FILE.search(source) else []
    labels = _bounded(map(_target_name, files))
    if sentences and not _tells_subject(titles, labels, text):
        titles += _leading_subject(text, *sentences[0])
    return list(dict.fromkeys(name for title in [*titles, *labels] for name in defined_names(title)))


def _bounded(titles: Iterable[str]) -> list[str]:
    """Return what of a file may be a title: its own, or its name, which links between files say."""
    return [title for title in titles if 1 < len(title) <= _LONGEST_FILE_TITLE]


def _tells_subject(titles: Sequence[str], labels: Sequence[str], text: str) -> bool:
    """Say whether titles tell what a text is about: file names (as labels, too) and numbers where it says them."""
    if any(not _FILE_TITLE.search(title) and any(map(str.isalpha, title)) for title in titles):
        return True
    names = {name_key(title) for title in (*titles, *labels)} - {""}
    said = f" {name_key(text)} " if names else ""
    return any(f" {name} " in said for name in names)


def _leading_subject(text: str, start: int, end: int) -> Iterator[str]:
    """Yield the name an untitled passage opens with, which is what encyclopedic and technical prose is about.

    It goes on in lower case up to where it is defined ("Conchobar mac Nessa is the king").

    Args:
        text: The passage's.
        start: Where its first sentence begins.
        end: And ends.
    """
    for surface, _, offset in _names(text[start:end], [(0, end - start)]):
        if offset <= len("The “") and not _LOWER.match(text, start, start + offset):
            after = start + offset + len(surface)
            if _is_name(surface, text, after):
                yield surface
            elif said := _DEFINED.match(text, after):
                yield surface + said.group(1)
        return


def _is_name(surface: str, text: str, after: int) -> bool:
    """Say whether what opens a text has its capital for being a name, and not for standing there.

    One plain word ("Net cash rose", "Published reports differ") is no name where the text says it in lower case, or
    where a word that is not a function word follows and no later sentence says it inside.
    """
    if not (surface.isalpha() and surface[1:].islower()):
        return True
    if surface.lower() in _RUN.findall(text):
        return False
    following = _WORD.search(text, after)
    if following is None or not following.group()[0].islower() or following.group() in STOPWORDS:
        return True
    return surface in _INSIDE.findall(text[after:])


def _surfaces(text: str, sentences: Sequence[tuple[int, int]]) -> Iterator[tuple[str, MentionKind, int]]:
    """Yield what stands out in a text, what made it do so, and the number of its sentence."""
    starts = [start for start, _ in sentences]
    for surface, kind, offset in _marked(text):
        yield surface, kind, max(bisect_right(starts, offset) - 1, 0)
    for surface, number, _ in _names(text, sentences):
        yield surface, "name", number
    for match in _YEAR.finditer(text):
        yield match.group(), "year", max(bisect_right(starts, match.start()) - 1, 0)


def _marked(text: str) -> Iterator[tuple[str, MentionKind, int]]:
    """Yield links and quotations with their offsets."""
    if "[" in text:
        for match in _MARKDOWN_LINK.finditer(text):
            yield match.group(1), "link", match.start()
            yield _target_name(match.group(2)), "link", match.start()
        for match in _WIKI_LINK.finditer(text):
            yield match.group(1), "link", match.start()
            if match.group(2):
                yield match.group(2), "link", match.start()
    if "<a" in text or "<A" in text:
        for match in _HTML_LINK.finditer(text):
            yield match.group(2), "link", match.start()
            yield _target_name(match.group(1)), "link", match.start()
    if any(mark in text for mark in _QUOTE_MARKS):
        for match in _QUOTE.finditer(text):
            yield match.group(1), "quote", match.start()


def _target_name(target: str) -> str:
    """Turn a link's target into the name it most likely stands for: `docs/Ion_trap.md#use` gives `Ion trap`."""
    path = target.split("#")[0].split("?")[0].rstrip("/")
    return re.sub(r"[_\-]+|%20", " ", path.rsplit("/", 1)[-1].rsplit(".", 1)[0])


def _names(text: str, sentences: Sequence[tuple[int, int]]) -> Iterator[tuple[str, int, int]]:
    """Yield each run of capitalised words, the number of its sentence, and its offset in the text."""
    if text.isascii():
        yield from _ascii_names(text, sentences)
        return
    for number, (start, end) in enumerate(sentences):
        sentence = text[start:end]
        if sentence.isascii():
            yield from _ascii_names(text, [(start, end)], number)
        else:
            for surface, offset in _capitalised(sentence):
                yield surface, number, start + offset


def _ascii_names(text: str, sentences: Sequence[tuple[int, int]], first: int = 0) -> Iterator[tuple[str, int, int]]:
    """Do as `_capitalised` for sentences side by side, looking only at words with a capital, several times as fast.

    Args:
        text: Where the sentences stand; they are ASCII.
        sentences: Where each begins and ends.
        first: Number of the first of them.
    """
    if not sentences:
        return
    opened, end = -1, 0
    number, limit = first - 1, 0  # of the sentence, and where it ends
    for match in _ASCII_CAPITALISED.finditer(text, sentences[0][0], sentences[-1][1]):
        start, stop = match.span()
        if opened >= 0 and start < limit:
            gap = text[end:start]
            if gap == " ":
                end = stop
                continue
            word = gap.split(None, 1)[:1]
            if not (word and word[0].isalpha() and word[0] not in _CONNECTORS):  # else no name goes on over it
                numbers = _ASCII_NUMBERS.match(gap)
                if numbers:
                    end += numbers.end()
                    gap = gap[numbers.end() :]
                if _ASCII_BETWEEN.fullmatch(gap) and ("." not in gap or _initial(text, end)):
                    end = stop
                    continue
            yield text[opened:end], number, opened
        elif opened >= 0:
            yield text[opened : _end_with_numbers(text, end, limit)], number, opened
        opened = -1
        while start >= limit:
            number += 1
            limit = sentences[number - first][1]
        if match.group().lower() not in _OPENERS:
            opened, end = start, stop
    if opened >= 0:
        yield text[opened : _end_with_numbers(text, end, limit)], number, opened


def _end_with_numbers(text: str, end: int, limit: int) -> int:
    numbers = _ASCII_NUMBERS.match(text, end, limit)
    return numbers.end() if numbers else end


def _capitalised(sentence: str) -> Iterator[tuple[str, int]]:
    """Yield each run of capitalised words, with connectors inside, and its offset."""
    position: int | None = 0
    while position is not None:
        opening = _next_capitalised(sentence, position)
        if opening is None:
            return
        start, end = opening
        pending, position = False, None  # pending: connectors since the last capitalised word
        for match in _WORD.finditer(sentence, end):
            token = match.group()
            if token[0].isupper():
                end, pending = match.end(), False
            elif token.isdigit() and not pending and match.start() == end + 1:
                end = match.end()
            elif (token in _CONNECTORS or token in ".&") and not (token == "." and not _initial(sentence, end)):
                pending = True
            else:
                position = match.start()
                break
        yield sentence[start:end], start


def _next_capitalised(sentence: str, position: int) -> tuple[int, int] | None:
    """Return where the next capitalised word begins and ends that may open a name."""
    for match in _WORD.finditer(sentence, position):
        token = match.group()
        if token[0].isupper() and token.lower() not in _OPENERS:
            return match.span()
    return None


def _initial(sentence: str, end: int) -> bool:
    """Say whether the word that ends here is a single letter, as in `J. R. Smith`."""
    return end == 1 or not sentence[end - 2].isalnum()


def _without_article(name: str) -> str:
    if name[:1] not in "at":
        return name
    for article in _ARTICLES:
        if name.startswith(article) and len(name) > len(article):
            return name[len(article) :]
    return name
