"""Render docs/accuracy.md, between its markers, and its picture from a record."""

import math
from pathlib import Path

from rich.console import Console

import accuracy_plot
from accuracy_data import DISTRIBUTIONS, NORMS
from markup import line, split

CONSOLE = Console()
START, END = "<!-- accuracy:start -->", "<!-- accuracy:end -->"
OURS = "normkit"
LIBRARIES = (OURS, "PyTorch", "JAX", "oneDNN nchw", "oneDNN blocked", "NumPy")
ROUNDING = (OURS, "PyTorch")  # give halves back where parameters are float32; JAX and NumPy give float32
TITLES = {"y": "y", "dx": "dx", "dweight": "dweight", "statistics": "mean and rstd"}
NONE = "–"  # noqa: RUF001 (as in the other tables)
SAME = 0.1  # ulp: less is no difference


def number(error: float | None) -> str:
    if error is None:
        return NONE
    if math.isinf(error):
        return "∞"
    if error >= 1e4:
        mantissa, exponent = f"{error:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{error:.0f}" if error >= 99.5 else f"{error:.2g}"


def select(record: dict, quantity: str, dtype: str) -> dict[tuple[str, str, str], float]:
    """{(norm, library, distribution): error}"""
    return {
        (c["norm"], c["library"], c["distribution"]): c[quantity]
        for c in record["cells"]
        if c["dtype"] == dtype and quantity in c and (dtype == "float32" or c["library"] in ROUNDING)
    }


def shown(errors: dict[tuple[str, str, str], float], norm: str, library: str, distribution: str) -> str:
    error = errors.get((norm, library, distribution))
    text = number(error)
    if library == OURS and error is not None:
        others = [e for (n, other, d), e in errors.items() if (n, d) == (norm, distribution) and other != OURS]
        if others and min(others) < error - max(SAME, 0.1 * error):
            return f"**{text} ▼**"
    return text


def table(record: dict, quantity: str, dtype: str) -> list[str]:
    errors = select(record, quantity, dtype)
    distributions = [d.name for d in DISTRIBUTIONS if any(d.name == key[2] for key in errors)]
    lines = [line(["Norm", "Library", *distributions]), line(["---", "---", *["---:"] * len(distributions)])]
    for row in NORMS:
        present = [library for library in LIBRARIES if any(key[:2] == (row.name, library) for key in errors)]
        for library in present:
            title = row.title if library == OURS else ""
            lines.append(line([title, library, *(shown(errors, row.name, library, d) for d in distributions)]))
    return lines


def worst(record: dict, quantity: str, dtype: str) -> tuple[float, str, str]:
    """Our largest error, with the norm and the distribution."""
    ours = {key: e for key, e in select(record, quantity, dtype).items() if key[1] == OURS}
    norm, _, distribution = max(ours, key=lambda key: ours[key])
    return ours[norm, OURS, distribution], norm, distribution


def summary(record: dict) -> list[str]:
    dtypes = ("float32", "float16", "bfloat16")
    lines = [line(["normkit's largest error", *dtypes]), line(["---", *["---:"] * len(dtypes)])]
    for quantity, title in TITLES.items():
        cells = []
        for dtype in dtypes:
            if not select(record, quantity, dtype):
                cells.append(NONE)
                continue
            error, norm, distribution = worst(record, quantity, dtype)
            cells.append(f"{number(error)} ({norm}, {distribution})")
        lines.append(line([title, *cells]))
    return lines


def losses(record: dict) -> str:
    """How often another library is nearer to the truth."""
    counted = lost = 0
    for quantity in TITLES:
        for dtype in ("float32", "float16", "bfloat16"):
            errors = select(record, quantity, dtype)
            for norm, library, distribution in errors:
                if library != OURS or not any(k[0] == norm and k[1] != OURS and k[2] == distribution for k in errors):
                    continue
                counted += 1
                lost += "▼" in shown(errors, norm, library, distribution)
    return f"{lost} of {counted}"


def render(record: dict, name: str) -> str:
    software = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    shapes = ", ".join(f"{norm} {'x'.join(map(str, dims))}" for norm, dims in record["shapes"].items())
    lines = [
        f"{record['date'][:10]}, {record['machine']['cpu']}, {record['settings']['isa']}; {software}. "
        f"Shapes: {shapes}. Raw numbers: [{Path(name).name}]({name}).",
        "",
        f"In {losses(record)} cells with a peer, some peer is nearer to the truth by more than {SAME} ulp and 10 %: "
        "**▼**. ∞: something that is finite came out infinite or NaN.",
        "",
        *summary(record),
    ]
    if record["settings"]["tiny"]:
        lines += ["", "**Tiny sizes: a look, not a measurement.**"]
    for quantity, title in TITLES.items():
        lines += ["", f"### {title}, float32", "", *table(record, quantity, "float32")]
    for dtype in ("float16", "bfloat16"):
        for quantity in ("y", "dx"):
            lines += ["", "<details>", f"<summary>{quantity}, {dtype}</summary>", "", *table(record, quantity, dtype)]
            lines += ["", "</details>"]
    return "\n".join(lines)


def relative(path: Path, page: Path) -> str:
    """A link from the page to the record."""
    top = page.parent.parent
    return f"../{path.relative_to(top)}" if path.is_relative_to(top) else str(path)


def in_step(page: Path, record: dict, path: Path) -> bool:
    return split(page.read_text(), START, END)[1] == f"\n{render(record, relative(path, page))}\n"


def write(page: Path, record: dict, path: Path) -> None:
    before, _, after = split(page.read_text(), START, END)
    page.write_text(f"{before}{START}\n{render(record, relative(path.resolve(), page.resolve()))}\n{END}{after}")
    picture = page.parent / "images" / "accuracy.png"
    picture.parent.mkdir(exist_ok=True)
    accuracy_plot.draw(record, picture)
