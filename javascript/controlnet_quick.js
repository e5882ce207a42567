// The row under the panel's header: a control type for the next free unit, and pictures dropped there.
//
// A classic script without globals. A type is chosen by the widgets that a person would use: the
// unit's tab, its control type (radios, or a list), its Enable box. A unit is free while it has
// neither a control type nor a preprocessor nor a model; a picture may be there already.
(() => {
  "use strict";

  const { TABS, find, findAll, isShown, whenReady, word } = window.controlnetPanel.page;
  const ALL = "All";
  const NOTHING = ["", "none"];
  /** Frames in which gradio shows what was opened. */
  const PATIENCE = 120;
  const imageOf = (unit) => find('.cnet-input-image-group .cnet-image img[src]:not([src=""])', unit);
  const typesOf = (unit) => find(".controlnet_control_type_filter_group", unit);

  function isFree(unit) {
    const type = find("input[type=radio]:checked, input:not([type=radio])", typesOf(unit))?.value;
    const chosen = ["preprocessor", "model"].map((list) => find(`[id$="_controlnet_${list}_dropdown"] input`, unit)?.value);
    return type === ALL && chosen.every((value) => NOTHING.includes((value || "").toLowerCase()));
  }

  /** Open the panel, and the tab of one of its units. */
  function open(panel, unit) {
    const header = find(".label-wrap", panel);
    if (!header.classList.contains("open")) header.click();
    const index = findAll(".cnet-unit", panel).indexOf(unit);
    find(`#${panel.id}_tabs > .tab-nav`, panel)?.querySelectorAll("button")[index]?.click();
  }

  const check = (box) => box && !box.checked && box.click();

  /** Call a function until it gives something, once a frame. */
  function waitFor(look, left = PATIENCE) {
    const found = look();
    if (found || !left) return Promise.resolve(found);
    return new Promise((next) => requestAnimationFrame(next)).then(() => waitFor(look, left - 1));
  }

  /** Choose one of the radios, or an entry of the list, which is there while it is open. */
  async function choose(unit, type) {
    const types = typesOf(unit);
    const entry = (name) => findAll(name, types).find((one) => (one.value || one.getAttribute("aria-label")) === type);
    const radio = entry("input[type=radio]");
    if (radio) return radio.click();
    const list = find("input", types);
    if (!(await waitFor(() => isShown(list)))) return undefined;
    list.focus();
    const item = await waitFor(() => entry("ul.options > li"));
    item?.dispatchEvent(new MouseEvent("mousedown", { bubbles: true, cancelable: true }));
    return list.blur();
  }

  /** Give the next free unit a control type, switch it on, and show it. */
  async function add(panel, type) {
    const unit = findAll(".cnet-unit", panel).find(isFree);
    say(panel, unit ? "" : word("all_in_use"), !unit);
    if (!unit) return;
    open(panel, unit);
    await choose(unit, type);
    check(find(".cnet-unit-enabled input", unit));
  }

  /** Put dropped pictures into the free units that have none, one each. */
  async function take(panel, tab, files) {
    const units = findAll(".cnet-unit", panel);
    const places = () => [...units.keys()].filter((index) => isFree(units[index]) && !imageOf(units[index]));
    const [first] = places();
    if (first !== undefined) open(panel, units[first]);
    const { text, isFault } = await window.controlnetPanel.putFiles(tab, files, places);
    say(panel, text, isFault);
  }

  function say(panel, text, isFault = false) {
    const line = find(".cnet-quick-said", panel);
    line.textContent = text;
    line.classList.toggle("cnet-send-fault", isFault);
  }

  function buildRow(panel, tab) {
    const header = find(".label-wrap", panel);
    const { types } = window.controlnetPanel.fieldsOf(`${panel.id}_ControlNet`);
    if (!header || find(".cnet-quick", panel)) return;
    const row = Object.assign(document.createElement("div"), { className: "cnet-quick" });
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", word("add_control"));
    for (const type of types.filter((value) => value !== ALL)) {
      const button = document.createElement("button");
      row.append(Object.assign(button, { type: "button", textContent: type, title: word("add_why", { kind: type }) }));
      button.addEventListener("click", () => add(panel, type));
    }
    const said = Object.assign(document.createElement("div"), { className: "cnet-quick-said" });
    said.setAttribute("role", "status");
    header.after(row, said);
    for (const place of [header, row]) acceptFiles(place, panel, tab);
    header.title = word("drop_pictures");
  }

  const hasFiles = (event) => Array.from(event.dataTransfer?.types || []).includes("Files");

  function acceptFiles(place, panel, tab) {
    place.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
    place.addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      event.stopPropagation();
      take(panel, tab, Array.from(event.dataTransfer.files));
    });
  }

  function build() {
    for (const tab of TABS) {
      const panel = find(`#${tab}_controlnet`);
      if (panel && find(".cnet-unit", panel)) buildRow(panel, tab);
    }
  }

  whenReady(build);
})();
