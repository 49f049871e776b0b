"""Arbitrary values of a struct, drawn from its own type: what msgspec would accept is what is drawn."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def values_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    """A strategy for a struct type."""
    return _strategy(inspect.type_info(kind))


def _strategy(kind: inspect.Type) -> st.SearchStrategy[Any]:  # noqa: C901, PLR0912 - one line for each kind of type
    match kind:
        case inspect.Metadata():
            return _strategy(kind.type)
        case inspect.StructType():
            fields = {field.name: _strategy(field.type) for field in kind.fields}
            return st.fixed_dictionaries(fields).map(lambda values: kind.cls(**values))
        case inspect.StrType():
            if kind.pattern:
                return st.from_regex(kind.pattern, alphabet=st.characters(codec="ascii"))
            return st.text(max_size=8)
        case inspect.IntType():
            return st.integers(kind.ge if kind.ge is not None else -(2**53), kind.le if kind.le is not None else 2**53)
        case inspect.FloatType():
            return st.floats(kind.ge, kind.le, allow_nan=False, allow_infinity=False)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.EnumType():
            return st.sampled_from(list(kind.cls))
        case inspect.VarTupleType():
            return st.lists(_strategy(kind.item_type), max_size=2).map(tuple)
        case inspect.DictType():
            return st.dictionaries(_strategy(kind.key_type), _strategy(kind.value_type), max_size=2)
        case inspect.UnionType():
            return st.one_of([_strategy(one) for one in kind.types])
        case inspect.AnyType():
            return JSON
        case _:
            raise NotImplementedError(f"no strategy for {kind!r}: add one")
