// Draws figures of a pose as `annotator/pose_drawing.py` does, but for the edges of lines, with a
// halo in each one's colour beneath: where limbs of several overlap it shows whose they are.

/** Halos, far apart in hue and lightness; a figure keeps its own. */
const HALOS = ["#ffffff", "#f59e0b", "#38bdf8", "#f472b6", "#a3e635", "#c084fc", "#fde047", "#2dd4bf"];
const HALO = 3; // pixels on each side of a limb

export const haloOf = (figure) => HALOS[figure.colour % HALOS.length];
const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
const isSeen = (point) => Boolean(point?.[2]);

/** Call `act` with both ends and the number of each limb of a part that is seen. */
function eachLimb(points, table, act) {
  table.limbs.forEach(([first, second], i) => {
    const [from, to] = [points[first], points[second]];
    if (isSeen(from) && isSeen(to)) act(from, to, i);
  });
}

function line(pen, [fromX, fromY], [toX, toY]) {
  pen.beginPath();
  pen.moveTo(fromX, fromY);
  pen.lineTo(toX, toY);
  pen.stroke();
}

function dot(pen, [x, y], radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

/** A slim ellipse from joint to joint. */
function ellipse(pen, [fromX, fromY], [toX, toY], width) {
  const [across, down] = [toX - fromX, toY - fromY];
  pen.beginPath();
  pen.ellipse((fromX + toX) / 2, (fromY + toY) / 2, Math.hypot(across, down) / 2, width / 2, Math.atan2(down, across), 0, 2 * Math.PI);
  pen.fill();
}

function drawHalo(pen, points, table, margin) {
  pen.lineWidth = Math.max(table.width, 2) + 2 * margin;
  eachLimb(points, table, (from, to) => line(pen, from, to));
  for (const point of points) if (isSeen(point)) dot(pen, point, Math.max(table.radius, table.width / 2) + margin);
}

function drawPart(pen, points, table, isSlim) {
  eachLimb(points, table, (from, to, i) => {
    pen.fillStyle = pen.strokeStyle = css(table.lines[i]);
    pen.lineWidth = table.width;
    if (isSlim) ellipse(pen, from, to, table.width);
    else line(pen, from, to);
  });
  points.forEach((point, i) => {
    if (!isSeen(point) || !table.radius) return;
    pen.fillStyle = css(table.dots[Math.min(i, table.dots.length - 1)]);
    dot(pen, point, table.radius);
  });
}

/** The parts in the order in which the server draws them. */
const ORDER = ["body", "left_hand", "right_hand", "face", "animal"];

/**
 * Draw a figure in pixels of the canvas.
 *
 * @param pen of a canvas, or Konva's.
 * @param tableOf gives the table of a part.
 * @param halo pixels around it, in the figure's own colour; 0 for none.
 */
export function drawFigure(pen, figure, tableOf, halo = HALO) {
  const parts = ORDER.filter((part) => figure.parts[part]).map((part) => [part, figure.parts[part], tableOf(part)]);
  pen.lineCap = pen.lineJoin = "round";
  if (halo) {
    pen.fillStyle = pen.strokeStyle = haloOf(figure);
    for (const [, points, table] of parts) drawHalo(pen, points, table, halo);
  }
  for (const [part, points, table] of parts) drawPart(pen, points, table, part === "body");
}

/** Rings where points of a figure are hidden; `scale` is screen pixels for one of the canvas. */
export function drawHidden(pen, figure, scale) {
  pen.lineWidth = 1.5 / scale;
  pen.strokeStyle = haloOf(figure);
  pen.globalAlpha = 0.8;
  for (const points of Object.values(figure.parts)) {
    for (const point of points) {
      if (!point || point[2]) continue;
      pen.setLineDash([3 / scale, 3 / scale]);
      pen.beginPath();
      pen.arc(point[0], point[1], 5 / scale, 0, 2 * Math.PI);
      pen.stroke();
    }
  }
  pen.setLineDash([]);
  pen.globalAlpha = 1;
}

/** A small picture of a figure, for a button. */
export function drawThumbnail(canvas, figure, tableOf) {
  const pen = canvas.getContext("2d");
  const points = Object.values(figure.parts).flat().filter(isSeen);
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const [width, height] = [Math.max(...xs) - left, Math.max(...ys) - top];
  const scale = Math.min((canvas.width - 8) / (width || 1), (canvas.height - 8) / (height || 1));
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.translate((canvas.width - width * scale) / 2 - left * scale, (canvas.height - height * scale) / 2 - top * scale);
  pen.scale(scale, scale);
  const thin = (part) => {
    const table = tableOf(part);
    return { ...table, width: 4 / scale, radius: table.radius && 2.2 / scale };
  };
  drawFigure(pen, figure, thin, 0);
}
