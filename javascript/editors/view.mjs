// The stage of an editor: a map and what lies beneath it, moved and zoomed by wheel, keys, the
// middle button, the space bar and two fingers; what else the pointer does goes to the tool.

const STEP = 1.25;
const ALIKE = 1.01; // proportions that differ by less are taken for the same
const [LEAST, MOST] = [0.05, 32]; // screen pixels for a pixel of the map
const EDGE = 4; // screen pixels from the element's border within which nothing counts as seen
const LEFT = 0;
const MIDDLE = 1;
const PEN_END = 5; // what the eraser of a pen is told as
/** What Konva listens to besides pointers; held back while the view is being moved. */
const OTHERS = ["mousedown", "mousemove", "touchstart", "touchmove"];

const middle = (points) => ({
  x: points.reduce((sum, point) => sum + point.x, 0) / points.length,
  y: points.reduce((sum, point) => sum + point.y, 0) / points.length,
});
const distance = ([a, b]) => Math.hypot(a.x - b.x, a.y - b.y);

/**
 * Where a picture of a size lies in another size as a resize mode has it, in whole pixels: 0 stretches, 1 covers, 2 fits in.
 *
 * One of almost the same proportions, as rounding leaves them, is stretched.
 */
export function placeIn(own, { width, height }, mode) {
  const sides = [width / own.width, height / own.height];
  const [least, most] = [Math.min(...sides), Math.max(...sides)];
  const [across, down] = mode === 0 || most < ALIKE * least ? sides : Array(2).fill(mode === 1 ? most : least);
  const [wide, high] = [own.width * across, own.height * down].map((side) => Math.max(1, Math.round(side)));
  return { x: Math.round((width - wide) / 2), y: Math.round((height - high) / 2), width: wide, height: high };
}

export class View {
  /** In an element, with a map of a size; `Konva` draws. */
  constructor(Konva, place, size) {
    this.place = place;
    this.size = size;
    this.stage = new Konva.Stage({ container: place, width: 1, height: 1 });
    this.below = new Konva.Layer({ listening: false });
    this.content = new Konva.Layer({ imageSmoothingEnabled: false });
    this.handles = new Konva.Layer();
    this.stage.add(this.below, this.content, this.handles);
    this.ground = new Konva.Rect({ fill: "black" });
    this.photograph = new Konva.Image({ visible: false });
    this.frame = new Konva.Group({ clipX: 0, clipY: 0 });
    this.frame.add(this.ground, this.photograph);
    this.below.add(this.frame);
    this.pointers = new Map();
    this.isFitted = true;
    this.handler = null;
    this.listening = new AbortController();
    this.listen();
    this.observer = new ResizeObserver(() => this.measure());
    this.observer.observe(place);
    this.resize(size);
  }

  /** Give the map another size. */
  resize(size) {
    Object.assign(this.size, size);
    this.ground.size(size);
    this.frame.clip({ x: 0, y: 0, ...size });
    this.fit();
  }

  measure() {
    const { clientWidth: width, clientHeight: height } = this.place;
    if (!width || !height) return;
    this.stage.size({ width, height });
    if (this.isFitted) this.fit();
  }

  scale() {
    return this.stage.scaleX();
  }

  fit() {
    const { width, height } = this.size;
    const room = this.stage.size();
    const scale = Math.min(Math.max(Math.min(room.width / width, room.height / height) * 0.96, LEAST), MOST);
    this.move(scale, (room.width - width * scale) / 2, (room.height - height * scale) / 2);
    this.isFitted = true;
  }

  move(scale, x, y) {
    this.isFitted = false;
    this.stage.setAttrs({ scaleX: scale, scaleY: scale, x, y });
    this.content.imageSmoothingEnabled(scale < 1);
    this.moved?.();
  }

  /** Zoom by a factor about a point of the element, the middle without one. */
  zoom(factor, point = { x: this.stage.width() / 2, y: this.stage.height() / 2 }) {
    const before = this.scale();
    const scale = Math.min(Math.max(before * factor, LEAST), MOST);
    const { x, y } = this.stage.position();
    this.move(scale, point.x - ((point.x - x) / before) * scale, point.y - ((point.y - y) / before) * scale);
  }

  /** Move the view just so far that a point of the map is seen. */
  reveal({ x, y }) {
    const { stage } = this;
    const off = (at, room) => Math.max(EDGE - at, 0) || Math.min(room - EDGE - at, 0);
    const across = off(stage.x() + x * this.scale(), stage.width());
    const down = off(stage.y() + y * this.scale(), stage.height());
    if (across || down) this.move(this.scale(), stage.x() + across, stage.y() + down);
  }

  closer() {
    this.zoom(STEP);
  }

  farther() {
    this.zoom(1 / STEP);
  }

  /** Lay a photograph beneath the map, see `placeIn`. */
  showPhotograph(image, mode) {
    this.photograph.visible(Boolean(image));
    if (!image) return;
    const own = { width: image.naturalWidth || 1, height: image.naturalHeight || 1 };
    this.photograph.setAttrs({ image, ...placeIn(own, this.size, mode) });
  }

  // Pointers.

  inElement(event) {
    const box = this.place.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  /** A pointer in pixels of the map. */
  inMap(event) {
    const point = this.inElement(event);
    const scale = this.scale();
    const { shiftKey: shift, altKey: alt, ctrlKey: ctrl, pointerType, button } = event;
    const pressure = pointerType === "pen" ? event.pressure : 1;
    const at = { x: (point.x - this.stage.x()) / scale, y: (point.y - this.stage.y()) / scale };
    return { ...at, pressure, shift, alt, ctrl, pointerType, button };
  }

  listen() {
    const { signal } = this.listening;
    const on = (name, act, target = this.place) => target.addEventListener(name, act.bind(this), { capture: true, passive: false, signal });
    on("pointerdown", this.press);
    on("pointermove", this.drag);
    for (const name of ["pointerup", "pointercancel"]) on(name, this.release, window); // also outside the stage
    on("pointerleave", (event) => this.pointers.has(event.pointerId) || this.handler?.hover?.(null));
    on("wheel", (event) => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? STEP : 1 / STEP, this.inElement(event));
    });
    on("contextmenu", (event) => event.preventDefault());
    for (const name of OTHERS) on(name, (event) => this.isMoving && event.stopPropagation());
  }

  /** Whether the pointers that are down move the view. */
  get isMoving() {
    return this.pointers.size > 1 || this.isGrabbed;
  }

  press(event) {
    this.pointers.set(event.pointerId, this.inElement(event));
    const wasStroke = this.stroke;
    if (event.button === MIDDLE || this.isHeld) this.isGrabbed = true;
    if (this.isMoving) {
      if (wasStroke !== undefined) this.end(event, true);
      this.stage.stopDrag();
      this.place.setPointerCapture(event.pointerId);
      event.stopPropagation();
      event.preventDefault();
      return;
    }
    if (!this.handler || ![LEFT, PEN_END].includes(event.button)) return;
    this.place.setPointerCapture(event.pointerId);
    this.stroke = event.pointerId;
    this.handler.start(this.inMap(event));
  }

  drag(event) {
    const before = [...this.pointers.values()];
    if (!this.pointers.has(event.pointerId)) {
      this.handler?.hover?.(this.inMap(event));
      return;
    }
    this.pointers.set(event.pointerId, this.inElement(event));
    if (this.isMoving) {
      event.stopPropagation();
      this.shift(before, [...this.pointers.values()]);
    } else if (this.stroke === event.pointerId) {
      const steps = event.getCoalescedEvents?.() || [];
      for (const step of steps.length ? steps : [event]) this.handler.move(this.inMap(step));
      this.handler.hover?.(this.inMap(event));
    }
  }

  /** Move and zoom as fingers, or a grabbing pointer, have moved. */
  shift(before, now) {
    const [from, to] = [middle(before), middle(now)];
    const { x, y } = this.stage.position();
    this.move(this.scale(), x + to.x - from.x, y + to.y - from.y);
    if (now.length === 2 && distance(before) > 0) this.zoom(distance(now) / distance(before), to);
  }

  release(event) {
    if (this.stroke === event.pointerId) this.end(event, event.type === "pointercancel");
    this.pointers.delete(event.pointerId);
    if (!this.pointers.size) this.isGrabbed = false;
  }

  end(event, isCancelled) {
    delete this.stroke;
    this.handler.end(this.inMap(event), isCancelled);
  }

  /** Hold the view: the next press moves it. */
  hold(isHeld) {
    this.isHeld = isHeld;
    this.place.classList.toggle("cnet-editor-held", isHeld);
  }

  destroy() {
    this.listening.abort();
    this.observer.disconnect();
    this.stage.destroy();
  }
}
