"""Write the screenshots of `docs/space.md` and README anew, from a page that runs.

    make space                                                       # in another terminal
    python -m tests.space.screenshots http://127.0.0.1:7860/ docs/space

A user of the dataset is named with `--user`; the others start as a visitor's first load does.
"""

import argparse
import io
from pathlib import Path

from PIL import Image

from tests.space.browser import MISSING, Visit, chromium


def main() -> None:
    parser = argparse.ArgumentParser(description="Screenshots of the Space's page.")
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--user", default="ASAMPLEUSR0027", help="whose view is shown")
    asked = parser.parse_args()
    if MISSING:
        parser.error(MISSING)
    asked.folder.mkdir(parents=True, exist_ok=True)

    with chromium() as browser:

        def shoot(
            name: str, query: str = "", *, width: int = 1280, dark: bool = False, opened: int | None = None
        ) -> None:
            with Visit(browser, asked.url, width, dark) as visit:
                visit.open(query)
                if opened is not None:
                    visit.page.locator("#cards h3").nth(opened).click()
                    visit.settle()
                if opened is not None:
                    visit.page.set_viewport_size({"width": width, "height": 1300})  # what is open is seen whole
                visit.page.wait_for_timeout(500)  # bars grow
                taken = Image.open(io.BytesIO(visit.page.screenshot())).convert("RGB")
            # A page has few colours: a palette makes the file a third as large.
            taken.quantize(64, dither=Image.Dither.NONE).save(asked.folder / f"{name}.png", optimize=True)

        shoot("first", opened=0)
        shoot("user", f"?user={asked.user}", dark=True)
        shoot("phone", width=390)
        shoot("phone_dark", f"?user={asked.user}", width=390, dark=True)


if __name__ == "__main__":
    main()
