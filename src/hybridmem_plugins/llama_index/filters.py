"""LlamaIndex `MetadataFilters`, nested or not, in the memory's filter language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from hybridmem_plugins.llama_index.nodes import REF_DOC
from hybridmem_plugins.memory.filters import MISSING, Filter, Predicate, compile_filter, resolve

_SAME = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.CONTAINS: "$contains",
    FilterOperator.TEXT_MATCH: "$contains",
}


# Names under which LlamaIndex's own stores file the document that a node is a part of.
_DOCUMENT = ("doc_id", "document_id", "ref_doc_id")


def to_filter(filters: Any) -> Filter | None:
    """Return a filter that the memory understands.

    Where a key is missing, `!=`, `nin` and `is_empty` hold and nothing else does; values of different types are
    unequal and not comparable. `ref_doc_id`, `doc_id` and `document_id` are the id of a node's document, where its
    metadata has no such key.

    Args:
        filters: `MetadataFilters`, nested to any depth; one `MetadataFilter`; a dict or callable as the memory takes
            it; None.

    Raises:
        TypeError: It is none of these, or an operator got a value of the wrong type.

    >>> from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
    >>> to_filter(MetadataFilters(filters=[MetadataFilter(key="tenant", value="a")]))
    {'$and': [{'tenant': {'$eq': 'a'}}]}
    """
    if filters is None or isinstance(filters, Mapping):
        return filters
    if isinstance(filters, MetadataFilter | MetadataFilters):
        return _predicate(filters) if _needs_predicate(filters) else _dict(filters)
    if callable(filters):
        predicate: Predicate = filters
        return predicate
    msg = f"filters must be MetadataFilters, a dict or a callable, not {type(filters).__name__}"
    raise TypeError(msg)


def _dict(filters: MetadataFilter | MetadataFilters) -> dict[str, Any]:
    if isinstance(filters, MetadataFilter):
        return _condition(filters)
    parts = [_dict(part) for part in filters.filters]
    if filters.condition == FilterCondition.OR:
        # LlamaIndex takes an empty list of filters for no filter, whatever the condition.
        return {"$or": parts} if parts else {}
    if filters.condition == FilterCondition.NOT:
        return {"$not": {"$or": parts}} if parts else {}
    return {"$and": parts} if parts else {}


def _condition(one: MetadataFilter) -> dict[str, Any]:
    plain = _plain(one)
    if one.key not in _DOCUMENT:
        return plain
    document = _plain(one.model_copy(update={"key": REF_DOC}))
    own, none = ({one.key: {"$exists": exists}} for exists in (True, False))
    return {"$or": [{"$and": [own, plain]}, {"$and": [none, document]}]}


def _plain(one: MetadataFilter) -> dict[str, Any]:
    if one.operator == FilterOperator.IS_EMPTY:
        return {"$or": [{one.key: {"$exists": False}}, {one.key: {"$in": [None, "", []]}}]}
    if one.operator in (FilterOperator.ANY, FilterOperator.ALL):
        if not isinstance(one.value, list):
            msg = f"the filter {one.operator.value!r} on {one.key!r} takes a list, not {type(one.value).__name__}"
            raise TypeError(msg)
        parts = [{one.key: {"$contains": value}} for value in one.value]
        return {"$or" if one.operator == FilterOperator.ANY else "$and": parts}
    if one.operator == FilterOperator.TEXT_MATCH and not isinstance(one.value, str):
        msg = f"the filter 'text_match' on {one.key!r} takes a string, not {type(one.value).__name__}"
        raise TypeError(msg)
    return {one.key: {_SAME[one.operator]: one.value}}


def _needs_predicate(filters: MetadataFilter | MetadataFilters) -> bool:
    if isinstance(filters, MetadataFilters):
        return any(_needs_predicate(part) for part in filters.filters)
    return filters.operator == FilterOperator.TEXT_MATCH_INSENSITIVE


def _predicate(filters: MetadataFilter | MetadataFilters) -> Predicate:
    """Return the filter as a function, which alone can ignore the case of letters."""
    if isinstance(filters, MetadataFilter):
        return _ignoring_case(filters) if _needs_predicate(filters) else compile_filter(_condition(filters))
    parts = [_predicate(part) for part in filters.filters]
    if filters.condition == FilterCondition.OR:
        return lambda metadata: not parts or any(part(metadata) for part in parts)
    if filters.condition == FilterCondition.NOT:
        return lambda metadata: not any(part(metadata) for part in parts)
    return lambda metadata: all(part(metadata) for part in parts)


def _ignoring_case(one: MetadataFilter) -> Predicate:
    if not isinstance(one.value, str):
        msg = f"the filter {one.operator.value!r} on {one.key!r} takes a string, not {type(one.value).__name__}"
        raise TypeError(msg)
    key, wanted = one.key, one.value.casefold()

    def holds(metadata: Mapping[str, Any]) -> bool:
        value = resolve(metadata, key)
        if value is MISSING and key in _DOCUMENT:
            value = resolve(metadata, REF_DOC)
        return value is not MISSING and isinstance(value, str) and wanted in value.casefold()

    return holds
