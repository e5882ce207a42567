// The timeline under the unit tabs: one bar per enabled unit over the sampling steps, its height
// the weight; with hires fix the second pass has a column of its own.
//
// A classic script without globals. It reads the widgets' present state and draws in the page
// alone, again only when something that it shows has changed.
(() => {
  "use strict";

  const { TABS, find, findAll, follow, part, word } = window.controlnetPanel.page;
  const MAX_WEIGHT = 2;
  const HIRES = "#txt2img_hr-checkbox input, #txt2img_enable_hr input, input#txt2img_hr-checkbox";
  const PASSES = ["first_pass", "hires_pass"];
  // In the order of the radio "Hires-Fix Option": the passes that a unit takes part in.
  const TAKES_PART = [[true, true], [true, false], [false, true]];


  function number(unit, suffix) {
    return Number(part(unit, `controlnet_${suffix}_slider`, "input[type=number]")?.value);
  }

  /** What a dropdown shows; "" for none, a model without its hash. */
  function chosen(unit, suffix) {
    const text = part(unit, `controlnet_${suffix}_dropdown`, "input")?.value || "";
    return text.toLowerCase() === "none" ? "" : text.replace(/ \[[0-9a-f]+\]$/, "");
  }

  /** What the timeline shows of one unit. */
  function describe(unit, index, hires) {
    const passes = part(unit, "controlnet_hr_option_radio");
    const option = passes ? findAll("input", passes).findIndex((box) => box.checked) : 0;
    return {
      index,
      name: chosen(unit, "preprocessor") || chosen(unit, "model") || word("no_preprocessor"),
      weight: number(unit, "control_weight"),
      perLayer: Boolean(part(unit, "controlnet_advanced_weighting_textbox", ":is(input, textarea)")?.value.trim()),
      start: number(unit, "start_control_step"),
      end: number(unit, "ending_control_step"),
      passes: hires ? TAKES_PART[Math.max(option, 0)] : [true],
    };
  }

  function sentence(unit) {
    const { index: number, name } = unit;
    const [start, end] = [unit.start, unit.end].map((part) => Math.round(part * 100));
    const parts = [word(unit.start > unit.end ? "never_active" : "bar_when", { start, end })];
    const [first, hires] = unit.passes;
    if (hires !== undefined) parts.push(word(first && hires ? "bar_both" : first ? "bar_first" : "bar_hires"));
    parts.push(word(unit.perLayer ? "bar_layers" : "bar_weight", { weight: unit.weight }));
    return word("bar", { number, name, what: parts.join(", ") });
  }

  function element(name, text) {
    const made = document.createElement("div");
    made.className = `cnet-timeline-${name}`;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /** The strip of one unit in one pass, its bar inside. */
  function strip(unit, pass) {
    const track = element("track");
    if (!unit.passes[pass]) {
      track.classList.add("cnet-timeline-absent");
      return track;
    }
    if (unit.start > unit.end) {
      track.textContent = word("never_active");
      return track;
    }
    const bar = element("bar");
    const height = unit.perLayer ? 0.5 : Math.min(Math.max(unit.weight / MAX_WEIGHT, 0), 1);
    bar.dataset.unit = unit.index;
    bar.style.left = `${unit.start * 100}%`;
    bar.style.width = `${(unit.end - unit.start) * 100}%`;
    bar.style.height = `${height * 100}%`;
    track.append(bar);
    return track;
  }

  function row(unit) {
    const label = element("label");
    label.append(element("name", `${unit.index} ${unit.name}`), element("weight", unit.perLayer ? word("per_layer") : `${unit.weight}`));
    const cells = [label, ...unit.passes.map((_, pass) => strip(unit, pass))];
    for (const cell of cells) {
      cell.style.setProperty("--cnet-unit-hue", (200 + 137 * unit.index) % 360);
      cell.title = sentence(unit);
    }
    return cells;
  }

  function scale() {
    const marks = element("scale");
    marks.append(...["0", "0.5", "1"].map((text) => element("mark", text)));
    return marks;
  }

  function draw(units, hires) {
    const picture = element("picture");
    picture.setAttribute("role", "img");
    if (!units.length) {
      picture.append(element("empty", word("timeline_empty")));
      picture.setAttribute("aria-label", word("timeline_empty"));
      return picture;
    }
    const passes = (hires ? PASSES : ["sampling_steps"]).map((name) => word(name));
    picture.style.setProperty("--cnet-passes", passes.length);
    picture.setAttribute("aria-label", [word("timeline"), ...units.map(sentence)].join(" "));
    picture.append(element("label"), ...passes.map((text) => element("pass", text)));
    for (const unit of units) picture.append(...row(unit));
    picture.append(element("label"), ...passes.map(scale));
    return picture;
  }

  const shown = new WeakMap();

  function update() {
    for (const tab of TABS) {
      const place = find(`#${tab}_controlnet_timeline`);
      if (!place) continue;
      const hires = tab === "txt2img" && Boolean(find(HIRES)?.checked);
      const units = findAll(`#${tab}_controlnet .cnet-unit`)
        .map((unit, index) => [unit, index])
        .filter(([unit]) => find(".cnet-unit-enabled input", unit)?.checked)
        .map(([unit, index]) => describe(unit, index, hires));
      const state = JSON.stringify([hires, units]);
      const present = find(".cnet-timeline-picture", place);
      if (present && shown.get(present) === state) continue;
      const picture = draw(units, hires);
      shown.set(picture, state);
      if (present) present.replaceWith(picture);
      else place.append(picture);
    }
  }

  follow(update);
})();
