# SPDX-License-Identifier: Apache-2.0
"""Inline SVG that follows the page: its fonts, light or dark.

matplotlib draws with stand-in colours, which become CSS variables; text stays
text. Lines differ by dash as well as by colour.
"""

import html
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FuncFormatter, NullFormatter

INK, MUTED, LINE = "#010101", "#020202", "#030303"
MEMBER, HELD = "#040404", "#050505"
MORE = ("#060606", "#070707", "#080808")
_VARIABLES = {
  INK: "--ink",
  MUTED: "--muted",
  LINE: "--line",
  MEMBER: "--member",
  HELD: "--held",
  MORE[0]: "--third",
  MORE[1]: "--fourth",
  MORE[2]: "--fifth",
}
_STYLE: dict[Any, Any] = {
  "svg.fonttype": "none",
  "font.size": 9,
  "text.color": INK,
  "axes.edgecolor": LINE,
  "axes.labelcolor": MUTED,
  "axes.labelsize": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "axes.prop_cycle": cycler(color=[MEMBER, HELD, *MORE]),
  "grid.color": LINE,
  "grid.linewidth": 0.6,
  "xtick.color": LINE,
  "ytick.color": LINE,
  "xtick.labelcolor": MUTED,
  "ytick.labelcolor": MUTED,
  "xtick.labelsize": 8.5,
  "ytick.labelsize": 8.5,
  "legend.frameon": False,
  "legend.fontsize": 9,
  "lines.linewidth": 1.8,
}
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), "-.")


def counted(ax: Axes, axis: str) -> None:
  """Powers of ten as plain counts with thousands separators."""
  which = ax.xaxis if axis == "x" else ax.yaxis
  which.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
  which.set_minor_formatter(NullFormatter())


def short(name: str) -> str:
  """Short, and with no mathematics in it."""
  short = name if len(name) <= 24 else name[:23] + "…"
  return short.replace("$", r"\$")


def legend(ax: Axes, columns: int = 3) -> None:
  """Above the axes, in so many columns."""
  ax.legend(
    loc="lower left",
    bbox_to_anchor=(-0.02, 1.0),
    ncols=columns,
    borderaxespad=0.2,
    handlelength=2.4,
    columnspacing=1.6,
  )


def svg(
  name: str,
  summary: str,
  draw: Callable[[Axes], None],
  size: tuple[float, float] = (4.7, 3.2),
) -> Markup:
  """Draws, and returns markup with CSS colours and ids of its own."""
  out = io.StringIO()
  with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    ax = figure.add_subplot()
    figure.patch.set_visible(False)
    ax.patch.set_visible(False)
    draw(ax)
    figure.savefig(out, format="svg", metadata={"Date": None})
  text = out.getvalue()
  text = text[text.index("<svg") :]
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
  text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
  text = re.sub(r"font: (?:\w+ )?([\d.]+px) [^;\"]*", r"font-size: \1", text)
  text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
  for colour, variable in _VARIABLES.items():
    text = text.replace(colour, f"var({variable})")
  safe = re.sub(r"[^a-z0-9-]", "-", name.lower())
  text = re.sub(r'\bid="', f'id="{safe}-', text)
  text = text.replace("url(#", f"url(#{safe}-")
  text = text.replace('xlink:href="#', f'href="#{safe}-')
  box = re.search(r'viewBox="[^"]+"', text)
  rest = text[text.index(">") + 1 :]
  label = html.escape(summary, quote=True)
  head = (
    f'<svg class="figure" style="max-width:{104 * size[0]:.0f}px" '
    f'{box[0] if box else ""} role="img" '
    f'aria-label="{label}" xmlns="http://www.w3.org/2000/svg">'
  )
  return Markup(head + rest)
