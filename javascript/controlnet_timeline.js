// The timeline under the unit tabs: one strip per enabled unit over the sampling steps, in which its
// strength fills the part between its start and end; with hires fix the second pass has a column of its own.
//
// A classic script without globals. It reads the widgets' present state and draws in the page
// alone, again only when something that it shows has changed, into the elements that are there:
// what is held or focused stays. A strip is as high as weight 1; a stronger unit's grows, and has a
// line at 1. What is dragged and typed is answered in javascript/controlnet_timeline_hands.js.
Object.assign(window.controlnetPanel, (() => {
  "use strict";

  const { TABS, find, findAll, follow, liken, part, unitsOf, word } = window.controlnetPanel.page;
  const { MOST_FACTOR, between, nameOfPoints, read, readNamed, round, textOf } = window.controlnetPanel.curves;
  const HIRES = "#txt2img_hr-checkbox input, #txt2img_enable_hr input, input#txt2img_hr-checkbox";
  const PASSES = ["first_pass", "hires_pass"];
  // In the order of the radio "Hires-Fix Option": the passes that a unit takes part in.
  const TAKES_PART = [[true, true], [true, false], [false, true]];
  /** Strengths at the upper edge of a strip: the least that holds its curve. */
  const TOPS = [1, 2, 4];
  /** What the list of curves has beside their names. */
  const [NONE, OWN, SAME] = ["none", "own", "same"];
  const CURVES = {
    ...{ none: "curve_none", own: "curve_own", same: "curve_same" },
    ...{ linear: "curve_linear", ease_in: "curve_ease_in", ease_out: "curve_ease_out", pulse: "curve_pulse" },
  };
  const EDGES = { start: "hand_start", end: "hand_end" };
  const SVG = "http://www.w3.org/2000/svg";

  const numberBox = (unit, suffix) => part(unit, `controlnet_${suffix}_slider`, "input[type=number]");
  const number = (unit, suffix) => Number(numberBox(unit, suffix)?.value);

  /** What a dropdown shows; "" for none, a model without its hash. */
  function chosen(unit, suffix) {
    const text = part(unit, `controlnet_${suffix}_dropdown`, "input")?.value || "";
    return text.toLowerCase() === "none" ? "" : text.replace(/ \[[0-9a-f]+\]$/, "");
  }

  /** The unit whose strip keeps its height while something on it is held, and the strength at its upper edge. */
  let held = {};
  const hold = (unit, top) => (held = { unit, top });

  /** What the timeline shows of one unit. */
  function describe(unit, index, hires) {
    const passes = part(unit, "controlnet_hr_option_radio");
    const option = passes ? findAll("input", passes).findIndex((box) => box.checked) : 0;
    const { passes: curves, fault } = read(textOf(unit));
    return {
      index,
      name: chosen(unit, "preprocessor") || chosen(unit, "model") || word("no_preprocessor"),
      weight: number(unit, "control_weight"),
      perLayer: Boolean(part(unit, "controlnet_advanced_weighting_textbox", ":is(input, textarea)")?.value.trim()),
      start: number(unit, "start_control_step"),
      end: number(unit, "ending_control_step"),
      passes: hires ? TAKES_PART[Math.max(option, 0)] : [true],
      curves: hires ? [curves[0], curves[1] === undefined ? curves[0] : curves[1]] : [curves[0]],
      isShared: curves[1] === undefined,
      fault,
      heldTop: held.unit === unit ? held.top : null,
    };
  }

  const percent = (share) => Math.round(share * 100);

  /** The hue of a unit's colour, in degrees. */
  const hueOf = (index) => (200 + 137 * index) % 360;

  function sentence(unit) {
    const { index: number, name, curves } = unit;
    const [start, end] = [percent(unit.start), percent(unit.end)];
    const parts = [word(unit.start > unit.end ? "never_active" : "bar_when", { start, end })];
    const [first, hires] = unit.passes;
    if (hires !== undefined) parts.push(word(first && hires ? "bar_both" : first ? "bar_first" : "bar_hires"));
    parts.push(word(unit.perLayer ? "bar_layers" : "bar_weight", { weight: unit.weight }));
    if (unit.fault) parts.push(word("bar_curve_unread"));
    else if (curves.some(Boolean)) parts.push(word("bar_curve"));
    return word("bar", { number, name, what: parts.join(", ") });
  }

  /** An element of the timeline by its names; values of `attributes` that are undefined are left out. */
  function element(names, children, attributes = {}, style = {}, tag = "div") {
    const made = document.createElement(tag);
    for (const name of names.split(".")) made.classList.add(`cnet-timeline-${name}`);
    if (Array.isArray(children)) made.append(...children);
    else if (children !== undefined) made.textContent = children;
    for (const [key, value] of Object.entries(attributes)) if (value !== undefined) made.setAttribute(key, value);
    for (const [key, value] of Object.entries(style)) made.style.setProperty(key, value);
    return made;
  }

  /** What the height of a curve is multiplied by: per-layer weights and a weight of 0 have no height of their own. */
  const heightOf = (unit) => (unit.perLayer || !(unit.weight > 0) ? 1 : unit.weight);

  /** The strength at the upper edge of a unit's strips. */
  function topOf(unit) {
    if (unit.heldTop) return unit.heldTop;
    const factors = unit.curves.flatMap((points) => (points ? points.map((point) => point[1]) : [1]));
    const most = heightOf(unit) * Math.max(...factors);
    return TOPS.find((top) => most <= top + 1e-6) ?? TOPS.at(-1);
  }

  const share = (value) => `${round(value * 100)}%`;

  /** The filled part of a strip: the strength between start and end. */
  function bar(unit, points, top) {
    const [height, { start, end }] = [heightOf(unit) / top, unit];
    const corners = between(points, start, end);
    const most = Math.max(...corners.map((corner) => corner[1]));
    const isEmpty = !(unit.weight > 0 || unit.perLayer);
    const style = { left: share(start), width: share(end - start), height: share(isEmpty ? 0 : Math.min(height * most, 1)) };
    if (points && most > 0 && end > start) {
      const place = ([x, y]) => `${share((x - start) / (end - start))} ${share(1 - y / most)}`;
      style["clip-path"] = `polygon(0% 100%, ${corners.map(place).join(", ")}, 100% 100%)`;
    }
    return element("bar", undefined, { "data-unit": unit.index }, style);
  }

  /** The line of a curve over the whole strip; empty without one. */
  function line(unit, points, top) {
    const height = heightOf(unit) / top;
    const place = ([x, y]) => `${round(x * 100)},${round(100 - 100 * Math.min(y * height, 1))}`;
    const corners = points ? between(points, 0, 1).map(place) : [];
    const [drawing, path] = ["svg", "polyline"].map((name) => document.createElementNS(SVG, name));
    const attributes = { class: "cnet-timeline-line", viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" };
    for (const [name, value] of Object.entries(attributes)) drawing.setAttribute(name, value);
    path.setAttribute("points", corners.join(" "));
    drawing.append(path);
    return drawing;
  }

  /** Something that is dragged, or moved by keys. */
  function hand(kind, name, [most, now, text], style, point) {
    const attributes = { role: "slider", tabindex: "0", "data-hand": kind, "data-point": point, "aria-label": name };
    // A label of its value goes the farther to the left the farther to the right the hand is.
    style["--cnet-share"] = parseFloat(style.left);
    Object.assign(attributes, { "aria-valuemin": 0, "aria-valuemax": most, "aria-valuenow": now, "aria-valuetext": text });
    return element(`hand.${kind}`, undefined, attributes, style);
  }

  /** What a unit, or its part in a pass where there are several, is called. */
  function nameOf(unit, pass) {
    const values = { number: unit.index, name: unit.name, pass: word(PASSES[pass]) };
    return unit.passes.length > 1 ? word("hand_pass", values) : word("hand_unit", values);
  }

  /** The hands of a strip: the window as a whole, its ends, the points of its curve. */
  function hands(of, unit, points, top) {
    const { start, end } = unit;
    const both = word("hand_between", { start: percent(start), end: percent(end) });
    const style = { left: share(start), width: share(Math.max(end - start, 0)) };
    const whole = hand("window", word("hand_window", { unit: of }), [100, percent(start), both], style);
    whole.hidden = end < start;
    const edge = (kind, value) => {
      const text = word("hand_at", { share: percent(value) });
      return hand(kind, word(EDGES[kind], { unit: of }), [100, percent(value), text], { left: share(value) });
    };
    const height = heightOf(unit) / top;
    const drawn = (points || []).map(([x, y], i) => {
      const text = word("hand_factor", { factor: round(y), share: percent(x) });
      const name = word("hand_point", { unit: of, point: i + 1, count: points.length });
      return hand("point", name, [MOST_FACTOR, round(y), text], { left: share(x), bottom: share(Math.min(y * height, 1)) }, i);
    });
    return [whole, edge("start", start), edge("end", end), ...drawn];
  }

  /** The strip of one unit in one pass, its bar inside. */
  function strip(unit, pass, top) {
    const attributes = { "data-unit": unit.index, "data-pass": pass, "data-top": top };
    const style = { "--cnet-top": top };
    if (!unit.passes[pass]) return element("track.absent", undefined, attributes, style);
    const points = unit.fault ? null : unit.curves[pass];
    const filled = unit.start > unit.end ? element("never", word("never_active")) : bar(unit, points, top);
    const shown = TOPS.filter((level) => level <= top);
    const levels = shown.map((level) => element("level", `${level}`, { "aria-hidden": "true" }, { bottom: share(level / top) }));
    const parts = [filled, line(unit, points, top), ...hands(nameOf(unit, pass), unit, points, top), ...levels];
    return element("track", parts, attributes, style);
  }

  /** The list of curves of a unit in one pass. */
  function list(unit, pass) {
    const own = pass === 1 && !unit.isShared;
    const points = unit.curves[pass];
    const name = points ? nameOfPoints(points) || OWN : NONE;
    const value = pass === 1 && !own ? SAME : name;
    const names = [NONE, ...Object.keys(readNamed())];
    if (value === OWN || unit.fault) names.push(OWN);
    if (pass === 1) names.unshift(SAME);
    const options = names.map((one) => {
      const told = CURVES[one.replace(" ", "_")];
      const option = element("option", told ? word(told) : one, { value: one }, {}, "option");
      if (one === (unit.fault ? OWN : value)) option.setAttribute("selected", "");
      return option;
    });
    const label = word("curve_of", { unit: nameOf(unit, pass) });
    return element("list", options, { "aria-label": label, title: label, "data-unit": unit.index, "data-pass": pass }, {}, "select");
  }

  function row(unit) {
    const weight = unit.perLayer ? word("per_layer") : `${unit.weight}`;
    const lists = unit.passes.flatMap((takesPart, pass) => (takesPart ? [list(unit, pass)] : []));
    const label = element("label", [element("name", `${unit.index} ${unit.name}`), element("weight", weight), element("lists", lists)]);
    const top = topOf(unit);
    const cells = [label, ...unit.passes.map((_, pass) => strip(unit, pass, top))];
    for (const cell of cells) {
      cell.style.setProperty("--cnet-unit-hue", hueOf(unit.index));
      cell.setAttribute("title", sentence(unit));
    }
    return cells;
  }

  function scale() {
    return element("scale", ["0", "0.5", "1"].map((text) => element("mark", text)));
  }

  function draw(units, hires) {
    const spoken = units.length ? [word("timeline"), ...units.map(sentence)].join(" ") : word("timeline_empty");
    const attributes = { role: "group", "aria-label": spoken };
    if (!units.length) return element("picture", [element("empty", spoken)], attributes);
    const passes = (hires ? PASSES : ["sampling_steps"]).map((name) => word(name));
    return element(
      "picture",
      [
        ...[element("label"), ...passes.map((text) => element("pass", text))],
        ...units.flatMap(row),
        ...[element("label"), ...passes.map(scale), element("help", word("timeline_help"))],
      ],
      attributes,
      { "--cnet-passes": passes.length },
    );
  }

  const shown = new WeakMap();

  function update() {
    for (const tab of TABS) {
      const place = find(`#${tab}_controlnet_timeline`);
      if (!place) continue;
      const hires = tab === "txt2img" && Boolean(find(HIRES)?.checked);
      const units = unitsOf(tab)
        .map((unit, index) => [unit, index])
        .filter(([unit]) => find(".cnet-unit-enabled input", unit)?.checked)
        .map(([unit, index]) => describe(unit, index, hires));
      const state = JSON.stringify([hires, units]);
      const present = find(".cnet-timeline-picture", place);
      if (present && shown.get(present) === state) continue;
      const picture = draw(units, hires);
      if (present) liken(present, picture);
      else place.append(picture);
      shown.set(present || picture, state);
    }
  }

  follow(update);

  return { timeline: { NONE, OWN, SAME, describe, heightOf, hold, hueOf, numberBox, update } };
})());
