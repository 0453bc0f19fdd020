"""A checkpoint's model card for a person: structures with Dice and number of cases, data and licences, limits."""

from __future__ import annotations

import html
from typing import Any

from slicer.i18n import tr as _

from .runs import EngineInfo

_NONE = "&ndash;"


def cardHtml(card: dict[str, Any], info: EngineInfo | None = None) -> str:
    """The card as rich text; parts that a card does not have are left out, what it is not for is always said."""
    if not card:
        return ""
    lines = []
    if info is not None and info.modelName:
        lines.append(f"<b>{html.escape(info.modelName)}</b> ({html.escape(info.modelSha256[:12])})")
    lines.append(f"<b>{html.escape(str(card.get('disclaimer') or _('Not for diagnosis.')))}</b> {html.escape(str(card.get('intended_use', '')))}")
    lines += [part for part in (_scores(card), _adapter(card), _data(card)) if part]
    for key in ("modalities", "licence"):
        value = card.get(key)
        if value:
            lines.append(f"{key}: {html.escape(', '.join(map(str, value)) if isinstance(value, list) else str(value))}")
    lines += [f"&bull; {html.escape(str(limit))}" for limit in card.get("limits") or []]
    return "<br>".join(lines)


def _scores(card: dict[str, Any]) -> str:
    scores = card.get("scores") or {}
    structures = scores.get("structures") or card.get("structures") or {}
    if isinstance(structures, list):
        structures = {(s.get("name", "") if isinstance(s, dict) else str(s)): (s if isinstance(s, dict) else {}) for s in structures}
    rows = ""
    for name, row in structures.items():
        dice = row.get("dice")
        count = dice.get("n") if isinstance(dice, dict) else row.get("n")
        mean = dice.get("mean") if isinstance(dice, dict) else dice
        shown = f"{mean:.2f}" if isinstance(mean, int | float) else _NONE
        cells = (html.escape(str(name)), shown, str(count) if count is not None else _NONE)
        rows += "<tr>" + "".join(f"<td>{cell}&nbsp;&nbsp;</td>" for cell in cells) + "</tr>"
    if not rows:
        return ""
    split = f" ({html.escape(str(scores['split']))})" if scores.get("split") else ""
    return f"<table><tr><th align='left'>{_('Structure')}{split}</th><th>Dice&nbsp;&nbsp;</th><th>{_('cases')}</th></tr>{rows}</table>"


def _adapter(card: dict[str, Any]) -> str:
    """What an adapter answers for: the scores above it are those of the model without it."""
    adapter = card.get("adapter")
    if not isinstance(adapter, dict):
        return ""
    text = _("answers for {names}, tuned on {count} cases and not measured; the model itself answers for everything else.").format(
        names=", ".join(map(str, adapter.get("answers_for") or [])) or "-", count=adapter.get("cases", "-")
    )
    return f"<b>{_('Adapter')}</b> {html.escape(text)}"


def _data(card: dict[str, Any]) -> str:
    entries = [d for d in card.get("data") or [] if isinstance(d, dict)]
    lines = [html.escape(f"{d.get('name', '')}: {d.get('licence', '')}") for d in entries]
    return "<br>".join([f"<b>{_('Trained on')}</b>", *lines]) if lines else ""
