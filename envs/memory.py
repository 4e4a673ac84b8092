"""What a world remembers: past frames of observation terms with a history, as columns of its physics vectors.

Columns: how many earlier decisions are known, then for each such term its frames, scaled and with their noise, newest
first. They stand behind the commands, so that a state can be stored, continued, branched and observed as any other.
What came before the first known frame is zeros or that frame, as the term says.
"""

import dataclasses
import functools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from embodied.deploy.contract import Term


def kept(term: Term) -> int:
    """Frames of a term that are remembered, the newest among them; 0 where the newest is all that it shows."""
    history = term.history
    return 0 if history.length == 1 and history.includes_current else history.length + (not history.includes_current)


@dataclasses.dataclass(frozen=True)
class Memory:
    """The memory of a world: its terms, the width of a frame of each, and where in a physics vector it begins."""

    terms: tuple[Term, ...]
    widths: tuple[int, ...]
    start: int

    @functools.cached_property
    def stop(self) -> int:
        """Where it ends; where it begins if nothing is remembered."""
        frames = sum(kept(term) * width for term, width in zip(self.terms, self.widths, strict=True))
        return self.start + (1 + frames if frames else 0)

    def shifted(self, physics: Any, numpy: ModuleType) -> Any:
        """Physics vectors [E, P] one decision on: each frame is a decision older, the newest is still the last one."""
        if self.stop == self.start:
            return physics
        parts = [physics[:, : self.start], physics[:, self.start : self.start + 1] + 1]
        for term, width, _, place in self._each():
            frames = physics[:, place : place + kept(term) * width]
            parts += [frames[:, :width], frames[:, : (kept(term) - 1) * width]]
        return numpy.concatenate([*parts, physics[:, self.stop :]], axis=1)

    def stored(self, physics: Any, frames: Any, numpy: ModuleType) -> Any:
        """Physics vectors [E, P] with the frames [E, F] of now as the newest."""
        parts, done = [], 0
        for _, width, frame, place in self._each():
            parts += [physics[:, done:place], frames[:, frame : frame + width]]
            done = place + width
        return numpy.concatenate([*parts, physics[:, done:]], axis=1) if parts else physics

    def observation(self, physics: Any, frames: Any, numpy: ModuleType) -> Any:
        """Observations [..., O] of the frames [..., F] of now and the earlier ones that physics vectors remember."""
        known, parts, done = physics[..., self.start : self.start + 1], [], 0
        for term, width, frame, place in self._each():
            shown = [frames[..., frame : frame + width]]
            for age in range(1, kept(term)):
                before = numpy.zeros_like(shown[0]) if term.history.reset_fill == "zeros" else shown[-1]
                past = physics[..., place + age * width : place + (age + 1) * width]
                shown.append(numpy.where(age <= known, past, before))
            shown = shown[not term.history.includes_current :]
            parts += [frames[..., done:frame], *(shown if term.history.order == "newest_first" else shown[::-1])]
            done = frame + width
        return numpy.concatenate([*parts, frames[..., done:]], axis=-1) if parts else frames

    def _each(self) -> Iterator[tuple[Term, int, int, int]]:
        """(term, width, where its frame of now begins, where its memory begins) of each term that is remembered."""
        frame, place = 0, self.start + 1
        for term, width in zip(self.terms, self.widths, strict=True):
            if kept(term):
                yield term, width, frame, place
                place += kept(term) * width
            frame += width
