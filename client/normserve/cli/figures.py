"""Numbers as people read them; what is not known is a dash."""

NONE = "-"


def number(value: float | None) -> str:
    """A number of about three digits."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it."""
    if value is None:
        return NONE
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def percent(value: float | None) -> str:
    """A ratio as percent."""
    return NONE if value is None else f"{value * 100:.3g} %"


def gibibytes(value: float | None) -> str:
    """A size in GiB."""
    return NONE if value is None else f"{value / 2**30:.3g} GiB"
