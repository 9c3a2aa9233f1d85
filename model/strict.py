"""Read plain JSON objects into frozen dataclasses; an unknown, missing or mistyped key is an error."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, ClassVar, Protocol, TypeVar, get_type_hints

from model.errors import ModelError, SpecInvalid

JsonObject = Mapping[str, Any]
"""A parsed JSON object: its values are whatever JSON holds until they are checked here."""


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T", bound=_Dataclass)


def _convert(value: object, wanted: object) -> object:
    """Return the value as the wanted type, or raise TypeError; bool is no number here."""
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted == tuple[int, ...]:
        if isinstance(value, list | tuple) and all(type(item) is int for item in value):
            return tuple(value)
    elif wanted in (bool, int, float, str) and type(value) is wanted:
        return value
    raise TypeError


def read_dataclass(cls: type[T], data: object, where: str, error: type[ModelError] = SpecInvalid) -> T:
    """Build a dataclass of plain fields from JSON; `error` lists every problem, each with its path."""
    if not isinstance(data, Mapping):
        raise error(f"{where} must be an object, not {type(data).__name__}")
    known = {field.name: field for field in fields(cls)}
    hints = get_type_hints(cls)
    names = ", ".join(known)
    problems = [f'{where}: unknown key "{key}"; known keys: {names}' for key in set(data) - set(known)]
    values: dict[str, object] = {}
    for name, field in known.items():
        if name in data:
            try:
                values[name] = _convert(data[name], hints[name])
            except TypeError:
                wanted = getattr(hints[name], "__name__", str(hints[name]))
                problems.append(f"{where}.{name} must be {wanted}, not {data[name]!r}")
        elif field.default is MISSING:
            problems.append(f"{where}.{name} is missing")
    if problems:
        raise error("; ".join(sorted(problems)), where=where)
    return cls(**values)


def read_keys(data: object, keys: set[str], where: str, error: type[ModelError]) -> JsonObject:
    """Check that a JSON object has exactly these keys, and return it."""
    if not isinstance(data, Mapping):
        raise error(f"{where} must be an object, not {type(data).__name__}")
    unknown, missing = sorted(set(data) - keys), sorted(keys - set(data))
    if unknown or missing:
        facts = [f"unknown keys: {', '.join(unknown)}"] * bool(unknown)
        facts += [f"missing keys: {', '.join(missing)}"] * bool(missing)
        raise error(f"{where}: {'; '.join(facts)}", unknown=unknown, missing=missing)
    return data
