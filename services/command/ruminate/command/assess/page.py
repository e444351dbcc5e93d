"""The report as one HTML page that needs nothing else: no script, no address, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from ruminate.command.assess.report import BINS, Distribution, Example, Report, Trust

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c1e21;--paper:#fff;--line:#e3e5e8;--bar:#3b6fb6;--muted:#62676d}
@media (prefers-color-scheme:dark){:root{--ink:#e6e7e9;--paper:#16181b;--line:#33363b;--bar:#7aa7e8;--muted:#9da3aa}}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:var(--ink);background:var(--paper)}
h1{font-size:1.5rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin-top:2rem}.muted{color:var(--muted)}
table{border-collapse:collapse;width:100%}table.short{width:auto;min-width:min(26rem,100%)}
td,th{padding:.25rem .6rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:break-word}
td:first-child,th:first-child{padding-left:0}td:last-child,th:last-child{padding-right:0}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td.long{overflow-wrap:anywhere}
td.long span{display:inline-block;margin-right:.3em}
svg{display:block;width:100%;min-width:5rem;max-width:10rem;height:1.75rem;border-bottom:1px solid var(--muted)}
rect{fill:var(--bar)}
@media (max-width:40rem){
body{margin:1rem auto}td,th{padding:.25rem .3rem}table.scores{font-size:.85rem}svg{min-width:3.5rem}
table.examples tr:has(th){display:none}
table.examples tr{display:grid;grid-template-columns:auto auto 1fr;border-bottom:1px solid var(--line);padding:.35rem 0}
table.examples td{border:0;padding:0 .75rem 0 0;text-align:left}table.examples td:last-child{grid-column:1/-1}
table.examples td:first-child::before{content:"line "}
}
"""
_WIDTH, _HEIGHT, _LEAST_HEIGHT = 160, 28, 1.5


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
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Assessment of {escape(report.file)}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _parts(report: Report) -> str:
    rows = "".join(_part(name, each) for name, each in [*report.parts.items(), ("evidence_ratio", report.evidence)])
    head = "<tr><th>part</th><th>0 to 1</th><th class=n>mean</th><th class=n>known</th><th class=n>abstained</th></tr>"
    return f"<h2>Scores</h2><table class=scores>{head}{rows}</table>"


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
    # One among a thousand is seen, too.
    heights = [max(_LEAST_HEIGHT, _HEIGHT * count / most) if count else 0.0 for count in bins]
    bars = "".join(
        f'<rect x="{at * step + 1:.0f}" y="{_HEIGHT - height:.1f}" width="{step - 2:.0f}" height="{height:.1f}">'
        f"<title>{at / BINS:.1f} to {(at + 1) / BINS:.1f}: {count}</title></rect>"
        for at, (count, height) in enumerate(zip(bins, heights, strict=True))
    )
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none"'
    return f'<svg {box} role="img" aria-label="distribution of {label}">{bars}</svg>'


def _counts(title: str, counts: Iterable[tuple[str, int]], *, of: int) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class=n>{count}</td><td class=n>{count / of:.1%}</td></tr>" for name, count in counts
    )
    return f"<h2>{escape(title)}</h2><table class=short>{rows}</table>" if rows else ""


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
    return f"<h2>How far the overall score can be trusted</h2><table class=short>{cells}</table>"


def _examples(title: str, examples: Sequence[Example]) -> str:
    rows = "".join(
        f"<tr><td class=n>{each.line}</td><td class=n>{each.overall:.2f}</td><td>{each.decision}</td>"
        f"<td class=long>{_listed(each.why)}</td></tr>"
        for each in examples
    )
    head = "<tr><th class=n>line</th><th class=n>overall</th><th>decision</th><th>why</th></tr>"
    return f"<h2>{title}</h2><table class=examples>{head}{rows}</table>" if rows else ""


def _listed(reasons: Sequence[str]) -> str:
    """Each in one piece where a line has room for it."""
    parts = [f"{escape(reason)};" for reason in reasons[:-1]] + [escape(reason) for reason in reasons[-1:]]
    return " ".join(f"<span>{part}</span>" for part in parts)


def _refused(report: Report) -> str:
    rows = "".join(f"<tr><td class=n>{line}</td><td class=long>{escape(why)}</td></tr>" for line, why in report.refused)
    return f"<h2>Lines refused</h2><table class=short>{rows}</table>" if rows else ""
