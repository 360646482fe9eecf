"""Numbers and sizes as text, for tables, lines and notebooks."""


def format_number(value: float) -> str:
    """With three significant digits, or all those before the point: "0", "0.00278", "1,234"."""
    if abs(value) >= 1000:  # noqa: PLR2004
        return f"{value:,.0f}"
    # Never with an exponent.
    return f"{float(f'{value:.3g}'):,.12f}".rstrip("0").rstrip(".")


def format_bytes(count: int) -> str:
    """As "512 bytes", "1.5 MB", "20 GB", in powers of 1,000."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    unit = "byte" if count == 1 else "bytes"
    return f"{count} {unit}"
