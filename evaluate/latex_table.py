"""The tables of a report as LaTeX for a paper: `booktabs`, nothing else to load."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rhodec.evaluate.published_curves import PublishedCurve
from rhodec.evaluate.report_table import Table, bd_table, per_picture_table, rate_table
from rhodec.evaluate.results_file import Summary
from rhodec.evaluate.results_page import PageOptions

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
# Of a rate table, as many columns as fit into the width of a page.
RATE_HEADS = ("quality", "bpp", "PSNR-RGB", "MS-SSIM dB", "encode CPU s", "decode CPU s")
# A signed or plain number; its minus is one of mathematics, not a hyphen.
NUMBER = re.compile(r"(?<![\w.-])[+-]?\d+(?:\.\d+)?(?![\w.-])")


def latex_table(table: Table, caption: str, label: str) -> str:
    """A `table` environment: rules of booktabs, first column left, the others right."""
    columns = "l" + "r" * (len(table.heads) - 1)
    lines = [
        r"\begin{table}",
        r"  \centering\small",
        f"  \\caption{{{escape(caption)}}}",
        f"  \\label{{{label}}}",
        r"  \smallskip",
        f"  \\begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {_row(table.heads)}",
        r"    \midrule",
        *(f"    {_row(row)}" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    for number, note in enumerate(table.notes, 1):
        lines.append(f"  \\par\\footnotesize ({number}) {escape(note)}.")
    return "\n".join([*lines, r"\end{table}"])


def latex_document(
    summaries: Sequence[Summary],
    published: Sequence[PublishedCurve],
    options: PageOptions,
) -> str:
    """The tables of a results page one after another, to be `\\input` into a paper."""
    dataset = summaries[0]["dataset"]
    where = f"{dataset['name'] or 'a folder'}, {dataset['pictures']} pictures"
    parts = ["% Made by rhodec evaluate; needs \\usepackage{booktabs}."]
    for method in options.methods:
        table = bd_table(
            summaries, published, method=method, against=options.against, window=options.window
        )
        caption = (
            f"BD-rate in % at equal PSNR-RGB on {where} (method {method}); in brackets the common "
            "range in dB."
        )
        parts.append(latex_table(table, caption, f"tab:bd-rate-{method}"))
    method = options.methods[0]
    table = per_picture_table(summaries, method, against=options.against, window=options.window)
    if len(table.heads) > 1 and len(summaries) > 1:
        caption = f"Mean of BD-rates of single pictures in % ({method}) on {where}, 95 % interval."
        parts.append(latex_table(table, caption, "tab:bd-rate-pictures"))
    for summary in summaries:
        caption = f"Rate, distortion and time of {summary['name']} on {where}."
        table = rate_table(summary).only(RATE_HEADS)
        parts.append(latex_table(table, caption, f"tab:rate-{summary['name']}"))
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Plain text as LaTeX; `+-` becomes the sign, numbers get the minus of mathematics."""
    parts = []
    for i, part in enumerate(text.split("+-")):
        at = 0
        pieces = []
        for found in NUMBER.finditer(part):
            pieces.append(_escape_characters(part[at : found.start()]))
            number = found.group()
            pieces.append(f"${number}$" if number[0] in "+-" else number)
            at = found.end()
        pieces.append(_escape_characters(part[at:]))
        parts.append(("$\\pm$" if i else "") + "".join(pieces))
    return "".join(parts)


def _escape_characters(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in text)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"
