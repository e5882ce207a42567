// Downloads: a button in each unit that opens the list of published control models, and one beside
// the sentence that says that a preprocessor lacks its files.
//
// A classic script without globals. Everything is built when it is first asked for, from the routes
// that docs/panel.md describes; the page asks for nothing before somebody presses a button or a unit
// says that files are missing.
(() => {
  "use strict";

  /** What the button does, by the state of a download; names of texts. */
  const ACTIONS = {
    none: "download_start",
    waiting: "download_stop",
    running: "download_stop",
    stopping: "download_ends",
    failed: "download_retry",
    stopped: "download_resume",
  };
  /** What is said of a state; a text's name. */
  const STATES = { waiting: "download_waits", stopping: "download_ends", stopped: "download_stopped" };
  const OPEN_STATES = ["waiting", "running", "stopping"];
  /** Milliseconds between two looks at what is under way. */
  const POLLING = 700;
  /** The WebUI's own name for all control types. */
  const ALL = "All";

  const { findAll, follow, set, word } = window.controlnetPanel.page;
  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const amount = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(1)} MB`);

  /** The answer of one of our routes; an error has the server's sentence. */
  async function ask(route, body) {
    const sent = body && {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    };
    let answer;
    try {
      answer = await fetch(`./controlnet/${route}`, sent);
    } catch {
      throw new Error(word("download_lost"));
    }
    const content = await answer.json().catch(() => ({}));
    if (answer.ok) return content;
    if (typeof content.detail === "string") throw new Error(content.detail);
    throw new Error(`${word("download_lost")} (${answer.status})`);
  }

  // --- what is under way ---------------------------------------------------------------------

  /** Downloads by id, as the server told of them last. */
  let known = new Map();
  /** Ids of what was ordered here and is not over. */
  const expected = new Set();
  /** File name of a model -> the unit that it was ordered for. */
  const orderedFor = new Map();
  /** Why an order was refused, by what was ordered. */
  const refusals = new Map();

  const isOpen = (item) => OPEN_STATES.includes(item?.state);
  let polling = null;

  function learn(content) {
    const before = known;
    known = new Map(content.downloads.map((item) => [item.id, item]));
    for (const [id, item] of known) {
      if ((isOpen(before.get(id)) || expected.has(id)) && !isOpen(item)) finish(item);
    }
    const isBusy = content.downloads.some(isOpen);
    if (isBusy && !polling) polling = setTimeout(look, POLLING);
    show();
  }

  async function look() {
    polling = null;
    try {
      learn(await ask("downloads"));
    } catch (error) {
      announce(error.message);
      if ([...known.values()].some(isOpen)) polling = setTimeout(look, 4 * POLLING);
    }
  }

  /** A download is over: lists and notes say so, and a unit without a model gets what it asked for. */
  function finish(item) {
    expected.delete(item.id);
    if (item.state !== "done") {
      announce(word("download_failed", { name: item.name })); // why, its row says
      return;
    }
    announce(word("download_done", { name: item.name }));
    for (const model of models) if (idOf(model) === item.id) model.present = true;
    const unit = orderedFor.get(item.name);
    if (unit) unit.dataset.brought = item.name;
    orderedFor.delete(item.name);
    for (const one of findAll(".cnet-unit")) {
      if (one.dataset.offers || one === unit) window.controlnetPanel.offerModels(one);
    }
  }

  /** Start or stop; `key` is what a refusal is told of. */
  async function order(key, route, body) {
    refusals.delete(key);
    try {
      const content = await ask(route, body);
      for (const id of content.started ?? []) expected.add(id);
      learn(content);
    } catch (error) {
      refusals.set(key, error.message);
      announce(word("download_failed", { name: key }));
      show();
    }
  }

  /** How far a download is, in words; "" for none. */
  function describe(item) {
    if (!item || item.state === "done") return "";
    if (item.state === "failed") return item.message;
    if (item.state !== "running") return word(STATES[item.state]);
    if (!item.size || !item.done) return item.message || word("download_connects");
    const far = { done: amount(item.done), size: amount(item.size), rate: amount(item.rate) };
    return item.rate ? word("download_far_rate", far) : word("download_far", far);
  }

  function showProgress(bar, item) {
    const counts = isOpen(item) && item.size > 0;
    set(bar, "hidden", !counts);
    if (!counts) return;
    set(bar, "max", item.size);
    set(bar, "value", item.done);
  }

  // --- preprocessors -------------------------------------------------------------------------

  /** Whether the server has been asked what is under way; it may have been ordered on an earlier page. */
  let hasLooked = false;

  /** Fill what the server has put beside a sentence about missing files. */
  function fillFetch(place) {
    const { module, size } = place.dataset;
    if (!place.firstChild) {
      const button = make("button", "", "cnet-fetch-button");
      button.type = "button";
      const bar = make("progress");
      bar.setAttribute("aria-label", module);
      const line = make("span", "", "cnet-fetch-line");
      button.addEventListener("click", () => {
        const open = itemsOf(place).filter(isOpen);
        if (!open.length) order(module, "downloads", { module });
        for (const item of open) order(module, "downloads/stop", { id: item.id });
      });
      place.append(button, bar, line);
      if (!hasLooked) look();
      hasLooked = true;
    }
    const [button, bar, line] = place.children;
    const items = itemsOf(place);
    const now = items.find((item) => item.state === "running") ?? items.find(isOpen) ?? items.at(-1);
    const label = isOpen(now) ? word(ACTIONS[now.state]) : word("download_start_size", { size });
    set(button, "textContent", label);
    const spoken = `${label}, ${module}`;
    if (button.getAttribute("aria-label") !== spoken) button.setAttribute("aria-label", spoken);
    set(button, "disabled", now?.state === "stopping");
    showProgress(bar, now);
    set(line, "textContent", refusals.get(module) ?? describe(now));
  }

  /** What is known of the files that a sentence is about. */
  const itemsOf = (place) => JSON.parse(place.dataset.orders).map((id) => known.get(id)).filter(Boolean);

  // --- the list of models --------------------------------------------------------------------

  let dialog = null;
  const parts = {};
  let models = [];
  let base = null;
  /** The unit that opened the list, and its control type. */
  let asker = null;
  let kind = ALL;

  function controlType(unit) {
    const group = unit.querySelector(".controlnet_control_type_filter_group");
    const box = group?.querySelector("input[type=radio]:checked") ?? group?.querySelector("input:not([type=radio])");
    return box?.value || ALL;
  }

  function checkbox(label) {
    const line = make("label", "", "cnet-downloads-box");
    const box = make("input");
    box.type = "checkbox";
    box.addEventListener("change", list);
    line.append(box, make("span", label));
    return [line, box];
  }

  function build() {
    dialog = make("dialog", "", "cnet-downloads");
    const title = make("h2", word("download_title"));
    title.id = "cnet-downloads-title";
    dialog.setAttribute("aria-labelledby", title.id);
    const close = make("button", word("download_close"), "cnet-downloads-close");
    close.type = "button";
    close.addEventListener("click", () => dialog.close());
    const head = make("div", "", "cnet-downloads-head");
    head.append(title, close);
    parts.about = make("p", "", "cnet-downloads-about");
    parts.search = make("input", "", "cnet-downloads-search");
    parts.search.type = "search";
    parts.search.placeholder = word("download_search");
    parts.search.setAttribute("aria-label", word("download_search"));
    parts.search.addEventListener("input", list);
    const choices = make("div", "", "cnet-downloads-choices");
    const [types, allTypes] = checkbox(word("download_all_types"));
    const [bases, allBases] = checkbox(word("download_all_bases"));
    Object.assign(parts, { types, allTypes, allBases });
    choices.append(parts.search, types, bases);
    parts.status = make("p", "", "cnet-downloads-status");
    parts.status.setAttribute("role", "status");
    parts.list = make("ul", "", "cnet-downloads-list");
    dialog.append(head, parts.about, choices, parts.status, parts.list);
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    // The host interrupts a generation by this key.
    dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.stopPropagation());
    document.body.append(dialog);
  }

  function announce(text) {
    if (dialog) parts.status.textContent = text;
  }

  async function openList(unit) {
    if (!dialog) build();
    asker = unit;
    kind = controlType(unit);
    parts.search.value = "";
    parts.allTypes.checked = kind === ALL;
    parts.types.hidden = kind === ALL;
    announce("");
    dialog.showModal();
    try {
      const [content, state] = await Promise.all([ask("published_models"), ask("downloads")]);
      ({ models, base } = content);
      announce(state.refused ?? "");
      learn(state);
      list();
    } catch (error) {
      announce(error.message);
    }
  }

  const idOf = (model) => `model/${model.name}`;

  function fits(model) {
    const isType = parts.allTypes.checked || model.control_types.includes(kind);
    const isBase = parts.allBases.checked || !model.unfit;
    return isType && isBase && model.name.toLowerCase().includes(parts.search.value.trim().toLowerCase());
  }

  function makeRow(model) {
    const row = make("li");
    row.dataset.model = model.name;
    const text = make("div", "", "cnet-downloads-text");
    text.append(make("b", model.name));
    const types = model.control_types.join(", ") || word("download_other");
    const base = word("download_for_base", { base: model.base });
    const facts = [types, model.family, base, model.size_text, model.note, model.unfit];
    text.append(make("span", facts.filter(Boolean).join(" \u00b7 "), "cnet-downloads-facts"));
    const origin = make("span", "", "cnet-downloads-facts");
    const link = make("a", model.repository);
    Object.assign(link, { href: model.page, target: "_blank", rel: "noreferrer" });
    const { licence } = model;
    const terms = licence ? word("download_licence", { licence }) : word("download_no_licence");
    const sum = model.sha256 ? word("download_checked") : word("download_unchecked");
    origin.append(link, ` \u00b7 ${terms} \u00b7 ${sum}`);
    const bar = make("progress");
    bar.setAttribute("aria-label", model.name);
    text.append(origin, bar, make("span", "", "cnet-downloads-line"));
    const button = make("button", "", "cnet-downloads-action");
    button.type = "button";
    button.addEventListener("click", () => {
      const item = known.get(idOf(model));
      if (isOpen(item)) {
        order(model.name, "downloads/stop", { id: item.id });
      } else {
        orderedFor.set(model.name, asker);
        order(model.name, "downloads", { model: model.name });
      }
    });
    row.append(text, button);
    return row;
  }

  /** Show the models that are asked for. */
  function list() {
    const shown = models.filter(fits);
    const count = shown.length;
    const counted = parts.allTypes.checked ? word("download_count", { count }) : word("download_count_type", { count, kind });
    parts.about.textContent = base ? `${counted} ${word("download_base", { base })}` : counted;
    parts.list.replaceChildren(...(count ? shown.map(makeRow) : [make("li", word("download_none"))]));
    show();
  }

  function showRow(row) {
    const model = models.find((one) => one.name === row.dataset.model);
    if (!model) return;
    const item = known.get(idOf(model));
    const isThere = model.present && !isOpen(item);
    const label = word(isThere ? "download_present" : ACTIONS[item?.state] ?? ACTIONS.none);
    const button = row.querySelector("button");
    set(button, "textContent", label);
    button.setAttribute("aria-label", `${label}: ${model.name}`);
    set(button, "disabled", isThere || item?.state === "stopping");
    showProgress(row.querySelector("progress"), item);
    const line = row.querySelector(".cnet-downloads-line");
    set(line, "textContent", refusals.get(model.name) ?? describe(item));
  }

  function show() {
    findAll(".cnet-fetch").forEach(fillFetch);
    if (dialog?.open) for (const row of parts.list.querySelectorAll("li[data-model]")) showRow(row);
  }

  /** A button in every unit; and what the server has newly written about missing files. */
  function update() {
    for (const row of findAll(".controlnet_preprocessor_model")) {
      if (row.querySelector(":scope > .cnet-download-open")) continue;
      const button = make("button", word("download_open"), "cnet-download-open");
      Object.assign(button, { type: "button", title: word("download_note") });
      button.addEventListener("click", () => openList(row.closest(".cnet-unit")));
      row.append(button);
    }
    for (const place of findAll(".cnet-fetch:empty")) fillFetch(place);
  }

  follow(update, { calmly: true });
})();
