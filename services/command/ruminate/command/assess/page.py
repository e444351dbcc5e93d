"""The report as one HTML page that needs nothing else: no script, no address, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from ruminate.command.assess.report import BINS, Distribution, Example, Report, Trust

_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#1c1e21;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
td,th{padding:.25rem .6rem;text-align:left;border-bottom:1px solid #e3e5e8;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}svg{display:block}rect{fill:#3b6fb6}.muted{color:#6b7076}
@media (prefers-color-scheme:dark){body{background:#16181b;color:#e6e7e9}td,th{border-color:#33363b}rect{fill:#7aa7e8}}
"""
_WIDTH, _HEIGHT = 160, 28


def page_of(report: Report) -> str:
    """The whole page."""
    kept = report.decisions["keep"]
    head = f"{report.lines} interactions assessed, {kept} to learn from, {report.refused_count} lines refused"
    versions = f"policy {report.policy_version}, scorer {report.scorer_version}, combiner {report.combiner}"
    body = [
        f"<h1>{escape(report.file)}</h1><p>{escape(head)}.<br><span class=muted>{escape(versions)}</span></p>",
        _parts(report),
        _counts("Why interactions were rejected", report.reasons.most_common(), of=report.lines),
        _trust(report.trust()),
        _examples("Most trusted", report.most_trusted()),
        _examples("Least trusted", report.least_trusted()),
        _refused(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Assessment of {escape(report.file)}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _parts(report: Report) -> str:
    rows = "".join(_part(name, each) for name, each in [*report.parts.items(), ("evidence_ratio", report.evidence)])
    head = "<tr><th>part</th><th>0 to 1</th><th class=n>mean</th><th class=n>known</th><th class=n>abstained</th></tr>"
    return f"<h2>Scores</h2><table>{head}{rows}</table>"


def _part(name: str, each: Distribution) -> str:
    mean = "" if each.mean is None else f"{each.mean:.2f}"
    label = escape(name.replace("_", " "))
    return (
        f"<tr><td>{label}</td><td>{_bars(each.bins, label)}</td><td class=n>{mean}</td>"
        f"<td class=n>{each.known}</td><td class=n>{each.abstained}</td></tr>"
    )


def _bars(bins: Sequence[int], label: str) -> str:
    most = max(bins) or 1
    step = _WIDTH / BINS
    bars = "".join(
        f'<rect x="{at * step + 1:.0f}" y="{_HEIGHT * (1 - count / most):.1f}" width="{step - 2:.0f}" '
        f'height="{_HEIGHT * count / most:.1f}"><title>{at / BINS:.1f} to {(at + 1) / BINS:.1f}: {count}</title></rect>'
        for at, count in enumerate(bins)
    )
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="distribution of {label}">{bars}</svg>'


def _counts(title: str, counts: Iterable[tuple[str, int]], *, of: int) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class=n>{count}</td><td class=n>{count / of:.1%}</td></tr>" for name, count in counts
    )
    return f"<h2>{escape(title)}</h2><table>{rows}</table>" if rows else ""


def _trust(trust: Trust | None) -> str:
    if trust is None:
        return ""
    ranked = "" if trust.same_question_ranked is None else f"{trust.same_question_ranked:.1%} of {trust.same_question_pairs}"
    rows = [
        ("lines that say whether they are right", f"{trust.lines}, of which {trust.right} are"),
        ("area under the ROC curve", "" if trust.auc is None else f"{trust.auc:.3f}"),
        ("pairs of the same question ranked rightly", ranked),
        ("Brier score", f"{trust.brier:.3f}"),
        ("expected calibration error", f"{trust.calibration_error:.3f}"),
    ]
    cells = "".join(f"<tr><td>{name}</td><td class=n>{value}</td></tr>" for name, value in rows)
    return f"<h2>How far the overall score can be trusted</h2><table>{cells}</table>"


def _examples(title: str, examples: Sequence[Example]) -> str:
    rows = "".join(
        f"<tr><td class=n>{each.line}</td><td class=n>{each.overall:.2f}</td><td>{each.decision}</td>"
        f"<td>{escape('; '.join(each.why))}</td></tr>"
        for each in examples
    )
    head = "<tr><th class=n>line</th><th class=n>overall</th><th>decision</th><th>why</th></tr>"
    return f"<h2>{title}</h2><table>{head}{rows}</table>" if rows else ""


def _refused(report: Report) -> str:
    rows = "".join(f"<tr><td class=n>{line}</td><td>{escape(why)}</td></tr>" for line, why in report.refused)
    return f"<h2>Lines refused</h2><table>{rows}</table>" if rows else ""
