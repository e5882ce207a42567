// A pointer that keys move, for tools that draw: arrow keys move it over the map, by ten pixels with Shift,
// Enter presses and lets go, Escape takes back what is pressed. The tool is told as of any pointer (`view.mjs`).
//
// A tool whose strokes have `holds()` is used so: whether what a press has begun goes on until the next one, as a
// stroke does, or is done with, as a filling. Its `nameAt(point)`, if there is one, says what lies there.

const LONG = 10; // pixels of the map with Shift, else one
const ARM = 10; // screen pixels of the cross, each way
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const MODIFIERS = ["Shift", "Control", "Alt", "AltGraph", "Meta"];

export class Cursor {
  constructor(frame) {
    Object.assign(this, { frame, at: null, isShown: false, isDown: false });
    const { place, box, view, handles } = frame;
    this.cross = new frame.Konva.Shape({ listening: false, visible: false, sceneFunc: (pen) => this.draw(pen) });
    handles.add(this.cross);
    box.addEventListener("pointerdown", () => this.letGo(), true); // before the tool or a button hears of it
    place.addEventListener("pointermove", (event) => {
      if (this.isDown) return;
      this.at = view.inMap(event);
      this.show(false);
    });
  }

  get strokes() {
    return this.frame.view.handler;
  }

  /** Where it is, as a pointer's place. */
  point({ shiftKey: shift = false, altKey: alt = false } = {}) {
    const { width, height } = this.frame.size;
    const within = (value, most) => Math.min(Math.max(Math.floor(value), 0), most - 1) + 0.5;
    const { x, y } = this.at || { x: width / 2, y: height / 2 };
    return { x: within(x, width), y: within(y, height), pressure: 1, shift, alt, ctrl: false, pointerType: "keys", button: 0 };
  }

  /** Whether a key was the cursor's; any other lets go first. */
  key(event) {
    if (!this.strokes?.holds) return false;
    const isHere = event.target === this.frame.place && !event.ctrlKey && !event.metaKey;
    if (isHere && event.key in ARROWS && !event.altKey) this.move(ARROWS[event.key], event.shiftKey ? LONG : 1);
    else if (isHere && event.key === "Enter" && this.isShown) this.press(event);
    else if (event.key === "Escape" && this.isDown) this.letGo({}, true);
    else {
      if (!MODIFIERS.includes(event.key)) this.letGo();
      return false;
    }
    return true;
  }

  move([right, down], step) {
    const { x, y } = this.point();
    this.at = { x: x + right * step, y: y + down * step };
    const point = this.point();
    this.show(true);
    this.frame.view.reveal(point);
    if (this.isDown) this.strokes.move(point);
    this.strokes.hover?.(point);
    this.sayPlace();
  }

  press(event) {
    if (this.isDown) {
      this.letGo(event);
      return;
    }
    const { frame, strokes } = this;
    const { textContent: before } = frame.status;
    this.isDown = true;
    strokes.start(this.point(event));
    if (strokes.holds()) {
      this.say("editor_pressed");
    } else {
      this.isDown = false;
      strokes.end(this.point(event), false);
      strokes.hover?.(this.point());
      if (frame.status.textContent === before) this.sayPlace();
    }
    this.show(true);
  }

  letGo(event, isCancelled = false) {
    if (!this.isDown) return;
    this.isDown = false;
    this.strokes.end(this.point(event), isCancelled);
    this.strokes.hover?.(this.point());
    this.say("editor_let_go");
    this.show(true);
  }

  // ---- what is seen and said ----

  say(name) {
    const { x, y } = this.point();
    this.frame.say(this.frame.word(name, { x: Math.floor(x), y: Math.floor(y) }));
  }

  sayPlace() {
    const point = this.point();
    const place = `${Math.floor(point.x)}, ${Math.floor(point.y)}`;
    this.frame.say([this.strokes.nameAt?.(point), place].filter(Boolean).join(": "));
  }

  show(isShown) {
    this.isShown = isShown;
    this.cross.visible(isShown);
    this.cross.moveToTop();
    this.frame.handles.batchDraw();
  }

  draw(pen) {
    const { x, y } = this.point();
    const arm = ARM / this.frame.scale();
    for (const [colour, width] of [["black", 3], [this.isDown ? "#5eead4" : "white", 1]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width / this.frame.scale();
      pen.beginPath();
      pen.moveTo(x - arm, y);
      pen.lineTo(x + arm, y);
      pen.moveTo(x, y - arm);
      pen.lineTo(x, y + arm);
      pen.stroke();
    }
  }
}
