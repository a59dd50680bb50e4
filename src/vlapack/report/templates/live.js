"use strict";
// Follows a run: the server says when there is more, and what has changed on the page is exchanged. What the reader did
// (scrolled, opened, sorted, typed) is not the server's, so two of its pages are compared, and only the differences
// between them are carried out here.
(() => {
  const SILENCE = 15_000;
  const ROOTS = ["header", "main"];
  const WHOLE = new Set(["svg", "article"]);  // exchanged as one: a chart, and a pair of videos with its controls
  const says = document.getElementById("says");
  const heard = document.getElementById("heard");
  const news = document.getElementById("news");  // read aloud: only what is no mere progress
  const box = document.getElementById("live");
  let before = ROOTS.map((name) => document.querySelector(name).cloneNode(true));
  let version = document.body.dataset.version;
  let state = null, lastHeard = Date.now(), loading = false;

  const own = (element) => element.id || element.dataset?.pair || element.dataset?.row
    || (element.localName === "option" ? element.value : "");
  function named(parent) {
    const count = {}, found = new Map();
    for (const child of parent.children) {
      const name = own(child) || `${child.localName} ${(count[child.localName] = (count[child.localName] ?? 0) + 1)}`;
      found.set(name, child);
    }
    return found;
  }
  const alike = (one, other) => one.childNodes.length === other.childNodes.length
    && [...one.childNodes].every((child, place) => child.nodeName === other.childNodes[place].nodeName);
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());

  // Turn `node`, which was `old` when the server sent it, into `next`.
  function exchange(node, old, next) {
    if (old.isEqualNode(next)) return;
    if (next.nodeType !== Node.ELEMENT_NODE) {
      node.data = next.data;
      return;
    }
    if (WHOLE.has(next.localName) || old.localName !== next.localName) {
      node.replaceWith(document.importNode(next, true));
      return;
    }
    for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) node.setAttribute(name, value);
    for (const { name } of old.attributes) if (!next.hasAttribute(name)) node.removeAttribute(name);
    if (hasText(old) || hasText(next)) {
      if (alike(old, next) && alike(node, next)) {
        [...node.childNodes].forEach((child, place) => exchange(child, old.childNodes[place], next.childNodes[place]));
        return;
      }
      node.replaceChildren(...[...next.childNodes].map((child) => document.importNode(child, true)));
      return;
    }
    const here = named(node), were = named(old), wanted = named(next);
    for (const name of were.keys()) if (!wanted.has(name)) here.get(name)?.remove();
    let place = node.firstElementChild;
    for (const [name, child] of wanted) {
      const mine = here.get(name);
      if (!mine || !were.has(name)) {
        node.insertBefore(document.importNode(child, true), place);
        continue;
      }
      if (mine === place) place = place.nextElementSibling;
      else node.insertBefore(mine, place);  // it was moved: by the server, or by the reader who sorts
      exchange(mine, were.get(name), child);
    }
  }

  async function load() {
    if (loading) return;
    loading = true;
    try {
      const answer = await fetch("./", { cache: "no-store" });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const next = ROOTS.map((name) => page.querySelector(name));
      const focused = document.activeElement;
      ROOTS.forEach((name, place) => exchange(document.querySelector(name), before[place], next[place]));
      before = next;
      version = page.body.dataset.version;
      document.dispatchEvent(new Event("refreshed"));
      if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    } catch {
      // The server is gone or busy; its next event asks again.
    } finally {
      loading = false;
    }
  }

  function set(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }
  const clock = (milliseconds) => new Date(milliseconds).toLocaleTimeString();
  function show() {
    if (Date.now() - lastHeard > SILENCE) {
      const gone = "The server does not answer.";
      set(says, `${gone} This is what it said last; the same vlapack watch command starts it again.`);
      set(heard, `Last heard at ${clock(lastHeard)}.`);
      set(news, gone);
      box.className = "bad";
      return;
    }
    if (!state) return;
    const last = state.heard === null ? "" : ` The last episode ended at ${clock(1000 * state.heard)}.`;
    set(says, state.says);
    set(heard, `Last heard at ${clock(lastHeard)}.${last}${state.errors === null ? "" : ` ${state.errors}.`}`);
    set(news, state.state);
    box.className = state.tone;
    document.title = state.title;
    const rows = box.querySelector("tbody").rows;
    if (rows.length !== state.rows.length) return location.reload();  // another run, of the same name
    state.rows.forEach((cells, row) => cells.forEach((text, cell) => set(rows[row].cells[cell], text)));
  }

  const source = new EventSource("events");
  source.addEventListener("message", (event) => {
    state = JSON.parse(event.data);
    lastHeard = Date.now();
    show();
    if (state.version !== version) load();
  });
  setInterval(show, 1000);
})();
