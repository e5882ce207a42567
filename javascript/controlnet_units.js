// Tools of a unit, above its pictures: mute, solo, move, copy, clear. And what its tab shows of it
// besides: thumbnails of its picture and map, and whether it is muted or alone.
//
// A classic script without globals. A muted unit is one that is not enabled, and a note on it
// (`data-muted`) that it is to be again; so is one that another's solo has switched off
// (`data-aside`). The notes go as soon as anything else enables the unit.
(() => {
  "use strict";

  const { TABS, find, findAll, follow, isShown, noteChange, unitsOf, word } = window.controlnetPanel.page;
  const THUMBNAIL = 40; // pixels; shown at half of it


  const buttonsOf = (tab) => findAll(`#${tab}_controlnet_tabs > div.tab-nav > button`);
  const placeOf = (unit) => {
    const tab = TABS.find((name) => unit.closest(`#${name}_controlnet`));
    return { tab, index: unitsOf(tab).indexOf(unit) };
  };

  function make(tag, properties, ...children) {
    const { classes = [], dataset, ...rest } = properties || {};
    const element = document.createElement(tag);
    element.classList.add(...classes);
    for (const [name, value] of Object.entries(rest)) element.setAttribute(name, value);
    Object.assign(element.dataset, dataset);
    element.append(...children);
    return element;
  }

  function makeButton(text, act, properties) {
    const button = make("button", { type: "button", classes: ["cnet-tools-button"], ...properties }, text);
    button.addEventListener("click", act);
    return button;
  }

  /** A button that opens a list of buttons; `items` gives [text, act] each time it is opened. */
  function makeMenu(text, items) {
    const list = make("div", { classes: ["cnet-menu-list"] });
    const menu = make("details", { classes: ["cnet-menu"] }, make("summary", { classes: ["cnet-tools-button"] }, text), list);
    const close = () => {
      if (menu.open) find("summary", menu).focus();
      menu.open = false;
    };
    menu.addEventListener("toggle", () => {
      if (!menu.open) return;
      list.replaceChildren(
        ...items().map(([name, act]) =>
          makeButton(name, () => {
            close();
            act();
          }),
        ),
      );
    });
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      event.stopPropagation();
      close();
    });
    menu.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
    });
    return menu;
  }
  document.addEventListener("click", (event) => {
    if (!event.isTrusted) return; // a button that a script has pressed
    for (const menu of findAll(".cnet-menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });

  /** Say a sentence in the unit's line of tools, with a button beside it if need be. */
  function sayInUnit(unit, text, isFault = false, button = null) {
    const line = find(".cnet-tools-said", buildTools(unit));
    line.classList.toggle("cnet-fault", isFault);
    line.replaceChildren(text, ...(button ? [" ", button] : []));
    line.hidden = !text;
  }

  // Enabled, muted, alone.

  const isEnabled = (unit) => Boolean(find(".cnet-unit-enabled input", unit)?.checked);

  function setEnabled(unit, isOn) {
    const box = find(".cnet-unit-enabled input", unit);
    if (box && box.checked !== isOn) box.click();
  }

  function mute(unit) {
    if (unit.dataset.muted) {
      delete unit.dataset.muted;
      setEnabled(unit, true);
    } else if (isEnabled(unit)) {
      unit.dataset.muted = "yes";
      setEnabled(unit, false);
    }
  }

  function endSolo(units) {
    for (const unit of units) {
      delete unit.dataset.solo;
      if (!unit.dataset.aside) continue;
      delete unit.dataset.aside;
      setEnabled(unit, true);
    }
  }

  function solo(unit) {
    const units = unitsOf(placeOf(unit).tab);
    const wasAlone = unit.dataset.solo;
    endSolo(units);
    if (wasAlone) return;
    for (const other of units) {
      if (other === unit || !isEnabled(other)) continue;
      other.dataset.aside = "yes";
      setEnabled(other, false);
    }
    unit.dataset.solo = "yes";
    setEnabled(unit, true);
  }

  /** Drop notes that no longer hold, because something else has changed a unit. */
  function checkNotes(units) {
    for (const unit of units.filter(isEnabled)) {
      delete unit.dataset.muted;
      delete unit.dataset.aside;
    }
    if (!units.some((unit) => unit.dataset.solo && !isEnabled(unit))) return;
    for (const unit of units) {
      delete unit.dataset.solo;
      if (unit.dataset.aside) unit.dataset.muted = "yes";
      delete unit.dataset.aside;
    }
  }

  // Whole units.

  const NOTES = ["muted", "aside", "solo"];
  const EMPTY = { pictures: { image: null, drawing: null, mask: null, region: null }, values: {}, maps: null };
  const notesOf = (unit) => Object.fromEntries(NOTES.map((name) => [name, unit.dataset[name]]));

  function writeNotes(unit, notes) {
    for (const name of NOTES) {
      if (notes[name]) unit.dataset[name] = notes[name];
      else delete unit.dataset[name];
    }
  }

  /** Carry an edit out, say so in a unit, and offer to take it back. */
  async function change(tab, plan, unit, text, back = word("tools_undo")) {
    const elements = unitsOf(tab);
    const notes = elements.map(notesOf);
    let before = [];
    let lost;
    try {
      lost = await window.controlnetPanel.edit(tab, (units) => {
        const edits = plan(units);
        before = edits.map(({ unit: number }) => ({ unit: number, ...units[number] }));
        return edits;
      });
    } catch (error) {
      sayInUnit(unit, error.message, true);
      return;
    }
    const undo = makeButton(back, async () => {
      await window.controlnetPanel.edit(tab, () => before);
      for (const { unit: number } of before) writeNotes(elements[number], notes[number]);
      sayInUnit(unit, word("tools_undone"));
      noteChange();
    });
    sayInUnit(unit, [text, ...lost].join(" "), lost.length > 0, undo);
    noteChange();
  }

  function copy(unit, other) {
    const { tab, index } = placeOf(unit);
    const notes = { muted: unit.dataset.muted };
    const text = word("tools_copied", { unit: index, other });
    change(tab, (units) => [{ unit: other, ...units[index] }], unit, text).then(() => {
      writeNotes(unitsOf(tab)[other], notes);
      noteChange();
    });
  }

  async function move(unit, step) {
    const { tab, index } = placeOf(unit);
    const other = unitsOf(tab)[index + step];
    if (!other) return;
    const notes = [notesOf(unit), notesOf(other)];
    buttonsOf(tab)[index + step].click();
    const swap = (units) => [
      { unit: index, ...units[index + step] },
      { unit: index + step, ...units[index] },
    ];
    await change(tab, swap, other, word("tools_moved", { unit: index, other: index + step }));
    writeNotes(other, notes[0]);
    writeNotes(unit, notes[1]);
    find(step < 0 ? ".cnet-tool-left" : ".cnet-tool-right", other)?.focus();
    noteChange();
  }

  function clear(unit) {
    const { tab, index } = placeOf(unit);
    change(tab, () => [{ unit: index, ...EMPTY }], unit, word("tools_cleared")).then(() => {
      writeNotes(unit, {});
      noteChange();
    });
  }

  /** The line of tools of a unit. */
  function buildTools(unit) {
    const present = find(":scope .cnet-unit-tools", unit);
    if (present) return present;
    const { tab, index } = placeOf(unit);
    const count = unitsOf(tab).length;
    const tools = make("div", { classes: ["cnet-unit-tools"], role: "group", "aria-label": word("tools", { unit: index }) });
    const others = () => Array.from({ length: count }, (_, i) => i).filter((i) => i !== index);
    tools.append(makeButton(word("tools_mute"), () => mute(unit), { classes: ["cnet-tools-button", "cnet-tool-mute"], title: word("tools_mute_note") }));
    if (count > 1) {
      const side = (name, sign, step) => {
        const title = word(name === "left" ? "tools_left" : "tools_right");
        const properties = { classes: ["cnet-tools-button", `cnet-tool-${name}`], title, "aria-label": title };
        const button = makeButton(sign, () => move(unit, step), properties);
        button.disabled = !unitsOf(tab)[index + step];
        return button;
      };
      tools.append(
        makeButton(word("tools_solo"), () => solo(unit), { classes: ["cnet-tools-button", "cnet-tool-solo"], title: word("tools_solo_note") }),
        side("left", "\u2190", -1),
        side("right", "\u2192", 1),
        makeMenu(word("tools_copy"), () => others().map((other) => [word("report_unit", { number: other }), () => copy(unit, other)])),
      );
    }
    tools.append(
      makeButton(word("tools_clear"), () => clear(unit), { classes: ["cnet-tools-button", "cnet-tool-clear"], title: word("tools_clear_note") }),
      make("div", { classes: ["cnet-tools-said", "cnet-status"], role: "status", hidden: "" }),
    );
    const inside = find(":scope > div.styler", unit) || unit; // gradio 4 has a box in the group
    inside.prepend(tools);
    tools.dispatchEvent(new Event("controlnettools", { bubbles: true }));
    return tools;
  }

  // What is shown.

  const STATES = { muted: "tools_muted", aside: "tools_aside", alone: "tools_alone" };

  function press(button, isOn) {
    const text = String(isOn);
    if (button && button.getAttribute("aria-pressed") !== text) button.setAttribute("aria-pressed", text);
  }

  function updateTools(unit) {
    const tools = find(".cnet-unit-tools", unit) || (isShown(unit) && buildTools(unit));
    if (!tools) return;
    const button = find(".cnet-tool-mute", tools);
    press(button, Boolean(unit.dataset.muted));
    const isIdle = !isEnabled(unit) && !unit.dataset.muted;
    if (button.disabled !== isIdle) button.disabled = isIdle;
    press(find(".cnet-tool-solo", tools), Boolean(unit.dataset.solo));
  }

  /** A small copy of a picture; the same element until the picture is another. */
  const thumbnails = new WeakMap();
  function thumbnail(place, image, title) {
    const source = image?.getAttribute("src");
    if (!image?.naturalWidth || !source) return null;
    const known = thumbnails.get(place) || {};
    if (known.source === source) return known.canvas;
    const scale = THUMBNAIL / Math.max(image.naturalWidth, image.naturalHeight);
    const canvas = make("canvas", { classes: ["cnet-thumbnail"], role: "img", "aria-label": title, title });
    canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
    canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    try {
      pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    } catch {
      return null; // a broken picture
    }
    thumbnails.set(place, { source, canvas });
    return canvas;
  }

  const places = new WeakMap();
  function updateTab(unit, button) {
    if (!button) return;
    if (!places.has(unit)) places.set(unit, { picture: {}, map: {} });
    const place = places.get(unit);
    const own = unit.dataset.picture;
    const shown = [
      thumbnail(place.picture, find(own && `${own} img[src]:not([src=""])`), word("tools_picture")),
      thumbnail(place.map, find(".cnet-generated-image-group img[src]", unit), word("tools_map")),
    ].filter(Boolean);
    const state = ["muted", "aside"].find((name) => unit.dataset[name]) || (unit.dataset.solo ? "alone" : "");
    let extra = find(".cnet-tab-extra", button);
    if (!shown.length && !state) {
      if (extra) extra.remove();
      return;
    }
    if (!extra) {
      extra = make("span", { classes: ["cnet-tab-extra"] });
      button.append(extra);
    }
    const wanted = state ? word(STATES[state]) : "";
    const mark = find(".cnet-tab-state", extra);
    const present = findAll("canvas", extra);
    const isSame = present.length === shown.length && present.every((one, i) => one === shown[i]);
    if (isSame && (mark?.textContent || "") === wanted) return;
    const label = wanted ? [make("span", { classes: ["cnet-tab-state"], dataset: { state } }, wanted)] : [];
    extra.replaceChildren(...shown, ...label);
  }

  function update() {
    for (const tab of TABS) {
      const units = unitsOf(tab);
      const buttons = buttonsOf(tab);
      checkNotes(units);
      units.forEach((unit, index) => {
        updateTools(unit);
        updateTab(unit, buttons[index]);
      });
    }
  }

  follow(update);

  Object.assign(window.controlnetPanel, {
    unitTools: { buildTools, change, makeButton, makeMenu, placeOf, sayInUnit, setEnabled, unitsOf },
  });
})();
