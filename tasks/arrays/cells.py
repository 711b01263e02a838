"""What one cell says: a number, the name of a class, or nothing.

A cell is never taken for more than is written: 01 and 1 are two classes, 1 and 1.0 one, and 1_0 is no number.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

CLASSES = 1000  # a column may have
MANY = 20  # whole numbers as classes, beyond which they must come again and again
TRUTH = {"false": 0.0, "true": 1.0}
# marks of pandas, R, Weka and UCI, Excel, SQL and the C library of Microsoft, in any case of letters
MISSING = {"", "?", "na", "n/a", "n.a.", "nan", "-nan", "null", "(null)", "none", "nil", "nat", "<na>", "\\n"}
MISSING |= {"#n/a", "#n/a n/a", "#na", "#num!", "#div/0!", "#value!", "#ref!", "#name?", "#null!"}
MISSING |= {f"{sign}{text}" for sign in ("", "-") for text in ("1.#ind", "1.#qnan", "1.#inf", "nan(ind)")}
DASHES = {"-", "--", "."}  # no number; a class only where it is named, or where + is one too
INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
REAL = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+(?:[eE][+-]?[0-9]+)?")
WHOLE = 2.0**53  # up to which float64 holds every whole number


def number(cell: str, comma: bool = False, marks: Collection[str] = ()) -> float:
    """Return a cell as a number; NaN where it is missing. Raises ValueError that says what was expected.

    comma: 0,5 is a half. marks: further cells, in small letters, that mean a missing one.
    """
    text = cell.strip().lower()
    if marks and text in marks:
        return math.nan
    if comma and COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        if "_" not in text:
            return float(text)
    except ValueError:
        pass
    if text in MISSING or text in DASHES:
        return math.nan
    if text in TRUTH:
        return TRUTH[text]
    raise ValueError(
        f"got {cell[:30]!r}, expected a number: name the columns of numbers in task.inputs, or this one in task.ignore"
    )


def is_number(cell: str, comma: bool = False) -> bool:
    """Return whether a number is written in a cell; a mark of a missing one is none."""
    try:
        return not math.isnan(number(cell, comma))
    except ValueError:
        return False


def is_missing(cell: str, marks: Collection[str] = ()) -> bool:
    """Return whether a cell holds neither a number nor a word."""
    text = cell.strip().lower()
    return text in MISSING or text in DASHES or text in marks


def class_name(cell: str) -> str:
    """Return the name of a class: numbers in one form, so that 1, +1 and 1.0 are one class, and all else as written.

    >>> [class_name(cell) for cell in ("1.0", "01", " run ", "2.50", "-0", "9007199254740993")]
    ['1', '01', 'run', '2.5', '0', '9007199254740993']
    """
    text = cell.strip()
    if INTEGER.fullmatch(text):
        text = text.removeprefix("+")
    elif REAL.fullmatch(text) and math.isfinite(value := float(text)):
        text = str(int(value)) if value.is_integer() and abs(value) < WHOLE else str(value)
    return "0" if text == "-0" else text


def class_names(
    cells: Iterable[str],
    where: str,
    marks: Collection[str] = (),
    rows: int = 0,
    dropped: Counter[str] | None = None,
) -> set[str]:
    """Return the names of the classes in some cells. Raises ValueError for too many, and for numbers that are values.

    rows: how many cells these stand for, where each is given once alone. dropped: takes in the marks that are no class.
    """
    names, dashes, count = set[str](), set[str](), 0
    for cell in cells:
        name = class_name(cell)
        if not is_missing(name, marks):
            names.add(name)
            count += 1
        elif name in DASHES and name not in marks:
            dashes.add(name)
        if dropped is not None and cell.strip() and is_missing(name, marks):
            dropped[cell.strip()] += 1
        if len(names) > CLASSES:
            raise ValueError(f"{where}: over {CLASSES:,} classes, expected fewer: for values, --task.kind value")
    count = rows or count
    whole = all(INTEGER.fullmatch(name) for name in names)
    if all(REAL.fullmatch(name) for name in names) and (not whole or len(names) > max(MANY, count / 2)):
        found = ", ".join(sorted(names, key=float)[:3])
        raise ValueError(
            f"{where}: the label looks like numbers: --task.kind value, or name the classes in task.classes "
            f"({len(names):,} of them in {count:,} rows: {found}, ...)"
        )
    kept = dashes if "+" in names else set()
    if dropped is not None:
        for dash in kept:
            del dropped[dash]
    return names | kept


def code(cell: str, codes: Mapping[str, int], marks: Collection[str] = ()) -> float:
    """Return the number of a class; NaN where there is none. Raises ValueError for one that is not known.

    A name that is known is a class, whatever it is: none, NA and - too.
    """
    for name in (cell.strip(), class_name(cell)):
        if name in codes:
            return codes[name]
    if is_missing(cell, marks):
        return math.nan
    raise ValueError(f"got {name[:30]!r}, expected one of the classes {', '.join(list(codes)[:10])}")
