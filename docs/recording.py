"""A recording of a terminal as an SVG for the README, made of a real run.

    python docs/recording.py                          writes docs/recording.svg

It draws a folder of cats and dogs with a broken file in it, runs `catdog classify` there in a
terminal of its own, and keeps what that terminal shows at the end.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).with_name("recording.svg")
COLUMNS, ROWS = 84, 60
COMMAND = "catdog classify photos/ --output results"


def run(command: str, folder: Path) -> str:
    """What a command writes to a terminal."""
    leader, follower = pty.openpty()
    environment = os.environ | {
        "COLUMNS": str(COLUMNS),
        "LINES": str(ROWS),
        "TERM": "xterm-256color",
    }
    words = [sys.executable, "-m", *command.split()]
    process = subprocess.Popen(
        words, cwd=folder, stdout=follower, stderr=follower, env=environment, close_fds=True
    )
    os.close(follower)
    shown = bytearray()
    while True:
        ready, _, _ = select.select([leader], [], [], 0.2)
        if ready:
            try:
                shown += os.read(leader, 65536)
            except OSError:  # Linux' way to say that the other end is closed
                break
        elif process.poll() is not None:
            break
    os.close(leader)
    if process.wait():
        raise SystemExit(shown.decode())
    return shown.decode()


def last_screen(shown: str) -> str:
    """What is left of the lines that were written over: those that a line feed ended."""
    shown = re.sub(r"\x1b\[\?25[lh]", "", shown)  # the cursor
    lines = shown.replace("\r\n", "\n").split("\n")
    # The live line begins with a carriage return and an order to erase it.
    return "\n".join(re.split(r"\r?\x1b\[2K|\r", line)[-1] for line in lines)


def main() -> None:
    """Draw, run, write the picture."""
    from catdog.demo import drawings

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(300):
            label: drawings.Label = "dog" if number % 2 else "cat"
            place = folder / "photos" / label
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.jpg").write_bytes(drawings.draw_jpeg(label, number))
        (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 cut off")
        shown = last_screen(run(COMMAND, folder)).replace(name, "/home/you")
        shown = shown.replace(sys.executable, "python")  # in a line to copy
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.assemble(("$ ", "dim"), COMMAND))
    console.print(Text.from_ansi(shown.rstrip()))
    picture = console.export_svg(title="catdog")
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # it fetches nothing
    PICTURE.write_text(picture)
    sys.stdout.write(f"wrote {PICTURE}\n")


if __name__ == "__main__":
    main()
