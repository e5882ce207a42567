// Bars for the weights per layer, in a unit's section of that name: one for each layer of the chosen model.
//
// A classic script without globals. The bars show what the text of the weights says, and what is dragged or typed on
// them becomes that text. What the layers are, and what each weight type makes of them, the server tells with the line
// about the model (`data-layers`, `ui/choices.py`). They are made when the section is opened.
Object.assign(window.controlnetPanel, (() => {
  "use strict";

  const { TABS, find, findAll, follow, liken, nameOf, noteChange, part, unitsOf, word } = window.controlnetPanel.page;
  const { clamp, put, readNumber, round } = window.controlnetPanel.curves;
  const MOST = 2;
  const [STEP, PAGE] = [0.05, 0.25];
  /** How a text for SD1 is read for SDXL: by its first numbers. */
  const [SD1, SDXL] = [13, 10];
  const NAMES = ["layer_input", "layer_middle", "layer_output"];
  const COMPOSITION = "composition";

  const boxOf = (unit) => part(unit, "controlnet_advanced_weighting_textbox", ":is(input, textarea)");

  /** What is known of the layers of a unit's model: { parts, names, shapes }, null for nothing. */
  const read = new Map();
  function layersOf(name) {
    const text = find("[data-layers]", document.getElementById(`${name}_controlnet_about`))?.dataset.layers;
    if (!text) return null;
    if (!read.has(text)) {
      if (read.size > 50) read.clear();
      read.set(text, JSON.parse(text));
    }
    return read.get(text);
  }

  /** Whether the composition has a weight of its own in a weight type. */
  const isSplit = (kind) => kind.endsWith(`and ${COMPOSITION}`);

  /** A weight type's strengths. */
  function spread(shapes, kind, share, weight) {
    return shapes[kind].map((value, i) => value * (isSplit(kind) && shapes[COMPOSITION]?.[i] ? share : weight));
  }

  /** What a text of weights says of a model's layers: their strengths, and a sentence where it does not fit. */
  function readWeights(text, { names, shapes }, weight) {
    const count = names.length;
    const plain = text.trim().toLowerCase().replace(/^\[|\]$/g, "").trim();
    if (!plain || plain === "none") return { values: Array(count).fill(weight), said: "" };
    const words = plain.split(/[\s,]+/).filter(Boolean);
    const numbers = words.map(readNumber);
    if (!numbers.some(Number.isNaN)) {
      const given = numbers.length;
      const values = names.map((_, i) => numbers[i] ?? 0);
      if (given === count) return { values, said: "" };
      return { values, said: word(given === SD1 && count === SDXL ? "layers_first" : "layers_count", { given, count }) };
    }
    const isNumbered = words.length > 1 && !Number.isNaN(numbers.at(-1));
    const kind = (isNumbered ? words.slice(0, -1) : words).join(" ");
    const share = isNumbered ? numbers.at(-1) : 1;
    const isKnown = Object.hasOwn(shapes, kind) && (!isNumbered || (isSplit(kind) && share >= 0 && share <= MOST));
    if (isKnown) return { values: spread(shapes, kind, share, weight), said: "" };
    return { values: Array(count).fill(weight), said: word("layers_unread", { text: plain.slice(0, 40) }) };
  }

  function make(tag, name, properties = {}, ...children) {
    const made = document.createElement(tag);
    made.classList.add(...name.split("."));
    for (const [key, value] of Object.entries(properties)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  /** The bar of a layer. */
  function bar(value, index, group, number) {
    const name = word(NAMES[group], { number });
    const fill = make("div", "cnet-layer-fill");
    fill.style.height = `${(100 * clamp(value, 0, MOST)) / MOST}%`;
    const values = { "aria-valuemin": 0, "aria-valuemax": MOST, "aria-valuenow": round(value) };
    const properties = { role: "slider", tabindex: "0", "aria-orientation": "vertical", "aria-label": name, title: name, "data-layer": index, ...values };
    return make("div", `cnet-layer.cnet-layer-${group}`, properties, make("div", "cnet-layer-track", {}, fill), make("div", "cnet-layer-number", {}, `${round(value)}`));
  }

  /** The bars, in the groups of a U-Net. */
  function draw({ parts }, { values, said }) {
    let index = 0;
    const groups = parts.map((count, group) => {
      const name = word(["layers_input", "layers_middle", "layers_output"][group]);
      const bars = Array.from({ length: count }, (_, number) => bar(values[index], index++, group, number));
      return count ? make("div", "cnet-layer-group", { role: "group", "aria-label": name }, make("div", "cnet-layer-name", {}, name), make("div", "cnet-layer-bars", {}, ...bars)) : "";
    });
    return make("div", "cnet-layers-picture", {}, make("div", "cnet-layers-said", { role: "status" }, said), make("div", "cnet-layers-groups", {}, ...groups));
  }

  // What is done on them.

  /** Editor -> strengths of all layers. */
  const present = new WeakMap();
  const valuesOf = (editor) => present.get(editor) ?? [];

  /** Write strengths of all layers as the text; those of a weight type keep a digit more than those that are drawn. */
  function write(unit, values, isDone) {
    put(boxOf(unit), values.map((value) => Math.round(value * 1000) / 1000).join(" "), isDone);
    updateUnit(unit);
  }

  function set(unit, editor, index, value, isDone) {
    const values = [...valuesOf(editor)];
    values[index] = clamp(round(value), 0, MOST);
    write(unit, values, isDone);
  }

  const KEYS = { ArrowUp: STEP, ArrowDown: -STEP, PageUp: PAGE, PageDown: -PAGE, Home: -Infinity, End: Infinity };

  function pressKey(event, unit, editor) {
    const held = event.target.closest(".cnet-layer");
    if (!held || event.ctrlKey || event.altKey || event.metaKey) return;
    const bars = findAll(".cnet-layer", editor);
    const index = Number(held.dataset.layer);
    const sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (sideways) bars[index + sideways]?.focus();
    else if (event.key in KEYS) set(unit, editor, index, valuesOf(editor)[index] + KEYS[event.key], true);
    else return;
    event.preventDefault();
  }

  /** The bars under the pointer take its height, one after the other; gradio is told when it lets go. */
  function connectPointer(unit, editor) {
    let text = null;
    const paint = (event) => {
      const track = find(".cnet-layer-track", document.elementFromPoint(event.clientX, event.clientY)?.closest(".cnet-layer") ?? held);
      held = track.parentElement;
      const box = track.getBoundingClientRect();
      set(unit, editor, Number(held.dataset.layer), (MOST * (box.bottom - event.clientY)) / box.height, false);
    };
    let held = null;
    editor.addEventListener("pointerdown", (event) => {
      held = event.target.closest(".cnet-layer");
      if (!held || event.button > 0) return;
      text = boxOf(unit).value;
      held.focus({ preventScroll: true });
      event.preventDefault();
      editor.setPointerCapture(event.pointerId);
      paint(event);
    });
    editor.addEventListener("pointermove", (event) => text !== null && paint(event));
    editor.addEventListener("pointerup", () => {
      if (text !== null) put(boxOf(unit), boxOf(unit).value);
      text = null;
      noteChange();
    });
    editor.addEventListener("pointercancel", () => {
      if (text !== null) put(boxOf(unit), text, false);
      text = null;
      updateUnit(unit);
    });
  }

  /** Multiply all layers while a slider moves; it goes back to 1 when it is let go. */
  function makeFactor(unit, editor) {
    const slider = make("input", "cnet-layers-factor", { type: "range", min: 0, max: MOST, step: 0.05, value: 1, "aria-label": word("layers_multiply") });
    let before = null;
    slider.addEventListener("input", () => {
      before ??= valuesOf(editor);
      write(unit, before.map((value) => clamp(value * slider.value, 0, MOST)), false);
    });
    slider.addEventListener("change", () => {
      put(boxOf(unit), boxOf(unit).value);
      before = null;
      slider.value = 1;
    });
    return make("label", "cnet-layers-multiply", {}, word("layers_multiply"), slider);
  }

  function build(unit, block) {
    const editor = make("div", "cnet-layers");
    const flat = make("button", "cnet-tools-button", { type: "button" }, word("layers_flat"));
    flat.addEventListener("click", () => put(boxOf(unit), ""));
    const place = make("div", "cnet-layers-picture");
    editor.append(place, make("div", "cnet-layers-tools", {}, flat, makeFactor(unit, editor)));
    editor.addEventListener("keydown", (event) => pressKey(event, unit, editor));
    connectPointer(unit, editor);
    block.append(editor);
    return editor;
  }

  const shown = new WeakMap();

  /** Put a weight type away that means nothing to a model which has just been chosen; what is typed stays, and is said. */
  const chosen = new WeakMap();
  function forgetType(unit) {
    const name = nameOf(unit);
    const layers = layersOf(name);
    const before = chosen.get(unit);
    if (before === layers) return;
    chosen.set(unit, layers);
    const words = boxOf(unit).value.trim().toLowerCase().replace(/ [\d.]+$/, "");
    const isType = window.controlnetPanel.fieldsOf(name).weight_types.includes(words);
    if (before && layers && isType && !(words in layers.shapes)) put(boxOf(unit), "");
  }

  function updateUnit(unit) {
    const section = find(".cnet-layer-weights", unit);
    const block = part(unit, "controlnet_advanced_weighting_textbox");
    if (block) forgetType(unit);
    if (!block || !find(".label-wrap.open", section)) return;
    const editor = find(".cnet-layers", block) || build(unit, block);
    const layers = layersOf(nameOf(unit));
    const weight = Number(part(unit, "controlnet_control_weight_slider", "input[type=number]")?.value);
    const model = part(unit, "controlnet_model_dropdown", "input")?.value || "";
    const state = JSON.stringify([layers, boxOf(unit).value, weight, model]);
    if (shown.get(editor) === state) return;
    shown.set(editor, state);
    const isNone = !model || model.toLowerCase() === "none";
    const none = { values: [], said: word(isNone ? "layers_no_model" : "layers_none", { model }) };
    const known = layers ? readWeights(boxOf(unit).value, layers, weight) : none;
    present.set(editor, known.values);
    liken(find(".cnet-layers-picture", editor), draw(layers ?? { parts: [] }, known));
    find(".cnet-layers-tools", editor).hidden = !layers;
  }

  follow(() => TABS.forEach((tab) => unitsOf(tab).forEach(updateUnit)));

  return { layersOf };
})());
