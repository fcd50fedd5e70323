// The page over the Space's API: whose taste it is stands in the address, everything else is asked for.
// Titles and sentences are only ever set as text, so whatever they hold stays text.

const FIRST = 8, MORE = 8, MOST = 48;
const $ = (id) => document.getElementById(id);

/** An element with properties and children; a string is text. */
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** What the API answers; an Error carries its one line for the visitor. */
async function ask(name, given) {
  const url = `gradio_api/call/v2/${name}`;
  const joined = await fetch(url, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(given),
  });
  if (!joined.ok) throw new Error("The server does not answer: load the page again in a moment.");
  const { event_id } = await joined.json();
  const text = await (await fetch(`${url}/${event_id}`)).text();
  const [, event, data] = text.match(/event: (complete|error)\ndata: (.*)/) ?? [];
  if (event === "complete") return JSON.parse(data)[0];
  throw new Error((data && JSON.parse(data)?.error) || "The server could not answer: load the page again in a moment.");
}

// --- the state, which is the address ---------------------------------------------------------------------------------

let about, first;
const theme = new URLSearchParams(location.search).get("__theme"); // as the Hub asks every Gradio page for one
// Items of the history (null: the user's own), the user, how many cards, and the item whose card is open.
let state = { items: [], user: null, k: FIRST, open: null };
const titles = new Map();
const title = (id) => titles.get(id) ?? id;

function read() {
  const given = new URLSearchParams(location.search);
  if (!["items", "user"].some((name) => given.has(name))) return { ...first, k: FIRST, open: null };
  return {
    items: given.has("items") ? given.get("items").split(",").filter(Boolean) : null,
    user: given.get("user"),
    k: Math.min(MOST, Math.max(1, parseInt(given.get("k")) || FIRST)),
    open: given.get("open"),
  };
}

function write(keep) {
  const given = new URLSearchParams();
  if (state.user) given.set("user", state.user);
  if (state.items) given.set("items", state.items.join(","));
  if (state.k !== FIRST) given.set("k", state.k);
  if (state.open) given.set("open", state.open);
  if (theme) given.set("__theme", theme);
  const address = `?${given.toString().replaceAll("%2C", ",")}`;
  if (address === location.search) return;
  history[keep ? "pushState" : "replaceState"](null, "", address);
  // On the Hub the page stands in a frame; the Hub puts this into the address that visitors see.
  if (parent !== window) parent.postMessage({ queryString: address }, "https://huggingface.co");
}

/** Go on with other items or another user; who edits a user's history is somebody else, where the model allows it. */
function change(changed) {
  state = { ...state, open: null, ...changed };
  if (changed.items && !("user" in changed) && !about.reads_users) state.user = null;
  write(true);
  return update();
}

// --- history ---------------------------------------------------------------------------------------------------------

let bought = []; // the history as it is shown, the user's own as well

function showTastes() {
  const buttons = about.tastes.map((taste) => ({ name: taste.name, on: same(taste.items), to: { items: taste.items, user: null } }));
  buttons.push({ name: "Just me", on: !state.user && !about.tastes.some((taste) => same(taste.items)), to: { items: [], user: null } });
  const user = { name: "A user of the data", on: Boolean(state.user), to: { items: null, user: about.first_user } };
  $("tastes").replaceChildren(...(about.reads_users ? [user] : [...buttons, user]).map(({ name, on, to }) =>
    el("button", {
      type: "button", textContent: name, "aria-pressed": String(on),
      onclick: () => {
        change({ ...to, k: FIRST });
        const again = [...$("tastes").children].find((button) => button.textContent === name);
        (name === "Just me" ? $("item-words") : again).focus({ preventScroll: true });
      },
    })));
  $("user").hidden = !state.user;
  if (document.activeElement !== $("user-words")) $("user-words").value = state.user ?? "";
}

const same = (items) => !state.user && String(items) === String(state.items);

function showHistory() {
  const list = $("history"), grew = bought.length > list.children.length;
  const atEnd = grew || list.scrollTop + list.clientHeight >= list.scrollHeight - 2;
  $("no-history").hidden = bought.length > 0;
  const button = (what, sign, place, able, act) => el("button", {
    type: "button", textContent: sign, disabled: !able, title: what, "aria-label": `${what}: ${title(bought[place])}`,
    onclick: act,
  });
  const moved = (from, to) => async () => {
    const items = [...bought];
    items.splice(to, 0, ...items.splice(from, 1));
    const sign = from > to ? 0 : 1;
    change({ items });
    const buttons = $("history").children[to].querySelectorAll("button");
    (buttons[sign].disabled ? buttons[1 - sign] : buttons[sign]).focus();
  };
  $("history").replaceChildren(...bought.map((id, place) => el("li", {},
    el("span", { textContent: title(id) }),
    button("Earlier", "↑", place, place > 0, moved(place, place - 1)),
    button("Later", "↓", place, place < bought.length - 1, moved(place, place + 1)),
    button("Remove", "×", place, true, () => {
      change({ items: bought.filter((_, other) => other !== place) });
      const next = $("history").children[Math.min(place, bought.length - 1)];
      (next ? next.querySelector("button:last-child") : $("item-words")).focus();
    }),
  )));
  if (atEnd) list.scrollTop = list.scrollHeight;
}

// --- recommendations -------------------------------------------------------------------------------------------------

let turn = 0; // an answer to what was asked before is not shown
let shown = null; // the last answer of `recommend`
let told = new Map(); // of each shown item, what `explain` answered

async function update() {
  const mine = ++turn;
  if (state.items) bought = state.items;
  showTastes();
  showHistory();
  $("cards").setAttribute("aria-busy", "true");
  $("message").hidden = true;
  try {
    const asked = { history: state.items, user: state.user };
    const answer = await ask("recommend", { ...asked, k: state.k });
    if (mine !== turn) return;
    for (const { id, title } of [...answer.history, ...answer.items, ...(answer.counting ?? []), answer.bought_next ?? {}]) {
      titles.set(id, title);
    }
    shown = answer;
    told = new Map();
    bought = answer.history.map(({ id }) => id);
    const focused = [...$("history").querySelectorAll("button")].indexOf(document.activeElement);
    showHistory();
    if (focused >= 0) $("history").querySelectorAll("button")[focused]?.focus();
    showResults();
    const known = await ask("explain", { ...asked, history: bought, items: answer.items.map(({ id }) => id) });
    if (mine !== turn) return;
    told = new Map(known.map((one) => [one.id, one]));
    for (const card of $("cards").children) fill(card);
  } catch (error) {
    if (mine !== turn) return;
    // What was shown is not an answer to this.
    shown = null;
    if (!state.items) bought = [];
    showHistory();
    for (const id of ["cards", "counting"]) (id === "cards" ? $(id) : $(id).querySelector("ol")).replaceChildren();
    for (const id of ["counting", "verdict", "more"]) $(id).hidden = true;
    $("status").textContent = "";
    $("message").textContent = error.message;
    $("message").hidden = false;
  } finally {
    if (mine === turn) $("cards").removeAttribute("aria-busy");
  }
}

const percent = (chance) => (chance < 0.001 ? "<0.1%" : `${(100 * chance).toFixed(chance < 0.0995 ? 1 : 0)}%`);

function showResults() {
  const { items, bought_next: next, counting } = shown;
  $("status").textContent = items.length
    ? `${items.length} of ${about.items.toLocaleString("en")} items, most likely first.` : "Nothing is left to recommend.";
  const counted = (counting ?? []).findIndex(({ id }) => id === next?.id) + 1;
  $("verdict").hidden = !next;
  $("verdict").className = next?.place ? "hit" : "miss";
  $("verdict").textContent = !next ? "" : (next.place
    ? `✓ Hit: what this user really bought next is number ${next.place} here.`
    : `✗ Miss: this user really bought “${next.title}” next, which is not among these ${items.length}.`)
    + " The model had not seen that purchase."
    + (counted ? ` Counting has it at number ${counted}.` : " Counting does not have it.");
  $("cards").replaceChildren(...items.map(card));
  for (const one of $("cards").children) if (one.dataset.item === state.open) toggle(one, true);
  $("more").hidden = items.length < state.k || state.k >= MOST;
  $("counting").hidden = !counting;
  $("results").classList.toggle("with-counting", Boolean(counting));
  $("counting").querySelector("ol").replaceChildren(...(counting ?? []).map(({ id, title }) =>
    el("li", {}, title, ...(id === next?.id ? [" ", badge("bought next")] : []))));
}

const badge = (text) => el("span", { className: "badge", textContent: text });

function card({ id, title, chance }, place) {
  const bar = el("i");
  bar.style.width = `${100 * chance / shown.items[0].chance}%`;
  const why = el("button", {
    type: "button", className: "why", textContent: "Evidence and what-ifs", "aria-expanded": "false",
    "aria-controls": `more-${place}`, "aria-label": `Evidence and what-ifs: ${title}`,
  });
  const made = el("li", { className: shown.bought_next?.id === id ? "bought" : "" },
    el("div", { className: "head" },
      el("span", { className: "place", textContent: place + 1 }),
      el("h3", {}, title, ...(shown.bought_next?.id === id ? [" ", badge("bought next")] : [])),
      el("span", { className: "chance", textContent: percent(chance) }),
      el("div", { className: "bar", "aria-hidden": "true" }, bar),
      el("div", { className: "told" }, el("p", { className: "hint", textContent: "Reading what is known of it…" })),
      el("div", { className: "acts" }, why, el("button", {
        type: "button", textContent: "Add to history", "aria-label": `Add to history: ${title}`,
        onclick: (event) => { event.stopPropagation(); change({ items: [...bought, id] }); $("results-title").focus(); },
      }))),
    el("div", { className: "more", id: `more-${place}`, hidden: true }));
  made.dataset.item = id;
  made.querySelector(".head").onclick = () => {
    const opens = made.querySelector(".more").hidden;
    for (const other of $("cards").children) if (other !== made) toggle(other, false);
    toggle(made, opens);
    state.open = opens ? id : null;
    write(false);
  };
  return made;
}

/** The three voices of a card, once they are known. */
function fill(made) {
  const known = told.get(made.dataset.item);
  const lines = [["It offers", known.item_attributes], [state.user ? "They like" : "You like", known.user_preference],
    [state.user ? "Why" : "Why you", known.explanation]].filter(([, text]) => text);
  made.querySelector(".told").replaceChildren(lines.length
    ? el("dl", {}, ...lines.flatMap(([what, text]) => [el("dt", { textContent: what }), el("dd", { textContent: text })]))
    : el("p", { className: "hint", textContent: "No review says enough of it for a reason." }));
  if (!made.querySelector(".more").hidden) showEvidence(made);
}

function toggle(made, open) {
  const more = made.querySelector(".more");
  if (open === !more.hidden) return;
  more.hidden = !open;
  made.querySelector(".why").setAttribute("aria-expanded", String(open));
  if (!open) return;
  more.replaceChildren(el("div", { className: "evidence" }), el("div", { className: "what-if" }));
  if (told.has(made.dataset.item)) showEvidence(made);
  showWhatIf(made);
}

function showEvidence(made) {
  const { evidence, explanation, source, support } = told.get(made.dataset.item);
  const of = (about) => evidence.filter((one) => one.about === about).map(({ text, also }) => el("blockquote", {},
    el("p", { textContent: text }),
    also.length
      ? el("details", {}, el("summary", { textContent: "Also in that review" }), ...also.map((one) => el("p", { textContent: one })))
      : null));
  const parts = [["Said of this item", of("item")], [state.user ? "Said of what they bought" : "Said of what you chose", of("user")]];
  const origin = !explanation ? null : el("p", { className: "hint", textContent:
    (source === "evidence" ? "The reason is a reviewer’s own sentence." : "The reason was written by the model.")
    + (!evidence.length ? "" : ` Other evidence shares ${Math.round(100 * support)}% of what it says.`) });
  made.querySelector(".evidence").replaceChildren(
    el("h4", { textContent: "What the sentences rest on" }),
    ...(evidence.length ? [] : [el("p", { className: "hint", textContent: "No sentence of a review is kept for them." })]),
    ...parts.flatMap(([what, quotes]) => (quotes.length ? [el("p", { className: "hint", textContent: what }), ...quotes] : [])),
    ...(origin ? [origin] : []));
}

const nth = (place) => `${place}${["th", "st", "nd", "rd"][place % 100 > 10 && place % 100 < 14 ? 0 : place % 10] ?? "th"}`;

async function showWhatIf(made) {
  const box = made.querySelector(".what-if"), mine = turn, item = made.dataset.item;
  const place = shown.items.findIndex(({ id }) => id === item), chance = shown.items[place].chance;
  box.replaceChildren(el("h4", { textContent: "What if one item of the history were not there?" }));
  if (!bought.length) return box.append(el("p", { className: "hint", textContent: "The history is empty." }));
  const waiting = el("p", { className: "hint", role: "status", textContent: "Asking the model again…" });
  box.append(waiting);
  try {
    const answers = await ask("without", { item, history: bought, user: state.user, k: state.k });
    if (mine !== turn) return;
    answers.sort((one, other) => (one.chance ?? 0) - (other.chance ?? 0));
    waiting.replaceWith(el("ul", {}, ...answers.map((one) => {
      const to = one.place === null ? `falls out of the ${state.k}`
        : one.place === place + 1 ? `stays ${nth(one.place)}` : `${one.place > place + 1 ? "falls" : "rises"} to ${nth(one.place)}`;
      const change = one.chance === null ? "" : `, ${percent(chance)} → ${percent(one.chance)}`;
      const way = to.startsWith("falls") ? "falls" : to.startsWith("rises") ? "rises" : "";
      return el("li", {}, el("span", { textContent: `Without ${one.title}` }), el("b", { className: way, textContent: to + change }));
    })));
  } catch (error) {
    if (mine === turn) waiting.textContent = error.message;
  }
}

// --- search ----------------------------------------------------------------------------------------------------------

/** A field with a list of what its words find; `pick` gets the chosen id. */
function combobox(kind, nothing, pick) {
  const field = $(`${kind}-words`), list = $(`${kind}-list`), hint = $(kind).querySelector(".hint");
  let at = -1, asked = 0, timer;

  const close = () => {
    list.hidden = true;
    at = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };
  const select = (place) => {
    const options = [...list.children];
    if (!options.length) return;
    at = (place + options.length) % options.length;
    options.forEach((option, other) => option.setAttribute("aria-selected", String(other === at)));
    field.setAttribute("aria-activedescendant", options[at].id);
    options[at].scrollIntoView({ block: "nearest" });
  };
  const search = async () => {
    // What is chosen already is not searched for: then, as without words, the list begins with what is bought most.
    const mine = ++asked, words = field.value === state[kind] ? "" : field.value.trim();
    hint.textContent = "";
    let answer;
    try {
      answer = await ask("search", { words, kind });
    } catch (error) {
      answer = { found: [], total: 0, failed: error.message };
    }
    if (mine !== asked) return;
    field.removeAttribute("aria-busy");
    const { found, total, did_you_mean: meant, failed } = answer;
    const option = (text, act) => el("li", { role: "option", textContent: text, "aria-selected": "false", onclick: act });
    const options = found.map(({ id, title }) => option(title === id ? id : `${title} (${id})`, () => {
      titles.set(id, title);
      field.value = "";
      hint.textContent = "";
      close();
      pick(id);
    }));
    if (meant) {
      options.push(option(`Did you mean “${meant}”?`, () => {
        field.value = meant;
        field.focus();
        field.setAttribute("aria-busy", "true");
        search();
      }));
    }
    options.forEach((made, place) => { made.id = `${kind}-option-${place}`; });
    list.replaceChildren(...options);
    list.hidden = !options.length;
    field.setAttribute("aria-expanded", String(options.length > 0));
    at = -1;
    field.removeAttribute("aria-activedescendant");
    hint.textContent = failed ?? (!total ? `${nothing} “${words}”.` : words && total > found.length ? `${found.length} of ${total} shown: type more to narrow it down.` : "");
  };

  field.addEventListener("input", () => {
    clearTimeout(timer);
    field.setAttribute("aria-busy", "true");
    timer = setTimeout(search, 120);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) search();
      else select(event.key === "ArrowDown" ? at + 1 : at < 0 ? -1 : at - 1);
    } else if (event.key === "Enter" && !list.hidden) {
      event.preventDefault();
      list.children[Math.max(at, 0)].click();
    } else if (event.key === "Escape") {
      close();
    }
  });
  field.addEventListener("click", () => list.hidden && search());
  field.addEventListener("blur", () => {
    clearTimeout(timer);
    asked++;
    field.removeAttribute("aria-busy");
    close();
  });
  // A click on an option must not take the focus off the field before it counts.
  list.addEventListener("pointerdown", (event) => event.preventDefault());
}

// --- start -----------------------------------------------------------------------------------------------------------

function showAbout() {
  const { model, dataset, quality } = about;
  const round = (hits) => (hits < 9.95 ? hits.toFixed(1) : hits.toFixed(0));
  const names = { transitions: "counting what followed what", popularity: "recommending the most popular items to everybody", random: "guessing" };
  const others = Object.entries(names).filter(([name]) => name in (quality?.hits ?? {})).map(([name, what]) => `${what} ${round(quality.hits[name])}`);
  $("quality").textContent = quality
    ? `Measured on ${(quality.queries ?? 0).toLocaleString("en")} purchases that it had not seen: in ${round(quality.hits.model)} of 100 cases the item that was bought next is among its first ten of ${about.items.toLocaleString("en")}.`
      + (others.length ? ` Out of 100: ${others.join(", ")}.` : "")
    : "Not measured: no results of eval.py lie beside this model.";
  $("no-titles").hidden = about.has_titles;
  $("item-words").placeholder = about.has_titles ? "Words of a title" : "Part of an id";
  const link = (what, { name, url }) => (url ? el("a", { href: url, textContent: `${what}: ${name}`, rel: "noopener" }) : el("span", { textContent: `${what}: ${name} (on this machine)  ` }));
  $("links").replaceChildren(
    link("Paper", { name: "RDRec, ACL 2024", url: "https://arxiv.org/abs/2405.10587" }), link("Model", model), link("Dataset", dataset));
}

async function start() {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  try {
    about = await ask("about", {});
  } catch (error) {
    $("status").textContent = error.message;
    return;
  }
  first = about.reads_users || !about.tastes.length ? { items: about.reads_users ? null : [], user: about.reads_users ? about.first_user : null }
    : { items: about.tastes[0].items, user: null };
  state = read();
  showAbout();
  combobox("item", about.has_titles ? "No title or id holds" : "No id holds", (id) => { change({ items: [...bought, id] }); $("item-words").focus(); });
  combobox("user", "No user’s id holds", (id) => { $("user-words").blur(); change({ user: id, items: null }); });
  $("show").onclick = () => { $("results-title").focus({ preventScroll: true }); $("results").scrollIntoView(); };
  $("more").onclick = async () => { const place = state.k; await change({ k: Math.min(MOST, state.k + MORE), open: state.open }); $("cards").children[place]?.querySelector(".why").focus(); };
  window.onpopstate = () => { state = read(); update(); };
  update();
}

start();
