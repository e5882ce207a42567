// The timeline under the unit tabs: one bar per enabled unit over the sampling steps, its height
// the weight; with hires fix the second pass has a column of its own.
//
// A classic script without globals. It reads the widgets' present state and draws in the page
// alone, again only when something that it shows has changed.
(() => {
  "use strict";

  const TABS = ["txt2img", "img2img"];
  const MAX_WEIGHT = 2;
  const HIRES = "#txt2img_hr-checkbox input, #txt2img_enable_hr input, input#txt2img_hr-checkbox";
  const PASSES = ["First pass", "Hires pass"];
  // In the order of the radio "Hires-Fix Option": the passes that a unit takes part in.
  const TAKES_PART = [[true, true], [true, false], [false, true]];

  const app = () => (typeof gradioApp === "function" ? gradioApp() : document);
  const find = (selector, root) => (root || app()).querySelector(selector);
  const findAll = (selector, root) => Array.from((root || app()).querySelectorAll(selector));

  function number(unit, suffix) {
    return Number(find(`[id$="_controlnet_${suffix}_slider"] input[type=number]`, unit)?.value);
  }

  /** What a dropdown shows; "" for none, a model without its hash. */
  function chosen(unit, suffix) {
    const text = find(`[id$="_controlnet_${suffix}_dropdown"] input`, unit)?.value || "";
    return text.toLowerCase() === "none" ? "" : text.replace(/ \[[0-9a-f]+\]$/, "");
  }

  /** What the timeline shows of one unit. */
  function describe(unit, index, hires) {
    const option = findAll('[id$="_controlnet_hr_option_radio"] input', unit).findIndex((box) => box.checked);
    return {
      index,
      name: chosen(unit, "preprocessor") || chosen(unit, "model") || "no preprocessor",
      weight: number(unit, "control_weight"),
      perLayer: Boolean(find('[id$="_advanced_weighting_textbox"] :is(input, textarea)', unit)?.value.trim()),
      start: number(unit, "start_control_step"),
      end: number(unit, "ending_control_step"),
      passes: hires ? TAKES_PART[Math.max(option, 0)] : [true],
    };
  }

  function sentence(unit) {
    const percent = (part) => `${Math.round(part * 100)} %`;
    const strength = unit.perLayer ? "with weights per layer" : `with weight ${unit.weight}`;
    const when = unit.start > unit.end ? "never active" : `from ${percent(unit.start)} to ${percent(unit.end)} of the steps`;
    const passes = PASSES.filter((_, pass) => unit.passes[pass]);
    const where = unit.passes.length > 1 ? `, ${passes.join(" and ").toLowerCase()}` : "";
    return `Unit ${unit.index}, ${unit.name}: ${when}${where}, ${strength}.`;
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
      track.textContent = "never active";
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
    label.append(element("name", `${unit.index} ${unit.name}`), element("weight", unit.perLayer ? "layers" : `${unit.weight}`));
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
      picture.append(element("empty", "Timeline: no unit is enabled."));
      picture.setAttribute("aria-label", "Timeline: no unit is enabled.");
      return picture;
    }
    const passes = hires ? PASSES : ["Sampling steps"];
    picture.style.setProperty("--cnet-passes", passes.length);
    picture.setAttribute("aria-label", `Timeline. ${units.map(sentence).join(" ")}`);
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

  // Changed values are no page mutations, hence the events; the frame lets gradio finish writing.
  let scheduled = false;
  function schedule() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      update();
    });
  }

  function start() {
    for (const name of ["input", "change", "click", "controlnetchange"]) document.addEventListener(name, schedule, true);
    schedule();
  }

  if (typeof onUiLoaded === "function") {
    onUiLoaded(start);
    onUiUpdate(schedule);
    onAfterUiUpdate(schedule);
  } else {
    document.addEventListener("DOMContentLoaded", start);
  }
})();
