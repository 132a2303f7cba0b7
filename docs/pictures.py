"""Pictures of a report page in headless Chromium: one for the README, and some to look at.

python docs/pictures.py demo/report.html               writes docs/report.png
python docs/pictures.py demo/report.html FOLDER        writes the whole page into FOLDER,
                                                       at two widths, light and dark
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTHS = {"desktop": 1280, "phone": 390}
THEMES = ("light", "dark")


def open_browser(profile: Path) -> Any:
    """Headless Chromium that asks nobody for anything, with a profile of its own."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-dev-shm-usage "
    flags += "disable-background-networking disable-component-update disable-sync"
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def picture(
    browser: Any, page: Path, width: int, theme: str, height: int | None = None, scale: float = 1
) -> bytes:
    """A PNG of the page from its top, down to a height or to its end."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": scale, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.resolve().as_uri())
    size = "return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    _, whole = browser.execute_script(size)
    clip = {"x": 0, "y": 0, "width": width, "height": height or whole, "scale": 1}
    taken = browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
    )
    return base64.b64decode(taken["data"])


def all_pictures(browser: Any, page: Path) -> Iterator[tuple[str, bytes]]:
    """Name and PNG of the page at every width, light and dark."""
    for name, width in WIDTHS.items():
        for theme in THEMES:
            yield f"{name}-{theme}.png", picture(browser, page, width, theme)


def small(png: bytes) -> bytes:
    """The same in 256 colours, which is enough for a page, in a quarter of the bytes."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        palette = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        palette.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(page: str, folder: str | None = None) -> None:
    """Write the README's picture, or several into a folder."""
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(Path(profile))
        try:
            if folder is None:
                taken = small(picture(browser, Path(page), 1120, "light", 1460, 1.5))
                Path(__file__).with_name("report.png").write_bytes(taken)
                return
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name, png in all_pictures(browser, Path(page)):
                (Path(folder) / name).write_bytes(png)
        finally:
            browser.quit()


if __name__ == "__main__":
    main(*sys.argv[1:])
