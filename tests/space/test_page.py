"""The Space's page in a real browser: what a visitor does, and what the page then shows.

The server is the real one over a real checkpoint, wide and as narrow as a phone.
"""

import pytest

from tests.fakes.explainer import explain
from tests.space.browser import MISSING, Visit, chromium


pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

HOSTILE = [
    "<img src=x onerror=\"alert('title')\">",
    '"><script>alert(1)</script><b onclick=alert(2)>bold',
    "</li></ol><style>*{display:none}</style>&lt;i&gt;",
    "javascript:alert(3)//${alert(4)}{{7*7}}",
    "verylongwordwithoutanyblank" * 4,
    "\u202etfel ot thgir\u202c \x07 bell",
]
# Text of 4.5:1 and more (WCAG 2.1 AA), names, roles and keyboard access, as axe-core knows them.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
# Contrast of the edge of each field and button with what lies around it.
EDGES = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    const colour = getComputedStyle(one).backgroundColor;
    return parts(colour)[3] === 0 && one.parentElement ? behind(one.parentElement) : colour;
  };
  const able = [...document.querySelectorAll("input, button:not(:disabled)")].filter((one) => one.offsetParent);
  return able.filter((one) => parseFloat(getComputedStyle(one).borderTopWidth)).map((one) => {
    const [a, b] = [getComputedStyle(one).borderTopColor, behind(one.parentElement)].map(light);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def serve():
    """Start the page over a recommender; gives its address."""
    from app import space

    started = []

    def start(recommender):
        app, url, _ = space(recommender).launch(prevent_thread_lock=True, quiet=True)
        started.append(app.get_blocks())
        return url

    yield start
    for blocks in started:
        blocks.close(verbose=False)


@pytest.fixture(scope="module")
def shop(recommender_of, decoder_checkpoint, sample_dir):
    made = recommender_of(decoder_checkpoint, sample_dir)
    return explaining(made)


def explaining(recommender):
    recommender.model.explain, recommender.model.config.reads_evidence = explain, True
    return recommender


@pytest.fixture(scope="module")
def url(serve, shop):
    return serve(shop)


@pytest.fixture(params=[1280, 390])
def visit(request, browser, url):
    with Visit(browser, url, request.param) as visit:
        yield visit


def best(shop, items, k=8):
    return [one["id"] for one in shop.recommend(items, k=k)["items"]]


def test_answers_are_there_on_first_load(visit, shop):
    visit.open()
    tastes = shop.about()["tastes"]
    assert visit.all("#tastes button") == [*(taste["name"] for taste in tastes), "Just me", "A user of the data"]
    assert visit.history() == [shop.titles[item] for item in tastes[0]["items"]]
    assert visit.cards() == best(shop, tastes[0]["items"])
    assert visit.in_view("#cards > li") and visit.fits()
    text = visit.page.inner_text("body")
    assert not any(user in text for user in shop.users)
    assert "Not measured: no results of eval.py lie beside this model." in text
    chances = [one["chance"] for one in shop.recommend(tastes[0]["items"])["items"]]
    for shown, chance in zip(visit.all(".chance"), chances, strict=True):
        if chance < 0.001:
            assert shown == "<0.1%"
        else:
            assert float(shown.rstrip("%")) == pytest.approx(100 * chance, abs=0.51 if chance > 0.0995 else 0.051)
    widths = visit.page.locator(".bar i").evaluate_all("bars => bars.map((bar) => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * chance / chances[0] for chance in chances], rel=1e-3)
    other = tastes[1]
    visit.page.get_by_role("button", name=other["name"], exact=True).click()
    visit.settle()
    assert visit.cards() == best(shop, other["items"])
    assert visit.all("#tastes [aria-pressed=true]") == [other["name"]]


def test_a_history_is_built_ordered_and_passed_on(visit, shop, browser, url):
    visit.open()
    visit.page.get_by_role("button", name="Just me").click()
    visit.settle()
    assert visit.history() == [] and visit.cards() == best(shop, [])
    assert "Nothing yet" in visit.page.inner_text("#taste")
    chosen = []
    for words in ("headlamp", "rain poncho", "daypack"):
        offered = visit.search(words)
        wanted = shop.search(words)
        assert offered == [f"{one['title']} ({one['id']})" for one in wanted["found"]]
        chosen.append(wanted["found"][1]["id"])
        visit.page.locator("#item-list li").nth(1).click()
        visit.settle()
        assert visit.history() == [shop.titles[item] for item in chosen]
        assert visit.page.evaluate("() => document.activeElement.id") == "item-words"
    assert visit.cards() == best(shop, chosen) and visit.query() == {"items": ",".join(chosen)}

    visit.page.get_by_role("button", name=f"Earlier: {shop.titles[chosen[2]]}").click()
    visit.settle()
    chosen = [chosen[0], chosen[2], chosen[1]]
    assert visit.history() == [shop.titles[item] for item in chosen] and visit.cards() == best(shop, chosen)
    visit.page.get_by_role("button", name=f"Remove: {shop.titles[chosen[0]]}").click()
    visit.settle()
    del chosen[0]
    assert visit.history() == [shop.titles[item] for item in chosen] and visit.cards() == best(shop, chosen)
    if visit.width < 500:
        visit.page.get_by_role("button", name="Show recommendations").click()
        visit.page.wait_for_timeout(1000)  # it scrolls
    assert visit.in_view("#cards > li")

    first = visit.cards()[0]
    visit.page.get_by_role("button", name=f"Add to history: {shop.titles[first]}").click()
    visit.settle()
    assert visit.query() == {"items": ",".join([*chosen, first])} and first not in visit.cards()
    visit.page.get_by_role("button", name="Show more").click()
    visit.settle()
    assert len(visit.cards()) == 16 and visit.query()["k"] == "16"
    with Visit(browser, url, visit.width) as friend:
        friend.open(visit.page.url.removeprefix(url))
        assert friend.cards() == visit.cards() and friend.history() == visit.history()
    visit.page.go_back()
    visit.settle()
    visit.page.go_back()
    visit.settle()
    assert visit.history() == [shop.titles[item] for item in chosen] and visit.cards() == best(shop, chosen)


def test_a_card_opens_with_its_evidence_and_what_ifs(visit, shop, browser, url):
    items = shop.about()["tastes"][0]["items"]
    visit.open(f"?items={','.join(items)}")
    item = visit.cards()[1]
    card = visit.page.locator("#cards > li").nth(1)
    known = shop.explain([item], items)[0]
    told = [known["item_attributes"], known["user_preference"], known["explanation"]]
    assert card.locator("dd").all_inner_texts() == told
    assert card.locator("dt").all_inner_texts() == ["It offers", "You like", "Why you"]
    assert not card.locator(".more").is_visible()
    card.locator("h3").click()
    visit.settle()
    assert card.locator("blockquote > p").all_inner_texts() == [one["text"] for one in known["evidence"]]
    card.get_by_text("Also in that review").click()
    assert card.locator("details p").all_inner_texts() == known["evidence"][0]["also"] != []
    where = card.locator(".evidence").inner_text()
    assert "Said of this item" in where and "Said of what you chose" in where
    assert ("a reviewer’s own sentence" in where) == (known["source"] == "evidence")
    shown = card.locator(".what-if li").all_inner_texts()
    wanted = sorted(shop.without(item, items), key=lambda one: one["chance"] or 0)
    assert len(shown) == len(items)
    for line, one in zip(shown, wanted):
        assert line.startswith(f"Without {one['title']}")
        assert ("falls out of the 8" in line) == (one["place"] is None)
        assert one["place"] is None or f"{one['place']}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(one['place'], 'th') }" in line
    assert visit.query()["open"] == item and visit.fits()
    with Visit(browser, url, visit.width) as friend:
        friend.open(visit.page.url.removeprefix(url))
        assert friend.page.locator("#cards > li").nth(1).locator(".what-if li").all_inner_texts() == shown
    # Another card takes its place; a second click closes it.
    third = visit.page.locator("#cards > li").nth(2)
    third.locator("h3").click()
    visit.settle()
    assert third.locator(".more").is_visible() and not card.locator(".more").is_visible()
    third.get_by_role("button", name="Evidence and what-ifs").click()
    assert not third.locator(".more").is_visible() and "open" not in visit.query()


def test_a_mistyped_word_is_mended_and_takes_nothing_away(visit, shop):
    visit.open()
    before = visit.cards()
    assert visit.search("headlmap") == ["Did you mean “headlamp”?"]
    assert visit.all("#item .hint") == ["No title or id holds “headlmap”."] and visit.cards() == before
    visit.page.locator("#item-list li").click()
    assert len(visit.offered()) == shop.search("headlamp")["total"]
    assert visit.page.input_value("#item-words") == "headlamp" and visit.all("#item .hint") == []
    assert visit.search("qqqq") == [] and visit.all("#item .hint") == ["No title or id holds “qqqq”."]
    assert visit.search("quillby")[0].startswith("Quillby")
    total = shop.search("quillby")["total"]
    assert visit.all("#item .hint") == [f"8 of {total} shown: type more to narrow it down."]
    assert visit.cards() == before and visit.all("#message") == []


def test_a_user_of_the_data_is_judged_by_the_next_purchase(visit, shop):
    hit, miss = (
        next(user for user in shop.users if bool(shop.recommend(user=user)["bought_next"]["place"]) == wanted)
        for wanted in (True, False)
    )
    for user in (hit, miss):
        wanted = shop.recommend(user=user)
        following, counted = wanted["bought_next"], [one["id"] for one in wanted["counting"]]
        visit.open(f"?user={user}")
        assert visit.cards() == [one["id"] for one in wanted["items"]]
        assert visit.page.input_value("#user-words") == user
        verdict = visit.page.inner_text("#verdict")
        if user == hit:
            assert verdict.startswith(f"✓ Hit: what this user really bought next is number {following['place']} here.")
            assert visit.all("#cards .bought h3") == [f"{following['title']} bought next"]
        else:
            assert verdict.startswith(f"✗ Miss: this user really bought “{following['title']}” next")
            assert visit.all("#cards .bought") == []
        place = counted.index(following["id"]) + 1 if following["id"] in counted else None
        assert verdict.endswith(f"number {place}." if place else "Counting does not have it.")
        assert [line.split(" bought next")[0] for line in visit.all("#counting li")] == [
            one["title"] for one in wanted["counting"]
        ]
        assert visit.fits()
    # Who edits it is somebody else, of whom no next purchase is known.
    visit.page.get_by_role("button", name=f"Remove: {wanted['history'][0]['title']}").first.click()
    visit.settle()
    assert "user" not in visit.query() and visit.all("#verdict") == visit.all("#counting") == []
    assert visit.cards() == best(shop, [one["id"] for one in wanted["history"][1:]])

    visit.open("?user=ASAMPLEUSR")
    assert visit.all("#message") == [f"no user 'ASAMPLEUSR' in this dataset: did you mean {longest(shop)}?"]
    assert visit.cards() == [] and visit.history() == [] and visit.all("#verdict") == visit.all("#counting") == []
    assert visit.search(hit[-4:], "user")[0] == hit
    visit.page.locator("#user-list li").first.click()
    visit.settle()
    assert visit.all("#message") == [] and visit.query() == {"user": hit}
    assert visit.cards() == [one["id"] for one in shop.recommend(user=hit)["items"]]


def longest(shop):
    """The user of whom most is known, whom a search finds first."""
    return shop.search("ASAMPLEUSR", "user", 1)["found"][0]["id"]


def test_an_item_that_is_not_there_is_told(visit, shop):
    visit.open(f"?items={shop.items[0]},B0GONE")
    assert visit.all("#message") == ["no item 'B0GONE' in this catalog: search for words of its title"]
    assert visit.cards() == [] and len(visit.history()) == 2
    visit.page.get_by_role("button", name="Remove: B0GONE").click()
    visit.settle()
    assert visit.all("#message") == [] and visit.cards() == best(shop, shop.items[:1])


@pytest.mark.parametrize("width", [1280, 390])
def test_hostile_titles_stay_text(browser, serve, recommender_of, decoder_checkpoint, retitled, width):
    hostile = recommender_of(decoder_checkpoint, retitled(lambda number, title: HOSTILE[number % len(HOSTILE)]))
    explaining(hostile)
    with Visit(browser, serve(hostile), width) as visit:
        visit.open(f"?items={','.join(hostile.items[:6])}&k=12")
        titles = [hostile.titles[item] for item in hostile.items[:6]]
        assert visit.history() == titles and titles[4] == "tfel ot thgir bell"
        visit.page.locator("#cards h3").first.click()
        visit.settle()
        assert len(visit.search("alert")) == 8
        visit.page.locator("#item-list li").first.click()
        visit.settle()
        assert visit.search("<script>")
        assert visit.page.locator("main :is(img, script, style, b[onclick])").count() == 0
        # A reviewer's words are no more than text, either.
        assert "<b>it</b>" in visit.page.locator("#cards dd").nth(2).inner_text()
        assert visit.fits() and len(visit.cards()) == 12


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everybody_can_read_and_use_it(browser, url, shop, width, dark):
    from axe_playwright_python.sync_playwright import Axe

    with Visit(browser, url, width, dark) as visit:
        measured = []

        def judge():
            found = Axe().run(visit.page, options=RULES).response
            assert not found["violations"], [
                (rule["id"], node["html"], node["any"][:1]) for rule in found["violations"] for node in rule["nodes"]
            ]
            contrast = next(rule for rule in found["passes"] if rule["id"] == "color-contrast")
            measured.extend(node["any"][0]["data"]["contrastRatio"] for node in contrast["nodes"])
            edges = visit.page.evaluate(EDGES)
            assert edges and min(edges) >= 3, edges

        visit.open(f"?user={shop.users[0]}")
        background = visit.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (int(background.split("(")[1].split(",")[0]) < 60) == dark
        visit.page.locator("#cards h3").first.click()
        visit.settle()
        judge()
        visit.search("zzz")
        visit.search("headlmap")
        visit.page.keyboard.press("ArrowDown")
        judge()
        visit.open("?user=nobody")
        judge()
        assert min(measured) >= 4.5 and len(measured) > 60


@pytest.mark.parametrize("width", [1280, 390])
def test_the_keyboard_alone_is_enough(browser, url, shop, width):
    with Visit(browser, url, width) as visit:
        keys, page = visit.page.keyboard, visit.page

        def tab_to(name: str) -> None:
            for _ in range(80):
                keys.press("Tab")
                if page.evaluate("() => document.activeElement === document.body"):
                    continue  # from the end to the start
                label = page.evaluate("() => document.activeElement.ariaLabel || document.activeElement.textContent")
                outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"the focus on {label} cannot be seen"
                if label.startswith(name):
                    return
            raise AssertionError(f"no Tab leads to {name}")

        visit.open()
        tab_to("Just me")
        keys.press("Enter")
        visit.settle()
        chosen = []
        for words in ("headlamp", "daypack"):
            assert page.evaluate("() => document.activeElement.id") == "item-words"
            visit.search(words)
            keys.press("ArrowDown")
            keys.press("ArrowDown")
            option = page.locator("#item-list [aria-selected=true]")
            assert page.get_attribute("#item-words", "aria-activedescendant") == option.get_attribute("id")
            chosen.append(option.inner_text().rpartition("(")[2].rstrip(")"))
            keys.press("Enter")
            visit.settle()
        assert visit.history() == [shop.titles[item] for item in chosen]
        visit.search("head")
        keys.press("Escape")
        assert visit.all("#item-list li") == []
        page.evaluate("() => document.activeElement.blur()")
        tab_to(f"Earlier: {shop.titles[chosen[1]]}")
        keys.press("Enter")
        visit.settle()
        assert visit.history() == [shop.titles[item] for item in reversed(chosen)]
        focused = page.evaluate("() => document.activeElement.ariaLabel")
        assert focused == f"Later: {shop.titles[chosen[1]]}"  # it cannot go further up
        tab_to("Remove")
        keys.press("Space")
        visit.settle()
        assert visit.history() == [shop.titles[chosen[0]]]
        tab_to("Evidence and what-ifs")
        keys.press("Enter")
        visit.settle()
        assert page.evaluate("() => document.activeElement.getAttribute('aria-expanded')") == "true"
        assert len(visit.all(".what-if li")) == 1


def test_without_titles_the_page_says_how_they_come(browser, serve, recommender_of, decoder_checkpoint, retitled):
    plain = recommender_of(decoder_checkpoint, retitled(lambda number, title: None))
    with Visit(browser, serve(plain)) as visit:
        visit.open()
        assert visit.all("#tastes button")[:3] == ["Example 1", "Example 2", "Example 3"]
        assert visit.history() == plain.about()["tastes"][0]["items"]
        assert visit.all("#cards h3") == visit.cards()
        assert "--items FILE" in visit.page.inner_text("#no-titles")
        assert visit.search(plain.items[3].lower())[0] == plain.items[3]
        # The code of this checkpoint has no reasons for visitors.
        assert "No review says enough of it for a reason." in visit.page.inner_text("#cards")


def test_a_model_of_the_papers_kind_answers_for_users(browser, serve, recommender_of, tiny_checkpoint, sample_dir):
    paper = recommender_of(tiny_checkpoint, sample_dir)
    with Visit(browser, serve(paper)) as visit:
        visit.open()
        assert visit.all("#tastes button") == ["A user of the data"]
        user, wanted = paper.users[0], paper.recommend(user=paper.users[0])
        assert visit.cards() == [one["id"] for one in wanted["items"]]
        # What it offers and what the user likes stand before why the two go together.
        assert visit.all("#cards dd")[2] == paper.model.explain(paper.tokenizer, user, wanted["items"][0]["id"])
        visit.page.get_by_role("button", name="Remove").first.click()
        visit.settle()
        shorter = [one["id"] for one in wanted["history"][1:]]
        assert visit.query() == {"user": user, "items": ",".join(shorter)}
        assert visit.cards() == [one["id"] for one in paper.recommend(shorter, user)["items"]]
