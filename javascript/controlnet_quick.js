// The row under the panel's header: a control type for the next free unit, and pictures dropped there.
//
// A classic script without globals. A type is chosen by the widgets that a person would use: the
// unit's tab, its control type, its Enable box. A unit is free while it has neither a control type
// nor a preprocessor nor a model; a picture may be there already.
(() => {
  "use strict";

  const { TABS, find, findAll, whenReady, word } = window.controlnetPanel.page;
  const ALL = "All";
  const NOTHING = ["", "none"];
  const imageOf = (unit) => find('.cnet-input-image-group .cnet-image img[src]:not([src=""])', unit);
  const radiosOf = (unit) => findAll(".controlnet_control_type_filter_group input[type=radio]", unit);

  function isFree(unit) {
    const type = radiosOf(unit).find((radio) => radio.checked)?.value;
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

  /** Give the next free unit a control type, switch it on, and show it. */
  function add(panel, type) {
    const unit = findAll(".cnet-unit", panel).find(isFree);
    say(panel, unit ? "" : word("all_in_use"), !unit);
    if (!unit) return;
    open(panel, unit);
    radiosOf(unit).find((radio) => radio.value === type).click();
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
    const types = radiosOf(panel.querySelector(".cnet-unit")).map((radio) => radio.value);
    if (!header || find(".cnet-quick", panel) || !types.length) return; // a list of types has no room to be shown
    const row = Object.assign(document.createElement("div"), { className: "cnet-quick" });
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", word("add_control"));
    for (const type of new Set(types.filter((value) => value !== ALL))) {
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
