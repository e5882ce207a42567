// The editor of poses: figures whose joints, limbs and wholes are dragged. Its map is drawn by the
// server, as `/controlnet/render_openpose_json` draws the same pose.
//
// Figures are never changed, only replaced (`pose_figure.mjs`), so a state is the list of them.

const KINDS = { person: "pose_person", animal: "pose_animal" };
const PARTS = { body: "pose_body", right_hand: "pose_right_hand", left_hand: "pose_left_hand", face: "pose_face", animal: "pose_body" };
const STILL = 4; // screen pixels within which a press is no drag
const HOLD = 550; // ms until a finger that rests on a joint hides it
const SNAP = Math.PI / 12;
const MOST_SCALE = 20;
const TALL = 0.8; // of the canvas is the height of a figure that is added
const BESIDE = [0, 0.25, -0.25, 0.12, -0.12]; // of the canvas to the right of its middle, one after the other
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const distance = (p, [x, y]) => Math.hypot(p.x - x, p.y - y);

export async function create(frame) {
  const names = ["figure", "draw", "library", "marks", "panel"];
  const [asked, figures, drawing, library, { Marks }, { Panel }] = await Promise.all([
    frame.ask("pose_tables"),
    ...names.map((name) => frame.load(`pose_${name}.mjs`)),
  ]);
  return new PoseTool(frame, { ...asked, figures, drawing, library }, Marks, Panel);
}

class PoseTool {
  constructor(frame, { tables, keys, names, fraction, figures, drawing, library }, Marks, Panel) {
    Object.assign(this, { frame, tables, keys, names, fraction, F: figures, drawing, library });
    this.tableOf = (part) => figures.tableOf(tables, part);
    Object.assign(this, { list: [], selected: -1, joint: null, hovered: null, drag: null, isWhole: false });
    this.shape = new frame.Konva.Shape({ listening: false, sceneFunc: (pen) => this.drawFigures(pen) });
    this.marks = new Marks(this);
    frame.content.add(this.shape);
    frame.strokes({
      start: (p) => this.start(p),
      move: (p) => this.move(p),
      end: (p, isCancelled) => this.end(isCancelled),
      hover: (p) => this.hover(p),
    });
    this.place = frame.stage.container();
    this.place.addEventListener("contextmenu", (event) => this.pressRight(event));
    this.place.addEventListener("keyup", () => this.settle());
    this.place.addEventListener("blur", () => this.settle());
    this.panel = new Panel(this);
  }

  // ---- what the frame calls ----

  async load(state) {
    this.drag = this.joint = this.hovered = null;
    if (state) {
      this.list = state.figures;
      this.resize(state);
    } else if (this.frame.pose) {
      const found = await this.read(JSON.stringify(this.frame.pose));
      this.list = this.F.readFigures(found.figures);
      this.resize(found);
    } else {
      this.list = [];
    }
    this.select(Math.min(this.selected, this.list.length - 1));
  }

  save() {
    const { width, height } = this.frame.size;
    return { figures: this.list, width, height };
  }

  async result() {
    if (!this.list.length) throw new Error(this.frame.word("pose_empty"));
    return this.frame.ask("render_pose", { text: this.text() });
  }

  // ---- poses as texts ----

  text() {
    return this.F.asText(this.list, this.frame.size, this);
  }

  read(text) {
    const { width, height } = this.frame.size;
    return this.frame.ask("read_pose", { text, width, height });
  }

  /** Show a pose in the place of what is there, on its own canvas. */
  async take(text) {
    const found = await this.read(text);
    this.list = this.F.readFigures(found.figures);
    this.resize(found);
    this.select(this.list.length === 1 ? 0 : -1);
    this.frame.changed();
    const { width, height } = found;
    this.frame.say(this.frame.word("pose_taken", { count: this.list.length, width, height }));
  }

  resize({ width, height }) {
    const { size } = this.frame;
    if (width !== size.width || height !== size.height) this.frame.resize({ width, height });
  }

  // ---- figures ----

  get figure() {
    return this.list[this.selected];
  }

  select(number, joint = null) {
    this.selected = number;
    this.joint = joint;
    this.show();
  }

  show() {
    this.shape.getLayer()?.batchDraw();
    this.marks.redraw();
    if (!this.drag) this.panel.update();
  }

  replace(figure, number = this.selected) {
    this.list = this.list.with(number, figure);
    this.show();
  }

  /** Change the selected figure by an action that is finished with that. */
  change(act) {
    if (!this.figure) {
      this.frame.say(this.frame.word("pose_none_selected"), true);
      return;
    }
    this.replace(act(this.figure));
    this.frame.changed();
  }

  nextColour() {
    return Math.max(-1, ...this.list.map(({ colour }) => colour)) + 1;
  }

  /** Put a figure of the library beside those that are there. */
  add(entry) {
    const { width, height } = this.frame.size;
    const wide = this.F.bounds(this.F.fromLibrary(entry, 1, [0, 0], 0)).width;
    const tall = Math.min(entry.kind === "animal" ? 0.6 * Math.min(width, height) : TALL * height, (0.9 * width) / wide);
    const half = Math.min((wide * tall) / 2, width / 2);
    const left = Math.min(Math.max((0.5 + BESIDE[this.list.length % BESIDE.length]) * width, half), width - half);
    this.insert(this.F.fromLibrary(entry, tall, [left, height / 2], this.nextColour()));
  }

  insert(figure) {
    this.list = [...this.list, figure];
    this.select(this.list.length - 1);
    this.frame.changed();
  }

  copy() {
    if (!this.figure) return;
    const step = 0.05 * this.frame.size.width;
    this.insert({ ...this.F.shift(this.figure, step, step / 2), colour: this.nextColour() });
  }

  remove() {
    if (!this.figure) return;
    this.list = this.list.toSpliced(this.selected, 1);
    this.select(Math.min(this.selected, this.list.length - 1));
    this.frame.changed();
  }

  /** Draw the selected figure after all others. */
  raise() {
    if (!this.figure) return;
    this.list = [...this.list.toSpliced(this.selected, 1), this.figure];
    this.select(this.list.length - 1);
    this.frame.changed();
  }

  turn(angle) {
    this.change((figure) => this.F.rotate(figure, this.F.middle(this.F.bounds(figure)), angle));
  }

  grow(factor) {
    this.change((figure) => this.F.scale(figure, this.F.middle(this.F.bounds(figure)), factor));
  }

  mirror() {
    this.change((figure) => this.F.mirror(figure, this.tables));
  }

  togglePart(part) {
    const { HAND, FACE } = this.library;
    this.change((figure) => (part === "face" ? this.F.toggleFace(figure, FACE) : this.F.toggleHand(figure, part, HAND)));
    this.joint = null;
  }

  toggleJoint({ part, index }) {
    this.change((figure) => this.F.toggle(figure, this.tables, part, index));
    const isShown = Boolean(this.figure.parts[part][index][2]);
    this.frame.say(this.frame.word(isShown ? "pose_shown" : "pose_hidden", { joint: this.nameOf(part, index) }));
  }

  nameOf(part, index) {
    const name = this.names[part]?.[index];
    return name ? this.frame.word(name) : this.frame.word("pose_point", { part: this.nameOfPart(part), number: index + 1 });
  }

  nameOfPart(part) {
    return this.frame.word(PARTS[part]);
  }

  nameOfFigure(number) {
    const { kind } = this.list[number];
    return this.frame.word(KINDS[kind], { number: number + 1 });
  }

  // ---- pointers ----

  start(p) {
    const found = this.marks.find(p);
    this.isBeside = !found;
    if (!found) return;
    const isOne = found.mode === "joint";
    this.select(found.number, isOne ? { part: found.part, index: found.indices[0] } : null);
    if (isOne && p.ctrl) {
      this.toggleJoint(this.joint);
      return;
    }
    if (p.shift && (isOne || found.mode === "limb")) found.mode = "whole";
    const middle = this.F.middle(this.F.bounds(this.figure));
    const points = found.part && this.F.reach(this.figure, this.tables, found.part, found.indices, this.isWhole || p.alt);
    this.drag = { ...found, points, from: p, middle, before: this.figure, list: this.list };
    if (isOne && p.pointerType === "touch") this.drag.timer = setTimeout(() => this.holdJoint(), HOLD);
  }

  /** A finger has rested on a joint. */
  holdJoint() {
    if (!this.drag || this.drag.isMoved) return;
    this.drag = null;
    this.toggleJoint(this.joint);
  }

  move(p) {
    const { drag } = this;
    if (!drag) return;
    if (!drag.isMoved && distance(p, [drag.from.x, drag.from.y]) * this.frame.scale() < STILL) return;
    drag.isMoved = true;
    clearTimeout(drag.timer);
    this.replace(this.dragged(drag, p), drag.number);
  }

  dragged({ mode, before, from, middle, across, points }, p) {
    const [right, down] = [p.x - from.x, p.y - from.y];
    if (mode === "whole") return this.F.shift(before, right, down);
    if (mode === "grow") {
      const factor = distance(p, across) / (distance(from, across) || 1);
      return this.F.scale(before, across, Math.min(Math.max(factor, 1 / MOST_SCALE), MOST_SCALE));
    }
    if (mode === "turn") {
      const [now, then] = [p, from].map(({ x, y }) => Math.atan2(y - middle[1], x - middle[0]));
      const angle = now - then;
      return this.F.rotate(before, middle, p.shift ? Math.round(angle / SNAP) * SNAP : angle);
    }
    return this.F.movePoints(before, points, right, down);
  }

  end(isCancelled) {
    const { drag } = this;
    this.drag = null;
    if (this.isBeside && !isCancelled) this.select(-1); // two fingers that move the view leave the choice
    if (!drag) return;
    clearTimeout(drag.timer);
    if (!drag.isMoved) return;
    if (isCancelled) {
      this.list = drag.list;
      this.show();
    } else {
      this.frame.changed();
    }
  }

  hover(p) {
    const found = p && !this.drag ? this.marks.find(p) : null;
    const cursors = { joint: "pointer", limb: "grab", whole: "move", grow: "nwse-resize", turn: "alias" };
    const cursor = this.drag ? "grabbing" : cursors[found?.mode] || "default";
    if (this.place.style.cursor !== cursor) this.place.style.cursor = cursor;
    const hovered = found?.mode === "joint" ? { number: found.number, part: found.part, index: found.indices[0] } : null;
    const [now, then] = [hovered, this.hovered].map((one) => one && `${one.number} ${one.part} ${one.index}`);
    if (now === then) return;
    this.hovered = hovered;
    this.marks.redraw();
  }

  /** The right button hides a joint, or shows it again; a finger that does so is seen to by `holdJoint`. */
  pressRight(event) {
    event.preventDefault();
    if (this.drag || event.button !== 2) return;
    const box = this.place.getBoundingClientRect();
    const { x, y } = this.frame.stage.position();
    const scale = this.frame.scale();
    const p = { x: (event.clientX - box.left - x) / scale, y: (event.clientY - box.top - y) / scale, pointerType: "mouse" };
    const found = this.marks.find(p);
    if (found?.mode !== "joint") return;
    this.select(found.number, { part: found.part, index: found.indices[0] });
    this.toggleJoint(this.joint);
  }

  // ---- keys ----

  key(event) {
    if (event.ctrlKey || event.metaKey) {
      if (event.key.toLowerCase() !== "d" || !this.figure) return false;
      this.copy();
      return true;
    }
    if (event.key === "Tab") return event.target === this.frame.place && this.step(event.shiftKey ? -1 : 1);
    if (event.key === "PageDown" || event.key === "PageUp") return this.choose(event.key === "PageDown" ? 1 : -1);
    if (!this.figure || event.target.matches("input, summary")) return false;
    if (STEPS[event.key]) return this.nudge(STEPS[event.key], event.shiftKey ? 10 : 1);
    const acts = {
      Delete: () => (this.joint ? this.toggleJoint(this.joint) : this.remove()),
      h: () => this.joint && this.toggleJoint(this.joint),
      m: () => this.mirror(),
      "[": () => this.turn(-SNAP / 3),
      "]": () => this.turn(SNAP / 3),
    };
    acts.Backspace = acts.Delete;
    if (!Object.hasOwn(acts, event.key)) return false;
    acts[event.key]();
    return true;
  }

  /** Select the next joint of the figure; false at the end, so that the key leaves the stage. */
  step(by) {
    if (!this.figure) return false;
    const all = this.F.entries(this.figure).filter(({ point }) => point);
    const at = this.joint ? all.findIndex(({ part, index }) => part === this.joint.part && index === this.joint.index) : -1;
    const next = this.joint ? all[at + by] : by > 0 && all[0];
    this.select(this.selected, next ? { part: next.part, index: next.index } : null);
    if (!next) return false;
    this.sayJoint();
    return true;
  }

  sayJoint() {
    const { part, index } = this.joint;
    const [x, y, seen] = this.figure.parts[part][index];
    const joint = this.nameOf(part, index);
    this.frame.say(`${seen ? `${joint}:` : this.frame.word("pose_hidden", { joint })} ${Math.round(x)}, ${Math.round(y)}`);
  }

  choose(by) {
    if (!this.list.length) return false;
    const start = this.figure ? this.selected + by : by > 0 ? 0 : -1;
    this.select((start + this.list.length) % this.list.length);
    this.frame.say(this.nameOfFigure(this.selected));
    return true;
  }

  /** Move the joint, or the whole figure, by keys; it is one action until the key is let go. */
  nudge([across, down], step) {
    const [right, below] = [across * step, down * step];
    if (this.joint) {
      const { part, index } = this.joint;
      const points = this.F.reach(this.figure, this.tables, part, [index], this.isWhole);
      this.replace(this.F.movePoints(this.figure, points, right, below));
      this.sayJoint();
    } else {
      this.replace(this.F.shift(this.figure, right, below));
    }
    this.isNudged = true;
    return true;
  }

  settle() {
    if (!this.isNudged) return;
    this.isNudged = false;
    this.frame.changed();
  }

  // ---- what is drawn ----

  drawFigures(pen) {
    for (const kind of ["person", "animal"]) {
      this.list.forEach((figure, number) => {
        if (figure.kind === kind) this.drawing.drawFigure(pen, figure, this.tableOf, number === this.selected ? 4 : 2);
      });
    }
  }
}
