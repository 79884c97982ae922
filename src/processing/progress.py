"""Progress bars of pools: tqdm, in a terminal or a notebook.

A bar counts calls that have ended, failed ones too. What a call says of itself from inside (`Worker.progress`) is shown
as the part of it that is done, so that a bar moves during long calls.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it; importing that would make every start slower
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Bar", "make_bar"]


class Bar:
    """One bar on the screen. To be told the same twice does no harm."""

    __slots__ = ("shown", "ended", "parts")

    def __init__(self, shown: Any) -> None:
        self.shown = shown  # tqdm's
        self.ended = 0
        self.parts: dict[int, float] = {}  # by call that runs: how much of it is done, 0 to 1

    def show(self, ended: int, first: int, count: int) -> None:
        """So many calls have ended in all; these have just now."""
        if self.parts:
            for index in range(first, first + count):
                self.parts.pop(index, None)
        self.ended = ended
        self._show()

    def inside(self, index: int, n: float, total: float | None) -> None:
        """The running call of that index is at `n` of `total` (None: of 1.0)."""
        part = n / total if total else n
        self.parts[index] = min(1.0, max(0.0, part))
        self._show()

    def _show(self) -> None:
        place = round(self.ended + sum(self.parts.values()), 2)
        if place <= self.shown.n:
            return  # never backwards, also if a call that was nearly done begins again
        if place % 1:
            self.shown.update(place - self.shown.n)
        else:
            self.shown.n = 0  # an int again
            self.shown.update(int(place))

    def close(self) -> None:
        """The bar stays as it is."""
        if not self.parts and self.shown.n != self.ended:
            self.shown.n = self.ended
        self.shown.close()


def make_bar(total: int | None, option: Any) -> Bar | None:
    """A bar for so many calls (None: nobody knows). `option`: True, the text before the bar, or a dict of tqdm's
    options; what is false: None. ImportError if tqdm is not installed."""
    if not option:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress= needs tqdm: pip install processing[progress]") from None
    if isinstance(option, dict):
        options = option
    elif isinstance(option, str):
        options = {"desc": option}
    elif option is True:
        options = {}
    else:
        raise TypeError(
            f"progress must be True, a text or a dict of tqdm's options, not {type(option).__name__}"
        )

    class Shown(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread that looks after bars: whoever waits for results moves it

    return Bar(Shown(**{"total": total, "unit": "call", **options}))
