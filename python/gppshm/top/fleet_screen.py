"""The display of a whole domain: the actions of the keys.  It changes nothing."""

from gppshm.top import canvas, fleet
from gppshm.top.terminal import Terminal


class FleetDisplay(Terminal):
    def __init__(self, asker: fleet.Asker, view: fleet.FleetView) -> None:
        super().__init__(view)
        self._asker = asker
        asker.on_change = self.refresh

    def start(self) -> None:
        self._asker.start()

    def stop(self) -> None:
        self._asker.stop()

    def frame(self, width: int, height: int) -> canvas.Frame:
        self.view.take(self._asker.state)
        return fleet.frame(self.view, width, height, self.glyphs)

    def press_in_table(self, key: str) -> None:
        if key in ("c", "C"):
            self.view.say("nothing is cleaned from here: run redhawk-shmclean on that host", True)
        else:
            super().press_in_table(key)
