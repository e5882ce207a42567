// What gradio leaves out for keys and screen readers, inside the panel alone: roles, names, and
// keys for what only answers the mouse.
//
// A classic script without globals. It looks after each change of the page at what is shown, and
// writes nothing that is there already; gradio 4 brings most of it.
(() => {
  "use strict";

  const PANELS = ["txt2img", "img2img"].map((tab) => `#${tab}_controlnet`);
  const { findAll, follow, isShown, noteChange, whenReady, word } = window.controlnetPanel.page;

  function set(element, name, value) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  }

  /** Have the keys that press a button press an element that is none. */
  function press(element) {
    if (element.tagName === "BUTTON") return;
    set(element, "role", "button");
    set(element, "tabindex", "0");
    if (element.dataset.pressed) return;
    element.dataset.pressed = "yes";
    element.addEventListener("keydown", (event) => {
      if (event.target !== element || !["Enter", " "].includes(event.key) || event.ctrlKey) return;
      event.preventDefault();
      element.click();
    });
  }

  const STEPS = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };

  /** Arrow keys go from tab to tab; gradio puts another button in the place of the chosen one. */
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
      buttons[next].click();
      requestAnimationFrame(() => findAll(":scope > button", list).filter(isShown)[next]?.focus());
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

  /** A list that is typed in, and its entries while it is open. */
  function nameList(input) {
    const block = input.closest(".block");
    const label = labelOf(input);
    const list = block.querySelector("ul.options");
    if (label) set(input, "aria-label", label);
    set(input, "role", "combobox");
    set(input, "aria-haspopup", "listbox");
    set(input, "aria-expanded", String(Boolean(list)));
    if (!list) {
      input.removeAttribute("aria-controls");
      return;
    }
    list.id ||= `${block.id}-options`;
    set(list, "role", "listbox");
    set(list, "aria-label", label);
    set(input, "aria-controls", list.id);
    for (const entry of findAll(":scope > li", list)) {
      set(entry, "role", "option");
      set(entry, "aria-selected", String(entry.classList.contains("selected")));
    }
  }

  /** The place that a file is dropped on, or chosen at by a click, as long as it is empty. */
  function nameUpload(place) {
    const label = word("name_upload", { label: labelOf(place) });
    set(place.querySelector("input[type=file]"), "aria-label", label);
    set(place.querySelector("input[type=file]"), "tabindex", "-1");
    if (place.tagName === "BUTTON") {
      set(place, "aria-label", label);
    } else if (place.querySelector("canvas, img, button, video")) {
      for (const name of ["role", "tabindex", "aria-label"]) place.removeAttribute(name);
    } else {
      press(place);
      set(place, "aria-label", label);
    }
  }

  /** Of the layers of a drawing the one that takes the strokes; the others are said to be hidden. */
  function nameCanvas(canvas) {
    if (canvas.getAttribute("key") && canvas.getAttribute("key") !== "interface") {
      set(canvas, "aria-hidden", "true");
      return;
    }
    set(canvas, "role", "img");
    set(canvas, "aria-label", word("name_canvas", { label: labelOf(canvas) }));
  }

  function update() {
    for (const panel of findAll(PANELS.join()).filter(isShown)) {
      const closed = findAll(".cnet-unit", panel).filter((unit) => !isShown(unit));
      const seen = (selector) => findAll(selector, panel).filter((one) => !closed.some((unit) => unit.contains(one)) && isShown(one));
      seen(".label-wrap").forEach(nameHeader);
      for (const tabs of findAll(PANELS.map((id) => `${id}_tabs`).join(), panel)) nameTabs(tabs, word("name_units"));
      for (const tabs of seen(".cnet-input-tabs")) nameTabs(tabs, word("name_inputs"));
      seen("fieldset.block").forEach(nameGroup);
      for (const slider of seen("input[type=range]")) nameSlider(slider.closest(".block"));
      seen('.gradio-dropdown input, input[role="listbox"]').forEach(nameList);
      for (const input of findAll(".cnet-unit .block .center > input[type=file]", panel)) {
        if (isShown(input.parentElement)) nameUpload(input.parentElement);
      }
      seen(".cnet-image canvas").forEach(nameCanvas);
      seen(".cnet-image img:not([alt])").forEach((image) => set(image, "alt", labelOf(image)));
      for (const file of findAll(".cnet-image input[type=file]:not([aria-label])", panel)) {
        set(file, "aria-label", word("name_upload", { label: labelOf(file) }));
      }
      for (const button of seen(".cnet-unit .block button:not([aria-label], [title])")) {
        if (!button.textContent.trim()) set(button, "aria-label", labelOf(button));
      }
    }
  }

  whenReady(() => {
    for (const name of ["keydown", "focusin"]) document.addEventListener(name, noteChange, true);
  });
  follow(update, { calmly: true });
})();
