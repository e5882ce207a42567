// Scribble: lines drawn on layers. The map is white on black, with hard edges as scribble models are trained on them;
// greys are only in what a map or a file brought along.

const WIDEST = 200;
const TURN = Math.PI / 12; // of lines with Shift
const LIKE = 96; // greys of one area differ by no more: the soft edge of a line is left to the line
const TWICE = 500; // ms between two presses of a name that is to be changed
const PEN_END = 5; // the button that a pen's other end is told as

/** How one draws; the page's next editor begins with it. */
const settings = { tool: "brush", width: 8, isWhite: true, hasPressure: true };

/** The pointer's side: brush, eraser, lines and fill on the present layer of a stack. */
class Pointer {
  constructor(frame, raster, lines, stack) {
    Object.assign(this, { frame, raster, lines, stack, drag: null, last: null });
    const { Konva } = frame;
    const plain = { strokeScaleEnabled: false, listening: false, visible: false };
    this.guide = new Konva.Line({ ...plain, stroke: "#14b8a6", strokeWidth: 2 });
    this.rings = [
      new Konva.Circle({ ...plain, stroke: "black", strokeWidth: 3 }),
      new Konva.Circle({ ...plain, stroke: "white", strokeWidth: 1 }),
    ];
    frame.handles.add(this.guide, ...this.rings);
  }

  forget() {
    Object.assign(this, { drag: null, last: null });
  }

  radius({ pressure }) {
    return (settings.width / 2) * (settings.hasPressure ? 0.15 + 0.85 * pressure : 1);
  }

  value({ button }) {
    const { NOTHING, WHITE, BLACK } = this.lines;
    if (settings.tool === "eraser" || button === PEN_END) return NOTHING;
    return settings.isWhite ? WHITE : BLACK;
  }

  /** Show what the brush would cover. */
  hover(point) {
    if (point) this.at = { x: point.x, y: point.y };
    this.isOver = Boolean(point) && point.pointerType !== "touch";
    this.showRings();
  }

  showRings() {
    const visible = Boolean(this.isOver) && settings.tool !== "fill";
    for (const ring of this.rings) ring.setAttrs({ visible, radius: settings.width / 2, ...this.at });
  }

  /** Where a line ends: with Shift at a whole multiple of 15 degrees. */
  lineEnd(to) {
    const { from } = this.drag;
    if (!to.shift) return to;
    const length = Math.hypot(to.x - from.x, to.y - from.y);
    const angle = Math.round(Math.atan2(to.y - from.y, to.x - from.x) / TURN) * TURN;
    return { ...to, x: from.x + length * Math.cos(angle), y: from.y + length * Math.sin(angle) };
  }

  start(point) {
    const { stack, last } = this;
    this.drag = { from: point, before: stack.present.packed };
    if (settings.tool === "fill") return; // when it is clear that no second finger comes
    stack.showPresent();
    if (settings.tool === "line") return;
    const value = this.value(point);
    if (point.shift && last) this.draw(last, point, value);
    this.drag.stroke = this.raster.startStroke(stack.present.plane, value);
    this.move(point);
  }

  /** Whether what is pressed goes on until it is let go: all but a filling. */
  holds() {
    return settings.tool !== "fill";
  }

  draw(from, to, value) {
    const radius = settings.width / 2;
    this.stack.rewrite((plane) => this.raster.drawSegment(plane, { ...from, radius }, { ...to, radius }, value));
  }

  move(point) {
    const { drag } = this;
    if (drag?.stroke) {
      this.stack.rewrite(() => drag.stroke.move({ x: point.x, y: point.y, radius: this.radius(point) }));
    } else if (drag && settings.tool === "line") {
      const to = this.lineEnd(point);
      this.guide.setAttrs({ visible: true, points: [drag.from.x, drag.from.y, to.x, to.y] });
    }
  }

  end(point, isCancelled) {
    if (!this.drag) return;
    const { from, stroke, before } = this.drag;
    const to = this.lineEnd(point);
    this.drag = null;
    this.guide.visible(false);
    if (point.pointerType === "touch") this.hover(null);
    if (isCancelled) {
      if (stroke) this.stack.restore(before);
      return;
    }
    if (settings.tool === "fill") {
      this.fill(point);
      return;
    }
    if (stroke) this.stack.rewrite(() => stroke.end());
    else this.draw(from, to, this.value(from));
    this.last = stroke ? { x: point.x, y: point.y } : { x: to.x, y: to.y };
    this.frame.changed();
  }

  /** Fill the area that is seen round a point, on the present layer. */
  fill(point) {
    const { data, ...size } = this.stack.compose();
    const seed = data[Math.floor(point.y) * size.width + Math.floor(point.x)];
    const area = this.raster.findArea(size, point, (i) => Math.abs(data[i] - seed) <= LIKE);
    if (!area) return;
    this.stack.showPresent();
    this.stack.rewrite((plane) => this.raster.fillMask(plane, area.mask, this.value(point), area.bounds));
    this.frame.changed();
  }
}

const press = (button, isOn) => button.setAttribute("aria-pressed", String(isOn));

/** The controls above the map; what keys do with them. */
function buildBar(frame, pointer) {
  const { word } = frame;
  const kinds = [
    ["brush", word("scribble_brush"), word("scribble_brush_note")],
    ["eraser", word("scribble_eraser"), word("scribble_eraser_note")],
    ["line", word("scribble_line"), word("scribble_line_note")],
    ["fill", word("scribble_fill"), word("scribble_fill_note")],
  ];
  const setTool = (name) => {
    settings.tool = name;
    kinds.forEach(([kind], i) => press(tools[i], kind === name));
    pointer.showRings();
  };
  const tools = kinds.map(([kind, text, title]) => frame.button(text, () => setTool(kind), { title, pressed: kind === settings.tool }));
  const setWidth = (value) => {
    settings.width = Math.min(Math.max(value, 1), WIDEST);
    width.set(settings.width);
    pointer.showRings();
  };
  const widen = (sign) => setWidth(settings.width + sign * Math.max(1, Math.round(settings.width / 8)));
  const width = frame.slider(word("scribble_width"), { min: 1, max: WIDEST, value: settings.width }, setWidth);
  const setInk = (isWhite) => {
    settings.isWhite = isWhite;
    ink.input.value = isWhite ? "white" : "black";
  };
  const colours = [
    ["white", word("scribble_white")],
    ["black", word("scribble_black")],
  ];
  const ink = frame.choice(word("scribble_ink"), colours, settings.isWhite ? "white" : "black", (value) => setInk(value === "white"));
  const setPressure = (button) => {
    settings.hasPressure = !settings.hasPressure;
    press(button, settings.hasPressure);
  };
  const pressure = frame.button(word("scribble_pressure"), setPressure, { title: word("scribble_pressure_note"), pressed: settings.hasPressure });
  width.title = word("scribble_width_note");
  ink.title = word("scribble_ink_note");
  frame.bar.append(...tools, width, ink, pressure);
  return {
    b: () => setTool("brush"),
    e: () => setTool("eraser"),
    l: () => setTool("line"),
    g: () => setTool("fill"),
    x: () => setInk(!settings.isWhite),
    "[": () => widen(-1),
    "]": () => widen(1),
  };
}

/** The list of layers beside the map and what is done with them: how it is shown anew, and a layer renamed. */
function buildList(frame, stack) {
  const { word, make } = frame;
  const list = make("div", { role: "group", "aria-label": word("scribble_layers") });
  const picker = make("input", { type: "file", accept: "image/*", hidden: true });
  picker.addEventListener("change", () => {
    const [file] = picker.files;
    if (file) frame.inTurn(() => stack.addFile(file));
    picker.value = "";
  });
  const act = (text, title, run) => frame.button(text, run, { title });
  const up = act(word("scribble_up"), word("scribble_up_note"), () => stack.shift(1));
  const down = act(word("scribble_down"), word("scribble_down_note"), () => stack.shift(-1));
  const merge = act(word("scribble_merge"), word("scribble_merge_note"), () => stack.mergeDown());
  const fromMap = act(word("scribble_from_map"), word("scribble_from_map_note"), () => stack.addPicture(frame.map, word("scribble_map")));
  /** The layer that is given a name, and where that is written. */
  let naming = null;
  const endNaming = (isTaken) => {
    if (!naming) return;
    const { layer, input } = naming;
    const isHere = document.activeElement === input;
    naming = null;
    if (!isTaken || !stack.rename(layer, input.value)) show();
    if (isHere) list.querySelector(`[data-place="choose ${stack.layers.indexOf(layer)}"]`)?.focus();
  };
  const startNaming = (layer) => {
    endNaming(true);
    const { name } = layer;
    const input = make("input", { type: "text", maxlength: stack.longestName, "aria-label": word("scribble_name", { name }), className: "cnet-scribble-name" });
    input.value = name;
    input.addEventListener("keydown", (event) => {
      if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
      event.preventDefault(); // Escape would close the editor
      endNaming(event.key === "Enter");
    });
    input.addEventListener("blur", () => endNaming(true));
    naming = { layer, input };
    show();
    input.select();
  };
  /** Two presses of a name, one soon after the other: the first has made its button anew, so that nobody sees a double click. */
  let last = {};
  const pressName = (layer, { timeStamp }) => {
    const isAgain = last.layer === layer && timeStamp - last.time < TWICE;
    last = { layer, time: timeStamp };
    if (isAgain) startNaming(layer);
    else stack.select(layer);
  };
  const acts = [
    act(word("scribble_add"), word("scribble_add_note"), () => stack.add(() => stack.makeEmpty())),
    act(word("scribble_rename"), word("scribble_rename_note"), () => startNaming(stack.present)),
    ...[up, down, merge],
    act(word("scribble_invert"), word("scribble_invert_note"), () => stack.invert()),
    act(word("scribble_remove"), word("scribble_remove_note"), () => stack.remove()),
    fromMap,
    act(word("scribble_from_file"), word("scribble_from_file_note"), () => picker.click()),
  ];
  const opacity = frame.slider(word("scribble_opacity"), { min: 0.1, max: 1, step: 0.05, value: 1 }, (value) => {
    stack.present.opacity = value;
    stack.present.image.opacity(value);
  });
  opacity.title = word("scribble_opacity_note");
  opacity.addEventListener("change", () => frame.changed());
  const heading = make("h4", { className: "cnet-scribble-heading" }, word("scribble_layers"));
  frame.side.append(heading, list, opacity, make("div", { className: "cnet-scribble-acts" }, ...acts, picker));

  const row = (layer, i) => {
    const { name, isShown } = layer;
    const see = frame.button(isShown ? "\u25C9" : "\u25CB", () => stack.toggle(layer), { title: word("scribble_see", { name }), pressed: isShown });
    const choose = frame.button(name, () => {}, { pressed: i === stack.active, className: "cnet-scribble-name" });
    choose.addEventListener("click", (event) => pressName(layer, event));
    see.dataset.place = `see ${i}`;
    choose.dataset.place = `choose ${i}`;
    return make("div", { className: "cnet-scribble-layer" }, see, naming?.layer === layer ? naming.input : choose);
  };
  const show = () => {
    if (naming && list.contains(naming.input)) {
      endNaming(true); // shows it
      return;
    }
    const { place } = (list.contains(document.activeElement) && document.activeElement.dataset) || {};
    list.replaceChildren(...stack.layers.map(row).reverse());
    if (place) list.querySelector(`[data-place="${place}"]`)?.focus();
    up.disabled = stack.active === stack.layers.length - 1;
    down.disabled = merge.disabled = stack.active === 0;
    fromMap.disabled = !frame.map;
    opacity.set(stack.present.opacity);
  };
  return { showList: show, rename: () => startNaming(stack.present) };
}

export async function create(frame) {
  const [raster, lines, { Stack }] = await Promise.all(["raster.mjs", "scribble_layers.mjs", "scribble_stack.mjs"].map(frame.load));
  let list;
  const stack = new Stack(frame, raster, lines, () => list.showList());
  const pointer = new Pointer(frame, raster, lines, stack);
  const keys = {
    ...buildBar(frame, pointer),
    n: () => stack.add(() => stack.makeEmpty()),
    v: () => stack.toggle(),
    f2: () => list.rename(),
  };
  list = buildList(frame, stack);
  frame.strokes(pointer);
  return {
    load(state) {
      pointer.forget();
      return state ? stack.load(state) : stack.begin();
    },
    save: () => stack.save(),
    result() {
      const whole = stack.compose();
      if (!whole.data.some((value) => value > lines.BLACK)) throw new Error(frame.word("scribble_empty"));
      return raster.toUrl(whole, raster.makePalette(lines.GREYS));
    },
    key(event) {
      const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
      const act = isPlain && keys[event.key.toLowerCase()];
      if (act) act();
      return Boolean(act);
    },
  };
}
