// What can be taken hold of in a pose, and how that is marked: joints, limbs, the box of the selected
// figure with its corners and the knob that turns it, hidden joints and names.

const REACH = { mouse: 9, pen: 12, touch: 22 }; // screen pixels from a joint within which it is meant
const MARGIN = 14; // screen pixels between a figure and its box
const KNOB = 30; // screen pixels from the box to what turns it
const [GRIP, ACCENT, DARK] = [5, "#5eead4", "#0f172a"];

const distance = (p, [x, y]) => Math.hypot(p.x - x, p.y - y);

export class Marks {
  constructor(tool) {
    this.tool = tool;
    this.shape = new tool.frame.Konva.Shape({ listening: false, sceneFunc: (pen) => this.draw(pen) });
    tool.frame.handles.add(this.shape);
  }

  redraw() {
    this.shape.getLayer()?.batchDraw();
  }

  /** Numbers of the figures, that on top first; the selected one before all. */
  byNearness() {
    const order = [...this.tool.list.keys()].reverse();
    return this.tool.figure ? [this.tool.selected, ...order.filter((number) => number !== this.tool.selected)] : order;
  }

  /** What of the canvas is seen, but for a margin in which a grip would be cut. */
  seen() {
    const { stage } = this.tool.frame;
    const scale = this.tool.frame.scale();
    const [left, top] = [stage.x(), stage.y()].map((at) => (2 * GRIP - at) / scale);
    const [right, bottom] = [stage.width() - stage.x(), stage.height() - stage.y()].map((at) => (at - 2 * GRIP) / scale);
    return { left, top, right, bottom };
  }

  /** The box of the selected figure with what is around it, as far as that is seen, in pixels of the canvas. */
  box() {
    const gap = MARGIN / this.tool.frame.scale();
    const { left, top, width, height } = this.tool.F.bounds(this.tool.figure);
    const seen = this.seen();
    const [first, above] = [Math.max(left - gap, Math.min(left, seen.left)), Math.max(top - gap, Math.min(top, seen.top))];
    const last = Math.min(left + width + gap, Math.max(left + width, seen.right));
    const below = Math.min(top + height + gap, Math.max(top + height, seen.bottom));
    return { left: first, top: above, width: last - first, height: below - above };
  }

  /** Where the box is gripped: its corners, each with the opposite one, and the knob that turns it. */
  grips() {
    const { left, top, width, height } = this.box();
    const [right, bottom] = [left + width, top + height];
    const corners = [[left, top], [right, top], [right, bottom], [left, bottom]];
    const grips = corners.map((at, i) => ({ at, across: corners[(i + 2) % 4] }));
    return { grips, knob: [left + width / 2, this.knobAt(top, bottom)] };
  }

  /** How far down the knob is: above the box, below it or, where neither is seen, in it. */
  knobAt(top, bottom) {
    const far = KNOB / this.tool.frame.scale();
    const seen = this.seen();
    if (top - far >= seen.top) return top - far;
    return bottom + far <= seen.bottom ? bottom + far : Math.max(top, seen.top) + far;
  }

  /** What a press at a point takes hold of: { mode, number } and what belongs to that; null for nothing. */
  find(p) {
    const reach = (REACH[p.pointerType] || REACH.mouse) / this.tool.frame.scale();
    const order = this.byNearness();
    for (const number of order) {
      const found = this.tool.F.nearestPoint(this.tool.list[number], p.x, p.y, reach, number === this.tool.selected);
      if (found) return { mode: "joint", number, part: found.part, indices: [found.index] };
    }
    if (this.tool.figure) {
      const { grips, knob } = this.grips();
      if (distance(p, knob) <= reach * 1.2) return { mode: "turn", number: this.tool.selected };
      const grip = grips.find(({ at }) => distance(p, at) <= reach * 1.2);
      if (grip) return { mode: "grow", number: this.tool.selected, across: grip.across };
    }
    for (const number of order) {
      const found = this.tool.F.nearestLimb(this.tool.list[number], this.tool.tables, p.x, p.y, reach);
      if (found) return { mode: "limb", number, part: found.part, indices: found.indices };
    }
    const inside = order.find((number) => this.tool.F.isInside(this.tool.F.bounds(this.tool.list[number]), p.x, p.y, reach));
    return inside === undefined ? null : { mode: "whole", number: inside };
  }

  // ---- what is drawn ----

  draw(pen) {
    const scale = this.tool.frame.scale();
    if (this.tool.figure) {
      this.tool.drawing.drawHidden(pen, this.tool.figure, scale);
      this.drawBox(pen, scale);
      if (this.tool.joint) this.drawJoint(pen, scale, { number: this.tool.selected, ...this.tool.joint });
    }
    if (this.tool.hovered && this.tool.list[this.tool.hovered.number]) this.drawJoint(pen, scale, this.tool.hovered);
  }

  drawBox(pen, scale) {
    const { left, top, width, height } = this.box();
    const { grips, knob } = this.grips();
    const edge = knob[1] < top ? top : Math.min(top + height, Math.max(top, knob[1]));
    pen.strokeStyle = ACCENT;
    pen.lineWidth = 1.5 / scale;
    pen.setLineDash([6 / scale, 4 / scale]);
    pen.strokeRect(left, top, width, height);
    pen.setLineDash([]);
    pen.beginPath();
    pen.moveTo(left + width / 2, edge);
    pen.lineTo(...knob);
    pen.stroke();
    pen.fillStyle = DARK;
    for (const [x, y] of grips.map(({ at }) => at)) {
      pen.fillRect(x - GRIP / scale, y - GRIP / scale, (2 * GRIP) / scale, (2 * GRIP) / scale);
      pen.strokeRect(x - GRIP / scale, y - GRIP / scale, (2 * GRIP) / scale, (2 * GRIP) / scale);
    }
    pen.beginPath();
    pen.arc(...knob, (GRIP + 1) / scale, 0, 2 * Math.PI);
    pen.fill();
    pen.stroke();
  }

  /** A ring around a joint, and its name beside it. */
  drawJoint(pen, scale, { number, part, index }) {
    const point = this.tool.list[number].parts[part]?.[index];
    if (!point) return;
    const [x, y] = point;
    pen.strokeStyle = ACCENT;
    pen.lineWidth = 2 / scale;
    pen.beginPath();
    pen.arc(x, y, 8 / scale, 0, 2 * Math.PI);
    pen.stroke();
    const text = this.tool.nameOf(part, index);
    pen.font = [`${13 / scale}px`, "sans-serif"].join(" ");
    const wide = pen.measureText(text).width + 10 / scale;
    const { stage } = this.tool.frame;
    const isAtEdge = stage.x() + (x + wide) * scale + 12 > stage.width();
    const left = isAtEdge ? x - wide - 12 / scale : x + 12 / scale;
    pen.fillStyle = "rgb(15 23 42 / 85%)";
    pen.fillRect(left, y - 22 / scale, wide, 19 / scale);
    pen.fillStyle = "#fff";
    pen.fillText(text, left + 5 / scale, y - 8 / scale);
  }
}
