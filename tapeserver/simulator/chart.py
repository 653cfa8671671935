"""Runs beside each other as one SVG chart: waits per job, what the drives did, mounts. Pure; needs nothing but text.

One line a run and three panels, so that a run is followed from left to right. Values stand beside their bars: no grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from catalog.units import show_seconds
from tapeserver.simulator.outcome import Waits
from tapeserver.simulator.report import Run
from tapeserver.simulator.stations import Phase

#: told apart by those who do not see red and green as two, and in grey
_COLOURS = {
    Phase.TRANSFER: "#1b6e53",
    Phase.LOCATE: "#7fc6a4",
    Phase.LOAD: "#d8973c",
    Phase.UNLOAD: "#a4611c",
    Phase.IDLE: "#e4e6e8",
}
_MEAN, _P95, _MAX = "#20456e", "#6f9bd1", "#cfdff2"
_INK, _FAINT = "#1c2126", "#6a737b"
_ROW, _BAR, _TOP, _GAP = 44, 22, 84, 36
_WAITS_WIDTH, _USE_WIDTH, _MOUNTS_WIDTH = 330, 270, 110
#: for what the runs are called: as wide as the longest, within these
_LABEL_WIDTH_MIN, _LABEL_WIDTH_MAX = 230, 480
#: room for the value beside a bar
_VALUE_WIDTH = 62
_CHARACTER = 6.6
#: times the largest 95th percentile: where the waits' axis ends
CUT_FACTOR = 1.6


def chart(runs: Sequence[Run], title: str) -> str:
    """A whole SVG document."""
    longest_label = _CHARACTER * max([len(run.label) for run in runs], default=0) + 10
    label_width = round(min(max(longest_label, _LABEL_WIDTH_MIN), _LABEL_WIDTH_MAX))
    waits_at = 24 + label_width
    use_at = waits_at + _WAITS_WIDTH + _GAP
    mounts_at = use_at + _USE_WIDTH + _GAP
    width, height = mounts_at + _MOUNTS_WIDTH + 24, _TOP + _ROW * len(runs) + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        "<style>text { font-family: Helvetica, Arial, sans-serif }</style>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(24, 30, title, size=16, weight="bold"),
        _text(waits_at, 58, "wait per job", weight="bold"),
        _text(use_at, 58, "what the drives did", weight="bold"),
        _text(mounts_at, 58, "mounts", weight="bold"),
    ]
    waits = [Waits.of(run.outcome.job_waits) for run in runs]
    longest = _axis_end(waits)
    most = max([len(run.outcome.mounts) for run in runs], default=0) or 1
    for number, (run, wait) in enumerate(zip(runs, waits, strict=True)):
        top = _TOP + _ROW * number
        parts.append(_text(24, top + 15, _shortened(run.label, label_width)))
        parts += _waits(waits_at, top, wait, longest)
        parts += _use(use_at, top, run)
        parts += _mounts(mounts_at, top, len(run.outcome.mounts), most)
    foot = _TOP + _ROW * len(runs) + 16
    parts += _legend(waits_at, foot, [("mean", _MEAN), ("95 of 100 below", _P95), ("longest", _MAX)])
    parts += _legend(use_at, foot, [(str(phase), colour) for phase, colour in _COLOURS.items()])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axis_end(waits: Sequence[Waits]) -> float:
    """One extreme must not flatten all the others: what is far beyond all 95th percentiles is drawn with a gap."""
    longest = max([one.longest for one in waits], default=0.0)
    return min(longest, CUT_FACTOR * max([one.p95 for one in waits], default=0.0)) or longest or 1.0


def _waits(left: float, top: float, waits: Waits, end: float) -> list[str]:
    """Three bars from one zero, the longest behind."""
    scale = (_WAITS_WIDTH - _VALUE_WIDTH) / end
    wide = min(waits.longest, end) * scale
    found = [
        _bar(left, top, wide, _MAX, height=_BAR),
        _bar(left, top + 4, waits.p95 * scale, _P95, height=_BAR - 8),
        _bar(left, top + 7, waits.mean * scale, _MEAN, height=_BAR - 14),
        _text(left + wide + 6, top + 15, show_seconds(waits.longest), colour=_FAINT),
    ]
    if waits.longest > end:
        found += [_bar(left + wide - at, top, 3, "#ffffff", height=_BAR) for at in (10, 17)]
    note = f"mean {show_seconds(waits.mean)}, p95 {show_seconds(waits.p95)}"
    return [*found, _text(left, top + _BAR + 13, note, colour=_FAINT, size=11)]


def _use(left: float, top: float, run: Run) -> list[str]:
    phases = run.outcome.phase_seconds
    total = sum(phases.values()) or 1.0
    found, at = [], left
    for phase, colour in _COLOURS.items():
        wide = _USE_WIDTH * phases[phase] / total
        found.append(_bar(at, top, wide, colour, height=_BAR))
        at += wide
    note = f"busy {100 * run.outcome.busy:.0f} %, transferring {100 * phases[Phase.TRANSFER] / total:.0f} %"
    return [*found, _text(left, top + _BAR + 13, note, colour=_FAINT, size=11)]


def _mounts(left: float, top: float, mounts: int, most: int) -> list[str]:
    wide = (_MOUNTS_WIDTH - _VALUE_WIDTH) * mounts / most
    return [
        _bar(left, top, wide, _FAINT, height=_BAR),
        _text(left + wide + 6, top + 15, f"{mounts:,}".replace(",", " "), colour=_FAINT),
    ]


def _legend(left: float, top: float, entries: Sequence[tuple[str, str]]) -> list[str]:
    found = []
    for name, colour in entries:
        found += [_bar(left, top, 10, colour, height=10), _text(left + 14, top + 9, name, colour=_FAINT, size=11)]
        left += 26 + _CHARACTER * len(name)
    return found


def _bar(left: float, top: float, wide: float, colour: str, *, height: float) -> str:
    return f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(wide, 0):.1f}" height="{height:.1f}" fill="{colour}"/>'


def _text(left: float, base: float, words: str, *, colour: str = _INK, size: float = 12, weight: str = "normal") -> str:
    style = f'fill="{colour}" font-size="{size:g}" font-weight="{weight}"'
    return f'<text x="{left:.1f}" y="{base:.1f}" {style}>{escape(words)}</text>'


def _shortened(label: str, width: float) -> str:
    most = int((width - 10) / _CHARACTER)
    return label if len(label) <= most else label[: most - 1] + "…"
