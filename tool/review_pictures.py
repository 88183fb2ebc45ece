"""Take docs/review.png and docs/review_statistics.png: the page of `crashchat review`, in a real browser.

python tool/review_pictures.py outputs/demo/analysis      an analysis some of whose clips were decided on
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).resolve().parents[1] / "docs"
PORT = 7869
WIDTH, HEIGHT = 1000, 1000


def take(page: Page, name: str) -> None:
    """Write what the page shows to docs/."""
    path = DOCS / name
    page.screenshot(path=path)
    print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("analysis", type=Path)
    analysis = parser.parse_args().analysis
    command = [
        sys.executable,
        "-m",
        "crashchat",
        "review",
        str(analysis),
        "--port",
        str(PORT),
        "--user",
        "anna",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout and server.stdout.readline().startswith("http"), "the server did not start"
        program = shutil.which("chromium") or shutil.which("google-chrome")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=program, args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            page.goto(f"http://127.0.0.1:{PORT}/")
            page.wait_for_function("() => document.body.dataset.clip")
            page.wait_for_function("() => document.querySelector('#screen video').readyState > 1")
            sign = page.get_attribute("[data-time=first_sign]", "aria-valuenow")
            page.evaluate(f"seek({sign})")
            page.wait_for_function("() => !document.querySelector('#screen video').seeking")
            take(page, "review.png")
            page.keyboard.press("t")
            page.wait_for_selector("#statistics[open]")
            page.locator("#statistics").screenshot(path=DOCS / "review_statistics.png")
            browser.close()
    finally:
        server.terminate()
        server.wait(30)


if __name__ == "__main__":
    main()
