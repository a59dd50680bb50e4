"use strict";
(() => {
  const videos = JSON.parse(document.getElementById("videos").textContent);
  const stepsPerSecond = Number(document.body.dataset.stepsPerSecond);

  const ready = new WeakSet();  // a page that follows a run gets articles and a table later too

  // Two videos of one case, one clock: the longer one leads, and the shorter one stays at its last picture.
  function synchronize(article) {
    const play = article.querySelector(".play");
    if (!play || ready.has(article)) return;
    ready.add(article);
    const screens = [...article.querySelectorAll("video")];
    const slider = article.querySelector("input[type=range]");
    const shown = article.querySelector("output");
    const steps = Number(article.dataset.steps);
    let leader = null, loading = null, timer = 0;

    if (article.dataset.parts !== "") {
      const mark = article.querySelector(".mark");
      mark.style.left = `${(100 * Number(article.dataset.parts)) / Math.max(steps, 1)}%`;
      mark.hidden = false;
    }
    // A picture is shown from its step until the next one.
    const stepAt = (seconds) => Math.min(Math.floor(seconds * stepsPerSecond + 0.01), steps);
    function tell(step) {
      shown.textContent = `step ${step} of ${steps}`;
      for (const screen of screens) {
        const figure = screen.closest("figure"), last = Number(figure.dataset.steps);
        figure.querySelector(".at").textContent = step < last ? `, now at step ${step}` : ", over";
      }
    }
    // Once, however often it is asked for: to begin again would throw away what is there, and finish out of turn. Only
    // what failed is begun again: a server may be back.
    function load() {
      loading ??= loadBoth().catch((error) => { loading = null; throw error; });
      return loading;
    }
    function loadBoth() {
      const loaded = screens.map((screen) => new Promise((resolve, reject) => {
        if (screen.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) return resolve();
        screen.addEventListener("loadeddata", resolve, { once: true });
        screen.addEventListener("error", reject, { once: true });
        screen.preload = "auto";
        screen.src ||= `data:video/mp4;base64,${videos[article.dataset.pair][screen.dataset.who]}`;
        return screen.load();
      }));
      return Promise.all(loaded).then(() => {
        leader = screens.reduce((one, other) => (other.duration > one.duration ? other : one));
        leader.addEventListener("ended", stop);
      });
    }
    function seek(step) {
      // The middle of a picture: at its edge, rounding may show the one before.
      for (const screen of screens) screen.currentTime = Math.min((step + 0.5) / stepsPerSecond, screen.duration);
      slider.value = step;
      tell(step);
    }
    function follow() {
      const step = stepAt(leader.currentTime);
      slider.value = step;
      tell(step);
      for (const screen of screens) {
        const wanted = Math.min(leader.currentTime, screen.duration);
        if (screen !== leader && Math.abs(screen.currentTime - wanted) > 0.1) screen.currentTime = wanted;
      }
      timer = requestAnimationFrame(follow);
    }
    function stop() {
      cancelAnimationFrame(timer);
      for (const screen of screens) screen.pause();
      play.textContent = "Play";
    }
    function start() {
      if (leader.ended || Number(slider.value) >= steps) seek(0);
      for (const screen of screens) if (screen.currentTime < screen.duration) screen.play();
      play.textContent = "Pause";
      follow();
    }
    const broken = () => { shown.textContent = "this browser cannot play the video"; };
    play.addEventListener("click", () => load().then(() => (play.textContent === "Play" ? start() : stop())).catch(broken));
    slider.addEventListener("input", () => load().then(() => { stop(); seek(Number(slider.value)); }).catch(broken));
    article.querySelector(".seek")?.addEventListener("click", () =>
      load().then(() => { stop(); seek(Number(article.dataset.parts)); }).catch(broken));
  }

  function tabulate(table) {
    if (ready.has(table)) return;
    ready.add(table);
    const body = table.tBodies[0];
    const outcome = document.getElementById("outcome");
    const search = document.getElementById("search");
    const count = document.getElementById("count");

    function filter() {
      const wanted = search.value.trim().toLowerCase();
      let left = 0;
      for (const row of body.rows) {
        const fits = (!outcome.value || row.dataset.outcome === outcome.value)
          && (!wanted || row.textContent.toLowerCase().includes(wanted));
        row.hidden = !fits;
        left += fits;
      }
      const all = body.rows.length;
      count.textContent = left === all ? `${left} pairs` : `${left} of ${all} pairs`;
    }
    outcome.addEventListener("change", filter);
    search.addEventListener("input", filter);
    document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());

    const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    function sort() {
      const head = table.tHead.querySelector("[aria-sort]");
      if (!head) return;
      const down = head.getAttribute("aria-sort") === "descending";
      const order = (one, other) => value(one, head.cellIndex).localeCompare(value(other, head.cellIndex), "en", { numeric: true });
      body.append(...[...body.rows].sort((one, other) => (down ? -order(one, other) : order(one, other))));
    }
    table.tHead.querySelectorAll("button").forEach((button) => {
      const head = button.closest("th");
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort();
      });
    });
    table.addEventListener("refreshed", () => { sort(); filter(); });

    const player = document.getElementById("player");
    body.addEventListener("click", (event) => {
      const button = event.target.closest("button.watch");
      if (!button) return;
      const id = button.closest("tr").dataset.row;
      const template = document.querySelector(`template[data-of="${id}"]`);
      player.replaceChildren(template.content.cloneNode(true));
      player.hidden = false;
      synchronize(player.querySelector("article"));
      player.scrollIntoView({ block: "nearest" });
      player.focus({ preventScroll: true });
      player.querySelector(".play").click();
    });
  }

  function begin() {
    document.querySelectorAll("article.pair").forEach(synchronize);
    const table = document.getElementById("all");
    if (!table) return;
    tabulate(table);
    table.dispatchEvent(new Event("refreshed"));
  }
  document.addEventListener("refreshed", begin);
  begin();
})();
