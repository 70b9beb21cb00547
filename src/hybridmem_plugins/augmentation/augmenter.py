"""The one class that users meet: clean contexts in, labelled noisy contexts out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridmem_plugins.augmentation.compose import noise_context, noise_passages
from hybridmem_plugins.augmentation.dataset import NoisyDataset
from hybridmem_plugins.augmentation.edits import Draft, Edit, random_for
from hybridmem_plugins.augmentation.examples import as_passage, refuse_one
from hybridmem_plugins.augmentation.recipe import FixedRecipe, Recipe
from hybridmem_plugins.augmentation.templates import TEMPLATES, get_template
from hybridmem_plugins.passage import Passage

if TYPE_CHECKING:
    from hybridmem_plugins.augmentation.pools import ChunkStore
    from hybridmem_plugins.augmentation.profile import NoiseProfile


class NoisyContextAugmenter:
    r"""Makes retrieved contexts as broken as real retrieval makes them, and says what it did.

    Everything random depends on the seed and an id alone (of the row, or of the passage): the same on any run, in any
    order, in any process.

    >>> augmenter = NoisyContextAugmenter(seed=0, rates={"nbsp": 1.0}, severity=1.0)
    >>> augmenter.noise_passages([Passage("a b", id="1")])[0].text
    'a\xa0b'
    """

    def __init__(
        self,
        seed: int = 0,
        rates: Mapping[str, float] | None = None,
        severity: float | Mapping[str, float] | None = None,
        mix: Mapping[str, float] | None = None,
        size: int = 5,
        profile: NoiseProfile | None = None,
        templates: Sequence[str] = tuple(TEMPLATES),
    ) -> None:
        """Choose the noise.

        Args:
            seed: Of all randomness.
            rates: Operator to chance (for a context or a passage), replacing `recipe.DEFAULT_RATES`.
            severity: Share of units that an operator changes: one number in [0, 1] for all, or one for each operator;
                None varies around each operator's typical one.
            mix: Shares of the kinds of rows, replacing `recipe.DEFAULT_MIX`.
            size: Passages in a context.
            profile: What a real retriever was seen to do; then counts, gold ranks, rates and severities come from it,
                and none of rates, severity, mix and size may be given.
            templates: Names of prompt templates; each row gets one of them.

        Raises:
            ValueError: An unknown operator, kind or template, a number outside [0, 1], or both profile and rates.
        """
        self.seed = seed
        self.templates = [get_template(name) for name in templates]
        if not self.templates:
            msg = "templates is empty: name at least one of: " + ", ".join(TEMPLATES)
            raise ValueError(msg)
        self.profile = profile
        self._fixed = FixedRecipe(rates, severity, mix, size)
        self._unbalanced: Recipe | None = None
        if profile is not None and (rates, severity, mix, size) != (None, None, None, 5):
            msg = "Give either a profile or rates, severity, mix and size: a profile sets all of these."
            raise ValueError(msg)

    def recipe(self, store: ChunkStore | None = None) -> Recipe:
        """Give what chooses the noise; a profile's recipe looks at how noisy the chunks already are, where it can."""
        if self.profile is None:
            return self._fixed
        from hybridmem_plugins.augmentation.profile_recipe import ProfileRecipe

        if store is not None:
            return ProfileRecipe(self.profile, store.often_found())
        self._unbalanced = self._unbalanced or ProfileRecipe(self.profile, ())
        return self._unbalanced

    def settings(self) -> dict[str, Any]:
        """Give what decides on the noise as plain JSON, for datasheets and caches."""
        if self.profile is not None:
            return {"profile": self.profile.as_dict()}
        fixed = self._fixed
        severity = dict(fixed.severity) if isinstance(fixed.severity, Mapping) else fixed.severity
        return {"rates": fixed.rates, "severity": severity, "mix": fixed.mix, "size": fixed.size}

    def build_dataset(
        self,
        examples: Iterable[Any] | str | Path | None,
        chunks: Iterable[Any] | None = None,
        *,
        retriever: Any = None,
        copies: int = 1,
        validation: float = 0.1,
        decontaminate: Sequence[str | Path] = (),
        on_bad_row: str = "raise",
        licences: Mapping[str, str] | None = None,
        title_key: str = "title",
    ) -> NoisyDataset:
        """Make a data set; rows are made while it is iterated, and never held.

        Args:
            examples: Dicts (id, question, answers, context), LangChain Documents or LlamaIndex nodes with question and
                answers in their metadata; a BEIR folder; or None to make cloze questions from the chunks
                (`questions.llm_examples` lets a language model make them).
            chunks: Texts, Passages, Documents or nodes to draw wrong passages from, in the order of their documents;
                None takes the BEIR folder's.
            retriever: A callable, LangChain or LlamaIndex retriever or `HybridMemory`, for hard negatives; None ranks
                chunks by shared rare words.
            copies: How many rows with different noise each example gives.
            validation: Share of the documents whose rows have `split` "validation".
            decontaminate: Evaluation files (JSON lines); examples that share a question or a run of 13 words of their
                gold with them are left out.
            on_bad_row: "raise", or "skip" to count a bad row in the datasheet and go on.
            licences: Source to licence, for the datasheet.
            title_key: Metadata key that holds a title.

        Raises:
            ValueError: Fewer than two chunks, or a bad setting; and, for a list of examples at once and else on
                reaching it, a bad row (its id is in the message).
        """
        return NoisyDataset(
            self,
            examples,
            chunks,
            retriever=retriever,
            copies=copies,
            validation=validation,
            decontaminate=decontaminate,
            on_bad_row=on_bad_row,
            licences=licences or {},
            title_key=title_key,
        )

    def noise_passages(self, passages: Sequence[Any]) -> list[Passage]:
        """Noise passages one by one: text, format and metadata, by (seed, id); the list stays as it is."""
        return self.noise_passages_with_log(passages)[0]

    def noise_passages_with_log(self, passages: Sequence[Any]) -> tuple[list[Passage], list[Edit]]:
        """Do as `noise_passages`, and give the log, whose `passage` is the index in the list."""
        refuse_one(passages, "passages")
        clean = [as_passage(item) for item in passages]
        recipe = self.recipe()
        draft = Draft(clean, ["gold"] * len(clean))
        for index, passage in enumerate(clean):
            noise_passages(draft, [index], recipe, None, random_for(self.seed, passage.id, "passage"))
        return draft.passages, draft.edits

    def noise_context(self, passages: Sequence[Any], key: str) -> tuple[list[Passage], list[Edit]]:
        """Noise what a retriever returned, as a stress test: passages and list (order, duplicates, splits, emptiness).

        Args:
            passages: Retrieved passages, best first.
            key: Names the request (the question); with the seed it decides on the noise.
        """
        refuse_one(passages, "passages")
        clean = [as_passage(item) for item in passages]
        draft = Draft(clean, ["retrieved"] * len(clean))
        noise_context(draft, self.recipe(), random_for(self.seed, key, "context"))
        return draft.passages, draft.edits
