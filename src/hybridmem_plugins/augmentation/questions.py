"""Questions for chunks that have none: gaps in their own sentences, or a language model's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.edits import random_for
from hybridmem_plugins.augmentation.examples import as_passage
from hybridmem_plugins.augmentation.operators.chunks import SENTENCE

GAP = "____"
_FACT = re.compile(
    r"(?<=[\w,;] )(?:[A-Z][\w'’-]+(?: (?:of |the )?[A-Z][\w'’-]+)*"
    r"|\d[\d,]*(?:\.\d+)?(?: ?(?:%|percent|million|billion))?)"
)


def cloze_examples(chunks: Iterable[Any], seed: int = 0) -> Iterator[dict[str, Any]]:
    """Make one fill-the-gap question of each chunk that has a sentence with a name or number inside.

    The gap's text may not stand elsewhere in the sentence, or the question would give it away.

    >>> example = next(cloze_examples(["Notes were kept by Ada Lovelace in London."]))
    >>> example["question"].count("____"), example["answers"][0] in ("Ada Lovelace", "London")
    (1, True)
    """
    for item in chunks:
        passage = as_passage(item)
        rng = random_for(seed, passage.id, "cloze")
        gaps = [
            (sentence[0], fact)
            for sentence in SENTENCE.finditer(passage.text)
            if 30 <= len(sentence[0]) <= 300
            for fact in _FACT.finditer(sentence[0])
            if not contains_answer(sentence[0][: fact.start()] + GAP + sentence[0][fact.end() :], [fact[0]])
        ]
        if gaps:
            sentence, fact = rng.choice(gaps)
            question = f"Fill the gap: {sentence[: fact.start()]}{GAP}{sentence[fact.end() :]}"
            yield {"id": f"cloze-{passage.id}", "question": question, "answers": [fact[0]], "context": [passage]}


_REQUEST = (
    "Write one question that the passage below answers, and the answer copied from the passage word for word, as short "
    'as possible. Reply with one JSON object: {{"question": "...", "answer": "..."}}\n\nPassage:\n"""\n{text}\n"""'
)


def llm_examples(chunks: Iterable[Any], llm: Callable[[str], Any]) -> Iterator[dict[str, Any]]:
    """Let a language model ask one question of each chunk; replies whose answer is not in the chunk are dropped.

    Args:
        chunks: Anything `as_passage` takes.
        llm: Prompt to reply, for instance a LangChain chat model's `invoke` or a LlamaIndex LLM's `complete`.

    >>> next(llm_examples(["It was Ada."], lambda prompt: '{"question": "Who was it?", "answer": "Ada"}'))["answers"]
    ['Ada']
    """
    for item in chunks:
        passage = as_passage(item)
        reply = llm(_REQUEST.format(text=passage.text))
        text = getattr(reply, "content", getattr(reply, "text", reply))
        found = re.search(r"\{.*\}", str(text), re.DOTALL)
        try:
            fields = json.loads(found[0]) if found else {}
        except ValueError:
            continue
        question, answer = fields.get("question"), fields.get("answer")
        if isinstance(question, str) and isinstance(answer, str) and contains_answer(passage.text, [answer]):
            yield {"id": f"llm-{passage.id}", "question": question, "answers": [answer], "context": [passage]}
