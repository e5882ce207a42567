// The row under the panel's header: a control type for the next free unit, and pictures dropped there.
//
// A classic script without globals. Everything is done by the widgets that a person would use: the
// unit's tab, its control type, its Enable box, its file field. A unit is free while it has neither
// a control type nor a preprocessor nor a model; a picture may be there already.
(() => {
  "use strict";

  const { TABS, find, findAll, whenReady } = window.controlnetPanel.page;
  const ALL = "All";
  const NOTHING = ["", "none"];
  const PERIOD = 50; // ms between two looks at what the page is about to show
  const LOOKS = 60;
  const wait = (time) => new Promise((done) => setTimeout(done, time));
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
    say(panel, unit ? "" : controlnetWord("all_in_use"));
    if (!unit) return;
    open(panel, unit);
    radiosOf(unit).find((radio) => radio.value === type).click();
    check(find(".cnet-unit-enabled input", unit));
  }

  /** Put dropped pictures into the free units that have none, one each. */
  async function take(panel, files) {
    const units = findAll(".cnet-unit", panel).filter((unit) => isFree(unit) && !imageOf(unit));
    const taken = Math.min(files.length, units.length);
    say(panel, taken < files.length ? controlnetWord("pictures_left", { taken, given: files.length }) : "");
    if (taken) open(panel, units[0]);
    for (const [index, unit] of units.slice(0, taken).entries()) {
      check(find(".cnet-unit-same_img2img input", unit)); // its own picture, in the place of the tab's
      await put(unit, files[index]);
    }
  }

  /** Choose a file in a unit's field, once that is there. */
  async function put(unit, file) {
    for (let looks = LOOKS; looks; looks -= 1) {
      const field = find(".cnet-input-image-group .cnet-image input[type=file]", unit);
      if (field) {
        const chosen = new DataTransfer();
        chosen.items.add(file);
        field.files = chosen.files;
        field.dispatchEvent(new Event("change", { bubbles: true }));
        return;
      }
      await wait(PERIOD);
    }
  }

  function say(panel, text) {
    find(".cnet-quick-said", panel).textContent = text;
  }

  function buildRow(panel) {
    const header = find(".label-wrap", panel);
    const types = radiosOf(panel.querySelector(".cnet-unit")).map((radio) => radio.value);
    if (!header || find(".cnet-quick", panel) || !types.length) return; // a list of types has no room to be shown
    const row = Object.assign(document.createElement("div"), { className: "cnet-quick" });
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", controlnetWord("add_control"));
    for (const type of new Set(types.filter((value) => value !== ALL))) {
      const button = document.createElement("button");
      row.append(Object.assign(button, { type: "button", textContent: type, title: controlnetWord("add_why", { kind: type }) }));
      button.addEventListener("click", () => add(panel, type));
    }
    const said = Object.assign(document.createElement("div"), { className: "cnet-quick-said" });
    said.setAttribute("role", "status");
    header.after(row, said);
    for (const place of [header, row]) acceptFiles(place, panel);
    header.title = controlnetWord("drop_pictures");
  }

  const hasFiles = (event) => Array.from(event.dataTransfer?.types || []).includes("Files");

  function acceptFiles(place, panel) {
    place.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
    place.addEventListener("drop", (event) => {
      const files = Array.from(event.dataTransfer?.files || []).filter((file) => file.type.startsWith("image/"));
      if (!files.length) return;
      event.preventDefault();
      event.stopPropagation();
      take(panel, files);
    });
  }

  function build() {
    for (const tab of TABS) {
      const panel = find(`#${tab}_controlnet`);
      if (panel && find(".cnet-unit", panel)) buildRow(panel);
    }
  }

  whenReady(build);
})();
