"""What axe-core, the engine of most accessibility checkers, finds on a page."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

GRAVE = ("serious", "critical")
AT_REST = """
!document.querySelector(".pending") &&
document.getAnimations().every(
    one => one.playState !== "running" || one.effect.getTiming().iterations === Infinity
)
"""


def faults_of(page: Page) -> list[str]:
    """The serious and critical violations, each with the first elements that have it.

    Of a page that is at rest: Gradio shows what waits for its server paler than it is.
    """
    page.wait_for_function(AT_REST)
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}; {[node['html'][:160] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in GRAVE
    ]
