// What gradio leaves out for keys and screen readers, inside the panel alone: roles, names, and
// keys for what only answers the mouse.
//
// A classic script without globals. It looks after each change of the page at what is shown, and
// writes nothing that is there already; gradio 4 brings most of it.
(() => {
  "use strict";

  const PANELS = ["txt2img", "img2img"].map((tab) => `#${tab}_controlnet`);
  const word = (name, values) => window.controlnetWord(name, values);
  const findAll = (selector, root) => Array.from(root.querySelectorAll(selector));
  const isShown = (element) => element.offsetParent !== null;

  function set(element, name, value) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  }

  /** Have the keys that press a button press an element that is none. */
  function press(element) {
    if (element.dataset.pressed || element.tagName === "BUTTON") return;
    element.dataset.pressed = "yes";
    set(element, "role", "button");
    set(element, "tabindex", "0");
    element.addEventListener("keydown", (event) => {
      if (event.target !== element || !["Enter", " "].includes(event.key) || event.ctrlKey) return;
      event.preventDefault();
      element.click();
    });
  }

  const STEPS = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };

  /** Arrow keys go from tab to tab. */
  function followKeys(list) {
    if (list.dataset.keys) return;
    list.dataset.keys = "yes";
    list.addEventListener("keydown", (event) => {
      const buttons = findAll(":scope > button", list).filter(isShown);
      const at = buttons.indexOf(event.target.closest("button"));
      if (at < 0 || !(event.key in STEPS)) return;
      event.preventDefault();
      const to = Math.min(Math.max(at + STEPS[event.key], 0), buttons.length - 1);
      const next = Math.abs(STEPS[event.key]) === 1 ? (at + STEPS[event.key] + buttons.length) % buttons.length : to;
      buttons[next].focus();
      buttons[next].click();
    });
  }

  function nameTabs(tabs, name) {
    const list = tabs.querySelector(":scope > .tab-nav");
    if (!list) return;
    followKeys(list);
    set(list, "role", "tablist");
    set(list, "aria-label", name);
    const panels = findAll(":scope > .tabitem", tabs);
    findAll(":scope > button", list).forEach((button, index) => {
      const isChosen = button.classList.contains("selected");
      set(button, "role", "tab");
      set(button, "aria-selected", String(isChosen));
      set(button, "tabindex", isChosen ? "0" : "-1");
      const panel = panels[index];
      if (!panel) return;
      set(panel, "role", "tabpanel");
      if (!panel.id) return;
      if (!button.id) button.id = `${panel.id}-tab`;
      set(panel, "aria-labelledby", button.id);
      set(button, "aria-controls", panel.id);
    });
  }

  function nameHeader(header) {
    press(header);
    set(header, "aria-expanded", String(header.classList.contains("open")));
  }

  /** What the block around an element is called. */
  function labelOf(element) {
    const block = element.closest(".block");
    const label = block?.querySelector('[data-testid="block-label"], [data-testid="block-info"], label > span');
    return label?.textContent.trim() || "";
  }

  /** A group of choices is called what stands above it. */
  function nameGroup(group) {
    const label = labelOf(group);
    if (!label) return;
    set(group, "role", "radiogroup");
    set(group, "aria-label", label);
  }

  function nameSlider(block) {
    const label = labelOf(block);
    for (const [kind, name] of [["number", "name_number"], ["range", "name_slider"]]) {
      for (const input of findAll(`input[type=${kind}]`, block)) if (label) set(input, "aria-label", word(name, { label }));
    }
  }

  /** A list that is typed in: what gradio 3 calls a listbox without options. */
  function nameList(input) {
    const label = labelOf(input);
    if (label) set(input, "aria-label", label);
    set(input, "role", "combobox");
    set(input, "aria-haspopup", "listbox");
    const list = input.closest(".block").querySelector("ul.options");
    set(input, "aria-expanded", String(Boolean(list)));
    if (!list) {
      input.removeAttribute("aria-controls");
      return;
    }
    list.id ||= `${input.closest(".block").id}-options`;
    set(list, "role", "listbox");
    set(list, "aria-label", label);
    set(input, "aria-controls", list.id);
  }

  /** The place that a file is dropped on, or chosen at by a click. */
  function nameUpload(input) {
    const label = labelOf(input);
    const place = input.parentElement;
    if (!place || place === input.closest(".block")) return;
    press(place);
    set(place, "aria-label", word("name_upload", { label }));
    set(input, "aria-label", word("name_upload", { label }));
    set(input, "tabindex", "-1");
  }

  function nameCanvas(canvas) {
    set(canvas, "role", "img");
    set(canvas, "aria-label", word("name_canvas", { label: labelOf(canvas) }));
  }

  function update() {
    for (const panel of PANELS.map((id) => document.querySelector(id)).filter(Boolean)) {
      for (const header of findAll(".label-wrap", panel).filter(isShown)) nameHeader(header);
      for (const tabs of findAll(`${PANELS.map((id) => `${id}_tabs`).join(", ")}`, panel)) nameTabs(tabs, word("name_units"));
      for (const tabs of findAll(".cnet-input-tabs", panel).filter(isShown)) nameTabs(tabs, word("name_inputs"));
      for (const group of findAll("fieldset.block", panel).filter(isShown)) nameGroup(group);
      for (const box of findAll(".block:has(input[type=range])", panel).filter(isShown)) nameSlider(box);
      for (const input of findAll(".wrap input:is([role=listbox], [role=combobox])", panel).filter(isShown)) nameList(input);
      for (const input of findAll(".cnet-unit input[type=file]", panel).filter((one) => isShown(one.parentElement))) nameUpload(input);
      for (const canvas of findAll(".cnet-image canvas", panel).filter(isShown)) nameCanvas(canvas);
    }
  }

  let scheduled = false;
  function schedule() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      update();
    });
  }

  if (typeof onUiLoaded === "function") {
    onUiLoaded(() => {
      for (const name of ["click", "focusin", "controlnetchange"]) document.addEventListener(name, schedule, true);
      schedule();
    });
    onAfterUiUpdate(schedule);
  }
})();
