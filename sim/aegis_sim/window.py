"""The window a person records by: two cameras, what to do, how it goes, and the keys. Tk, so nothing beside Python."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import numpy as np
from PIL import Image, ImageTk

try:
    import tkinter as tk
except ImportError as error:
    raise ValueError("recording by hand needs Tk: on Debian and Ubuntu, apt-get install python3-tk") from error

PICTURE = 480  # pixels on a side
_GROUND, _PANEL, _TEXT, _FAINT = "#16181d", "#20242c", "#f2f4f8", "#98a2b3"
_COLOURS = {"waiting": "#98a2b3", "recording": "#ff5c5c", "good": "#43c59e", "bad": "#f2b84b"}
_PAUSE = 0.005  # s between two looks at what has been pressed


class Window:
    """Open until `close`; a context manager. Escape or closing it sets `stopped`.

    Attributes:
        stopped: whether the person wants to stop.
        focused: whether keys are meant for it; may be read from any thread.

    Args:
        title: of the window.
        controls: pairs of a key and what it does.

    Raises:
        ValueError: there is no screen.
    """

    def __init__(self, title: str, controls: Sequence[tuple[str, str]]) -> None:
        self.stopped = self.focused = False
        try:
            self._root = tk.Tk(className="aegis")
        except tk.TclError as error:
            display = os.environ.get("DISPLAY")
            where = f"the X display '{display}' cannot be opened" if display else "DISPLAY is not set"
            raise ValueError(f"recording by hand needs a screen, and {where}: run it in a desktop session") from error
        root = self._root
        root.title(title)
        root.configure(bg=_GROUND, padx=20, pady=14)
        root.resizable(False, False)
        root.protocol("WM_DELETE_WINDOW", self._stop)
        root.bind("<Escape>", lambda _: self._stop())
        root.bind("<FocusIn>", lambda _: self._focus(True))
        root.bind("<FocusOut>", lambda _: self._focus(False))
        self._instruction = self._label(root, 22, _TEXT, bold=True)
        self._instruction.grid(row=0, column=0, sticky="w")
        self._progress = self._label(root, 12, _FAINT)
        self._progress.grid(row=0, column=1, sticky="e")
        self._pictures = {name: self._camera(name, column) for column, name in enumerate(("front", "wrist"))}
        self._status = self._label(root, 16, _FAINT, bold=True)
        self._status.grid(row=3, column=0, columnspan=2, sticky="w", pady=(10, 8))
        self._legend([*controls, ("Esc", "stop, keep what is recorded")])
        root.update()
        root.focus_force()
        root.update()

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._root.destroy()

    def show(self, images: Mapping[str, np.ndarray]) -> None:
        """Show the cameras "front" and "wrist", uint8 [S, S, 3] each."""
        for name, picture in self._pictures.items():
            picture.paste(Image.fromarray(images[name]).resize((PICTURE, PICTURE), Image.Resampling.BICUBIC))

    def tell(self, instruction: str, progress: str) -> None:
        """What to do, and which episode of how many this is."""
        self._instruction.configure(text=instruction)
        self._progress.configure(text=progress)

    def status(self, text: str, mood: str) -> None:
        """How it goes; `mood` is "waiting", "recording", "good" or "bad"."""
        self._status.configure(text=text, fg=_COLOURS[mood])

    def wait(self, seconds: float) -> None:
        """Take note of what is pressed for so long; at least once."""
        until = time.monotonic() + seconds
        while True:
            self._root.update()
            left = until - time.monotonic()
            if left <= 0 or self.stopped:
                return
            time.sleep(min(left, _PAUSE))

    def _stop(self) -> None:
        self.stopped = True

    def _focus(self, focused: bool) -> None:
        self.focused = focused

    def _label(self, parent: tk.Misc, size: int, colour: str, *, bold: bool = False, text: str = "") -> tk.Label:
        font = ("DejaVu Sans", size, "bold" if bold else "normal")
        return tk.Label(parent, text=text, font=font, fg=colour, bg=str(parent["bg"]), anchor="w")

    def _camera(self, name: str, column: int) -> ImageTk.PhotoImage:
        picture = ImageTk.PhotoImage("RGB", (PICTURE, PICTURE))
        tk.Label(self._root, image=picture, bg=_PANEL, bd=0).grid(
            row=1, column=column, padx=(0, 14) if column == 0 else 0, pady=(10, 2)
        )
        self._label(self._root, 10, _FAINT, text=f"{name} camera").grid(row=2, column=column, sticky="w")
        return picture

    def _legend(self, controls: Sequence[tuple[str, str]]) -> None:
        """Keys and what they do, in three columns of pairs."""
        panel = tk.Frame(self._root, bg=_PANEL, padx=14, pady=10)
        panel.grid(row=4, column=0, columnspan=2, sticky="ew")
        rows = -(-len(controls) // 3)
        for index, (key, meaning) in enumerate(controls):
            row, column = index % rows, 2 * (index // rows)
            self._label(panel, 11, _TEXT, bold=True, text=key).grid(row=row, column=column, sticky="w", padx=(0, 14))
            self._label(panel, 11, _FAINT, text=meaning).grid(row=row, column=column + 1, sticky="w", padx=(0, 36))
