// What a pointer and the keys do on a segmentation map: brush, eraser, fill, rectangle, polygon, pick.
//
// The editor (segmentation.mjs) has the map. It gives `plane`, `label`, `erased`, `width` and `isWhole` (fill all of a
// class), `nameAt(point)`, `labelAt(point)`, and is told `show(bounds)`, `finish()`, `restore()`, `pick(label)`,
// `point(name)`, `chose(tool)` and `shaped(isOpen)`.

export const TOOLS = [
  ["brush", "b"],
  ["erase", "e"],
  ["fill", "g"],
  ["rectangle", "r"],
  ["polygon", "p"],
  ["pick", "i"],
];
const CLOSE = { mouse: 8, pen: 12, touch: 22, keys: 1 }; // screen pixels: a press so near to a polygon's first or last point closes it
const LINE = { strokeScaleEnabled: false, listening: false, visible: false };

export class Painter {
  constructor(frame, raster, editor) {
    Object.assign(this, { frame, raster, editor, tool: "brush", before: "brush", points: [], last: null });
    this.build();
    frame.strokes({
      start: (point) => this.start(point),
      move: (point) => this.move(point),
      end: (point, isCancelled) => this.end(point, isCancelled),
      hover: (point) => this.hover(point),
      holds: () => Boolean(this.stroke || this.corner),
      nameAt: (point) => editor.nameAt(point),
    });
    frame.view.moved = () => this.draw();
  }

  choose(tool) {
    this.cancel();
    if (tool === "pick" && this.tool !== "pick") this.before = this.tool;
    this.tool = tool;
    this.editor.chose(tool);
    this.draw();
  }

  /** What the present tool leaves. */
  get value() {
    return this.tool === "erase" ? this.editor.erased : this.editor.label;
  }

  /** A point as the brush takes it. */
  dab({ x, y }) {
    return { x, y, radius: this.editor.width / 2 };
  }

  // ---- the pointer ----

  start(point) {
    this.isPicking = point.alt || this.tool === "pick";
    if (this.isPicking) return;
    if (this.tool === "brush" || this.tool === "erase") this.beginStroke(point);
    else if (this.tool === "rectangle") this.corner = point;
    this.here = point;
    this.draw();
  }

  move(point) {
    this.here = point;
    if (this.stroke) this.extend(this.stroke.move(this.dab(point)));
    else if (this.corner) this.draw();
  }

  end(point, isCancelled) {
    if (isCancelled) {
      this.cancelStroke();
      return;
    }
    if (this.isPicking) this.pick(point);
    else if (this.stroke) this.endStroke(point);
    else if (this.corner) this.endRectangle(point);
    else if (this.tool === "fill") this.fill(point);
    else if (this.tool === "polygon") this.addPoint(point);
    this.isPicking = false;
    this.draw();
  }

  hover(point) {
    this.here = point;
    this.look();
  }

  /** Name what is under the pointer now. */
  look() {
    this.editor.point(this.here ? this.editor.nameAt(this.here) : "");
    this.draw();
  }

  // ---- strokes ----

  beginStroke(point) {
    const { plane } = this.editor;
    this.drawn = null;
    if (point.shift && this.last) this.extend(this.raster.drawSegment(plane, this.dab(this.last), this.dab(point), this.value));
    this.stroke = this.raster.startStroke(plane, this.value);
    this.extend(this.stroke.move(this.dab(point)));
  }

  extend(bounds) {
    this.drawn = this.raster.join(this.drawn, bounds);
    this.editor.show(bounds);
  }

  endStroke(point) {
    this.extend(this.stroke.end());
    this.stroke = null;
    this.last = point;
    this.finish(this.drawn);
  }

  /** Two fingers have come down, or the like: what was begun with the first is taken back. */
  cancelStroke() {
    if (this.stroke) this.editor.restore();
    Object.assign(this, { stroke: null, corner: null, isPicking: false });
    this.draw();
  }

  finish(bounds) {
    if (!bounds) return;
    this.editor.show(bounds);
    this.editor.finish();
  }

  // ---- areas ----

  fill(point) {
    const { plane, label, isWhole } = this.editor;
    const old = this.editor.labelAt(point);
    if (old === undefined || old === label) return;
    if (!isWhole) {
      this.finish(this.raster.fillArea(plane, point, label));
      return;
    }
    plane.data.forEach((one, i) => {
      if (one === old) plane.data[i] = label;
    });
    this.finish(this.raster.allOf(plane));
  }

  endRectangle(point) {
    const { plane } = this.editor;
    const { corner } = this;
    this.corner = null;
    this.finish(this.raster.fillRectangle(plane, corner, point, this.value));
  }

  addPoint(point) {
    const reach = (CLOSE[point.pointerType] || CLOSE.mouse) / this.frame.scale();
    const near = (other) => other && Math.hypot(other.x - point.x, other.y - point.y) < reach;
    if (this.points.length > 2 && (near(this.points[0]) || near(this.points.at(-1)))) {
      this.closePolygon();
      return;
    }
    if (near(this.points.at(-1))) return;
    this.points.push({ x: point.x, y: point.y });
    this.editor.shaped(this.points.length > 2);
  }

  closePolygon() {
    const ring = this.points.flatMap(({ x, y }) => [x, y]);
    const isShape = this.points.length > 2;
    this.cancel();
    if (isShape) this.finish(this.raster.fillPolygon(this.editor.plane, [ring], this.value));
  }

  /** Leave what is not finished. Returns whether there was something. */
  cancel() {
    const isBusy = Boolean(this.stroke || this.corner || this.points.length);
    this.points = [];
    this.editor.shaped(false);
    this.cancelStroke();
    return isBusy;
  }

  pick(point) {
    const label = this.editor.labelAt(point);
    if (label === undefined || !this.editor.pick(label)) return;
    if (this.tool === "pick") this.choose(this.before);
  }

  // ---- keys ----

  /** Whether a key was one of the map's. */
  key(event) {
    const isCommand = event.ctrlKey || event.metaKey || event.altKey;
    const tool = TOOLS.find(([, key]) => key === event.key.toLowerCase());
    if (tool && !isCommand) {
      this.choose(tool[0]);
      return true;
    }
    if (event.key === "Escape") return this.cancel();
    if (event.key.toLowerCase() === "z" && isCommand && !event.shiftKey && this.points.length) {
      this.points.pop();
      this.editor.shaped(this.points.length > 2);
      this.draw();
      return true;
    }
    if (event.key !== "Enter" || event.target !== this.frame.place || !this.points.length) return false;
    this.closePolygon();
    this.look();
    return true;
  }

  // ---- what is shown over the map ----

  build() {
    const { Konva, handles } = this.frame;
    const both = (Shape, more) => ["black", "white"].map((stroke, i) => new Shape({ ...LINE, stroke, strokeWidth: i ? 1 : 3, ...more }));
    this.rings = both(Konva.Circle, {});
    this.boxes = both(Konva.Rect, {});
    this.lines = both(Konva.Line, { lineJoin: "round" });
    this.shapes = [this.rings, this.boxes, this.lines];
    this.tag = new Konva.Label({ listening: false, visible: false });
    this.tag.add(new Konva.Tag({ fill: "black", opacity: 0.8, cornerRadius: 3 }), new Konva.Text({ fill: "white", fontSize: 13, padding: 4 }));
    handles.add(...this.shapes.flat(), this.tag);
  }

  put(shapes, attributes) {
    shapes.forEach((shape) => shape.setAttrs({ visible: Boolean(attributes), ...attributes }));
  }

  draw() {
    const { here, corner, points } = this;
    const scale = this.frame.scale();
    const isBrush = this.tool === "brush" || this.tool === "erase";
    this.put(this.rings, here && isBrush && { x: here.x, y: here.y, radius: this.editor.width / 2 });
    const box = corner && here && { x: Math.floor(Math.min(corner.x, here.x)), y: Math.floor(Math.min(corner.y, here.y)) };
    this.put(this.boxes, box && { ...box, width: Math.floor(Math.max(corner.x, here.x)) + 1 - box.x, height: Math.floor(Math.max(corner.y, here.y)) + 1 - box.y });
    const way = [...points, ...(here && points.length ? [here] : [])].flatMap(({ x, y }) => [x, y]);
    this.put(this.lines, way.length > 2 && { points: way });
    const name = here && here.pointerType !== "touch" && this.editor.nameAt(here);
    this.tag.visible(Boolean(name));
    if (name) {
      this.tag.getText().text(name);
      const { stage } = this.frame;
      const isAtEdge = stage.x() + here.x * scale + 14 + this.tag.width() > stage.width();
      const x = here.x + (isAtEdge ? -14 - this.tag.width() : 14) / scale;
      this.tag.setAttrs({ x, y: here.y + 14 / scale, scaleX: 1 / scale, scaleY: 1 / scale });
    }
    this.frame.handles.batchDraw();
  }
}
