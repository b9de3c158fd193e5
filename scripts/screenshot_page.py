"""Takes pictures of a report: OUT_PREFIX_desktop.png, _desktop_dark.png, _phone.png and _phone_dark.png.

    python scripts/screenshot_page.py report.html docs/images/compare

Needs the `dev` extra and a Chromium, named by CHROMIUM or found on the path. `--full` takes the page to its end.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

SIZES = {"desktop": (1400, 1000, 1), "phone": (390, 844, 2)}


def main() -> int:
    """Open the page once for each size and theme, and save what is seen."""
    arguments = _parser().parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        print("screenshot: no Chromium on the path; name one with CHROMIUM=/path/to/chromium", file=sys.stderr)
        return 2
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for size in SIZES:
            for theme in ("light", "dark"):
                _take(browser, arguments, size, theme)
        browser.close()
    return 0


def _take(browser: Browser, arguments: argparse.Namespace, size: str, theme: str) -> None:
    width, height, scale = SIZES[size]
    page = browser.new_page(
        viewport={"width": width, "height": arguments.height or height},
        device_scale_factor=scale,
        color_scheme="dark" if theme == "dark" else "light",
    )
    page.goto(arguments.page.resolve().as_uri())
    if arguments.at:
        page.evaluate("id => document.getElementById(id).scrollIntoView({behavior: 'instant'})", arguments.at)
    if arguments.full:
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.wait_for_timeout(300)
    name = f"{arguments.out_prefix}_{size}{'_dark' if theme == 'dark' else ''}.png"
    page.screenshot(path=name, full_page=arguments.full)
    page.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Take pictures of a report at desktop and phone width, light and dark."
    )
    parser.add_argument("page", type=Path)
    parser.add_argument("out_prefix")
    parser.add_argument("--full", action="store_true", help="the whole page instead of what fits the window")
    parser.add_argument("--at", metavar="ID", help="scroll to this part first: results, curves, tradeoffs, …")
    parser.add_argument("--height", type=int, help="of the window, in pixels")
    return parser


if __name__ == "__main__":
    sys.exit(main())
