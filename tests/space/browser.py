"""A visitor with a browser: chromium driven by playwright, who notes what must not happen on a page.

    with chromium() as browser, Visit(browser, url, width=390) as visit:
        visit.open("?items=B0SAMPL146")
        visit.cards()

A visit ends in an error where the console has one, a script failed, or a request went to another host.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.parse import urlsplit


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = None
if not find_spec("playwright"):
    MISSING = "playwright is not installed: pip install -r requirements-dev.txt"
elif CHROMIUM is None:
    MISSING = "no chromium on this machine: apt-get install chromium"
HEIGHTS = {1280: 900, 390: 844}


@contextmanager
def chromium() -> Iterator:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Visit:
    """One visitor's window on the page at `url`, `width` CSS pixels wide."""

    def __init__(self, browser, url: str, width: int = 1280, dark: bool = False):
        self.url, self.width, self.faults = url, width, []
        scheme = "dark" if dark else "light"
        self._context = browser.new_context(
            viewport={"width": width, "height": HEIGHTS[width]}, color_scheme=scheme, has_touch=width < 500
        )
        # Shared machines are slow at times; nothing here waits longer than it must.
        self._context.set_default_timeout(90_000)
        self.page = self._context.new_page()
        self.page.on("console", lambda message: self._note("console", message.type, message.text))
        self.page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        self.page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self._check(request.url))
        self.page.on(
            "response", lambda answer: answer.status < 400 or self.faults.append(f"{answer.status} {answer.url}")
        )

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, kind, *rest) -> None:
        self._context.close()
        if kind is None:
            assert not self.faults, self.faults

    def _note(self, what: str, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.faults.append(f"{what} {kind}: {text}")

    def _check(self, url: str) -> None:
        if urlsplit(url).scheme != "data" and urlsplit(url).netloc != urlsplit(self.url).netloc:
            self.faults.append(f"asked another host: {url}")

    # --- what the visitor does and sees ------------------------------------------------------------------------------

    def open(self, query: str = "") -> None:
        """Load the page at a query and wait for its answers."""
        self.page.goto(self.url + query)
        self.settle()

    def settle(self) -> None:
        """Wait until the page has shown what it asked for."""
        self.page.wait_for_function(
            """() => !document.querySelector("[aria-busy]")
                 && document.querySelector("#status").textContent !== "Loading…"
                 && ![...document.querySelectorAll(".hint")].some((one) => /^(Reading|Asking)/.test(one.textContent))"""
        )

    def all(self, selector: str) -> list[str]:
        """The texts of all elements of a kind that can be seen."""
        return [one.inner_text().strip() for one in self.page.locator(selector).all() if one.is_visible()]

    def cards(self) -> list[str]:
        """Ids of the items recommended."""
        return self.page.locator("#cards > li").evaluate_all("cards => cards.map((card) => card.dataset.item)")

    def history(self) -> list[str]:
        """Titles of the history's chips, oldest first."""
        return self.all("#history span")

    def query(self) -> dict[str, str]:
        """What stands in the address."""
        pairs = self.page.evaluate("() => [...new URLSearchParams(location.search)]")
        return dict(pairs)

    def search(self, words: str, kind: str = "item") -> list[str]:
        """Type into a search field in place of what it holds; what its list then offers."""
        self.page.locator(f"#{kind}-words").focus()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(words)
        return self.offered(kind)

    def offered(self, kind: str = "item") -> list[str]:
        """The options of a search field, once they are there."""
        self.page.wait_for_function(f"() => !document.querySelector('#{kind}-words').hasAttribute('aria-busy')")
        return self.all(f"#{kind}-list li")

    def in_view(self, selector: str) -> bool:
        """Whether the first of a kind shows its upper 60 pixels in the window, as it is scrolled now."""
        return self.page.locator(selector).first.evaluate(
            "one => { const { top } = one.getBoundingClientRect(); return top >= 0 && top + 60 <= innerHeight; }"
        )

    def fits(self) -> bool:
        """Whether nothing is wider than the window."""
        return self.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
