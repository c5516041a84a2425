"""How our values show themselves, in a terminal and in a notebook."""

from __future__ import annotations

import html
import io
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from normd.types import Layer

# An array of so many elements is shown whole.
_FEW = 4


def brief(value: Any) -> str:
    """A dataclass with its arrays as dtype[shape] and range. For __repr__."""
    shown = ", ".join(f"{field.name}={_brief(getattr(value, field.name))}" for field in fields(value))
    return f"{type(value).__name__}({shown})"


def layer(value: Layer) -> str:
    """A layer in a line. For __repr__."""
    return f"<Layer {value.name!r} at version {value.version}: {', '.join(_facts(value))}>"


def layer_html(value: Layer) -> str:
    """A layer as a table, with its statistics drawn if matplotlib is there. For _repr_html_."""
    config = value.config
    rows = {"version": f"{value.version} <small>{html.escape(value.content_hash[:12])}</small>",
            "settings": html.escape(", ".join(_facts(value))),
            "averaging": f"{config.averaging.name.lower()}, {config.running_var_estimator.name.lower()} variance, "
                         f"training with {config.normalize_training_with.name.lower()} statistics",
            "updated": f"{value.update_time:%Y-%m-%d %H:%M:%S} UTC"}
    if value.state is not None:
        for name in ("running_mean", "running_var", "gamma", "beta"):
            array = getattr(value.state, name)
            if array.size:
                rows[name] = html.escape(_brief(array))
    body = "".join(f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{text}</td></tr>"
                   for name, text in rows.items())
    return (f"<div><b>normd layer {html.escape(value.name)}</b><table>{body}</table>{_plot(value)}</div>")


def _facts(value: Layer) -> list[str]:
    config = value.config
    facts = [f"{config.num_channels} channels", f"preset {value.preset}", f"eps {config.eps:g}"]
    if config.update_weight is not None:
        facts.append(f"update_weight {config.update_weight:g}")
    if config.clip is not None:
        facts.append(f"clip {config.clip:g}")
    facts += [text for said, text in ((not config.affine, "no gamma and beta"), (config.frozen, "frozen"),
                                      (not config.track_running_stats, "no running statistics")) if said]
    if value.state is not None:
        facts.append(f"{value.state.num_batches_tracked} batches")
    return facts


def _brief(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return repr(value)
    if value.ndim == 1 and value.size <= _FEW:
        return str([float(f"{number:.6g}") for number in value.tolist()])
    text = f"{value.dtype}{list(value.shape)}".replace(" ", "")
    if value.size == 0 or value.dtype.kind not in "fiu":
        return text
    return f"{text} from {np.min(value):.4g} to {np.max(value):.4g}"


def _plot(value: Layer) -> str:
    """Mean and standard deviation, gamma and beta by channel, as SVG; "" without anything to draw, or to draw with."""
    state = value.state
    if state is None or not (state.running_mean.size or state.gamma.size):
        return ""
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG  # type: ignore[import]
        from matplotlib.figure import Figure  # type: ignore[import]
    except ImportError:
        return ""
    # Without pyplot, which keeps figures and chooses a backend for the whole program.
    figure = Figure(figsize=(7, 1.8), layout="constrained")
    FigureCanvasSVG(figure)
    channels = np.arange(value.config.num_channels)
    drawings = [bool(state.running_mean.size), bool(state.gamma.size)]
    axes = iter(np.atleast_1d(figure.subplots(1, sum(drawings))))
    if state.running_mean.size:
        axis, deviation = next(axes), np.sqrt(np.maximum(state.running_var, 0))
        axis.fill_between(channels, state.running_mean - deviation, state.running_mean + deviation, alpha=0.3, lw=0)
        axis.plot(channels, state.running_mean, ".-", ms=3, lw=0.8)
        axis.set_title("running mean, and a standard deviation around it", fontsize=8)
    if state.gamma.size:
        axis = next(axes)
        axis.plot(channels, state.gamma, ".-", ms=3, lw=0.8, label="gamma")
        axis.plot(channels, state.beta, ".-", ms=3, lw=0.8, label="beta")
        axis.legend(fontsize=7)
        axis.set_title("gamma and beta", fontsize=8)
    for axis in figure.axes:
        axis.set_xlabel("channel", fontsize=7)
        axis.tick_params(labelsize=7)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    # Inline, without the document around it.
    return re.sub(r"^.*?(?=<svg)", "", drawn.getvalue(), count=1, flags=re.DOTALL)
