// Curves of a unit's strength over the steps: their text and their points.
//
// `controlnetPanel.curves` reads and writes what `lib_controlnet/units/weight_curve.py` does: factors of the
// strength at shares of the steps, `0.2@0.1, 0.8@0.5`, and behind `|` those of the hires pass. A curve is a list of
// [share, factor], straight between them and held outside; none is null. Two at one share are a jump. Names stand
// for points that the server tells (`tell_fields`). The line below a unit's text says what cannot be read in it.
Object.assign(window.controlnetPanel, (() => {
  "use strict";

  const { TABS, find, follow, part, unitsOf, word } = window.controlnetPanel.page;
  const MOST_FACTOR = 2;
  /** What the server reads at most of one pass. */
  const MOST_TEXT = 8000;
  const MOST_POINTS = 64;
  /** Characters that are said of what cannot be read. */
  const MOST_QUOTED = 40;
  const NUMBER = /^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?$/; // no digit is looked at twice

  const round = (value) => Math.round(value * 100) / 100;
  const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

  /** Name -> points, as the server knows them. */
  let named;
  function readNamed() {
    named ??= JSON.parse(find('[id$="_controlnet_fields"]').textContent).curves;
    return named;
  }

  /** A number of a text as the server reads it; NaN where it is none. */
  function readNumber(text) {
    const plain = text.trim();
    const value = NUMBER.test(plain) ? Number(plain) : NaN;
    return Number.isFinite(value) ? value : NaN;
  }

  /** The same; NaN for one that a curve may not have, too. */
  function number(text, most) {
    const value = readNumber(text);
    return value >= 0 && value <= most ? value : NaN;
  }

  /** The curve of one pass: its points in order, null for none. */
  function readPass(text) {
    const plain = text.trim().toLowerCase();
    if (plain === "none") return null;
    if (text.length > MOST_TEXT) throw new RangeError(plain);
    const name = plain.replace(/\s+/g, " ");
    if (Object.hasOwn(readNamed(), name)) return readNamed()[name];
    const pieces = plain.split(",").filter((piece) => piece.trim());
    const found = pieces.map((piece) => {
      const [factor, share, ...rest] = piece.split("@");
      const point = [number(share ?? "", 1), number(factor, MOST_FACTOR)];
      if (rest.length || point.some(Number.isNaN)) throw new RangeError(piece.trim());
      return point;
    });
    found.sort((one, other) => one[0] - other[0]);
    const third = found.findIndex((point, i) => i > 1 && point[0] === found[i - 2][0]);
    if (third > 0) throw new RangeError(write(found[third]));
    if (found.length > MOST_POINTS) throw new RangeError(plain);
    return found.length ? found : null;
  }

  /** A text -> { passes: curves of the first pass and, where it has one of its own, the hires pass; fault: what cannot be read }. */
  const known = new Map();
  function read(text) {
    if (known.has(text)) return known.get(text);
    let answer;
    try {
      const parts = text.split("|");
      if (parts.length > 2) throw new RangeError(text.trim());
      answer = { passes: parts.map(readPass), fault: "" };
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      answer = { passes: [null], fault: error.message.slice(0, MOST_QUOTED) };
    }
    if (known.size > 200) known.clear();
    known.set(text, answer);
    return answer;
  }

  /** A point as a text; named ones have more digits than those that are drawn. */
  const write = (point) => point.map((value) => `${Math.round(value * 10000) / 10000}`).reverse().join("@");
  const writePass = (points) => (points ? points.map(write).join(", ") : "");

  /** Curves of the passes -> a text; the second pass is written where it differs. */
  function writeAll([first, second]) {
    const texts = [writePass(first), writePass(second)];
    return second === undefined || texts[0] === texts[1] ? texts[0] : texts.join(" | ").trim();
  }

  /** The factor at a share of the steps. */
  function at(points, share) {
    if (!points?.length) return 1;
    const next = points.findIndex((point) => point[0] > share);
    if (next < 0) return points.at(-1)[1];
    if (!next) return points[0][1];
    const [[x0, y0], [x1, y1]] = points.slice(next - 1, next + 1);
    return y0 + ((y1 - y0) * (share - x0)) / (x1 - x0);
  }

  /** The corners of a curve between two shares of the steps. */
  function between(points, start, end) {
    const inner = (points || []).filter(([share]) => share > start && share < end);
    return [[start, at(points, start)], ...inner, [end, at(points, end)]];
  }

  /** The name of points; "" where they have none. */
  const nameOfPoints = (points) =>
    Object.entries(readNamed()).find(([, known]) => writePass(known) === writePass(points))?.[0] ?? "";

  const boxOf = (unit) => part(unit, "controlnet_weight_curve_textbox", ":is(input, textarea)");
  const textOf = (unit) => boxOf(unit)?.value ?? "";

  /** Give a widget a value as a person would; without `isDone` it is only shown, and gradio is not told. */
  function put(box, value, isDone = true) {
    if (!box) return;
    box.value = value;
    if (isDone) box.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** Say below the text of a unit what cannot be read in it. */
  function updateFault(unit) {
    const block = part(unit, "controlnet_weight_curve_textbox");
    if (!block) return;
    const { fault } = read(textOf(unit));
    let line = find(".cnet-curve-fault", block);
    if (!fault) {
      if (line) line.remove();
      return;
    }
    if (!line) {
      line = document.createElement("div");
      line.classList.add("cnet-curve-fault", "cnet-status", "cnet-fault");
      line.setAttribute("role", "status");
      block.append(line);
    }
    const text = word("curve_unread", { piece: fault });
    if (line.textContent !== text) line.textContent = text;
  }

  follow(
    () => {
      for (const tab of TABS) unitsOf(tab).forEach(updateFault);
    },
    { calmly: true },
  );

  return { curves: { MOST_FACTOR, MOST_POINTS, at, between, boxOf, clamp, nameOfPoints, put, read, readNamed, readNumber, round, textOf, writeAll } };
})());
