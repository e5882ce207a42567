// Figures of a pose, as the editor of poses moves them.
//
// A figure is { kind: "person" | "animal", colour: number, parts: { name: points } } with the parts
// `body`, `left_hand`, `right_hand` and `face`, or `animal`. A point is [x, y, seen] in pixels of the
// canvas; null where there was never one, and seen is 0 for one that is hidden. Nothing here changes
// a figure: what differs is made anew, what does not is shared, so states of the past cost little.

/** Farther out no pointer comes; the server refuses what is beyond. */
const FARTHEST = 1e5;
/** Letters of a pose's text that the server reads; one more, and it says so. */
export const MOST_TEXT = 4 * 1024 * 1024;

/** Parts that hang on a point of the body, and go where that goes. */
const HANGING = { right_hand: 4, left_hand: 7, face: 0 };
const CROWDED = 1.6;
const SIDES = { right_hand: "left_hand", left_hand: "right_hand" };
export const HANDS = ["right_hand", "left_hand"];

/** The table that a part is drawn by. */
export const tableOf = (tables, part) => tables[part.endsWith("hand") ? "hand" : part];

const bound = (value) => Math.min(Math.max(value, -FARTHEST), FARTHEST);
const moved = (point, change) => {
  if (!point) return point;
  const [x, y] = change(point[0], point[1]);
  return [bound(x), bound(y), point[2]];
};

/** The figures of the server's answer to `read_pose`; a figure without points is none. */
export function readFigures(found) {
  return found
    .map((parts, colour) => {
      const given = Object.entries(parts).map(([part, points]) => [part, points.map((point) => point && [...point, 1])]);
      return { kind: parts.animal ? "animal" : "person", colour, parts: Object.fromEntries(given) };
    })
    .filter((figure) => entries(figure).some(({ point }) => point));
}

/** All points of a figure: { part, index, point }. */
export const entries = (figure) =>
  Object.entries(figure.parts).flatMap(([part, points]) => points.map((point, index) => ({ part, index, point })));

const isSeen = (point) => Boolean(point?.[2]);

/** The box around what is seen of a figure, or else around all that it has. */
export function bounds(figure) {
  const all = entries(figure).map(({ point }) => point).filter(Boolean);
  const seen = all.some(isSeen) ? all.filter(isSeen) : all;
  const [across, down] = [0, 1].map((axis) => seen.map((point) => point[axis]));
  const [left, top] = [Math.min(...across), Math.min(...down)];
  return { left, top, width: Math.max(...across) - left, height: Math.max(...down) - top };
}

export const middle = ({ left, top, width, height }) => [left + width / 2, top + height / 2];

/** A figure with all points where `change` brings them. */
export function transform(figure, change) {
  const parts = Object.entries(figure.parts).map(([part, points]) => [part, points.map((point) => moved(point, change))]);
  return { ...figure, parts: Object.fromEntries(parts) };
}

export const shift = (figure, across, down) => transform(figure, (x, y) => [x + across, y + down]);

export const scale = (figure, [left, top], across, down = across) =>
  transform(figure, (x, y) => [left + (x - left) * across, top + (y - top) * down]);

export function rotate(figure, [left, top], angle) {
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  return transform(figure, (x, y) => [left + (x - left) * cos - (y - top) * sin, top + (x - left) * sin + (y - top) * cos]);
}

/** A figure turned to its other side about its middle: what was the right hand is the left one. */
export function mirror(figure, tables) {
  const [centre] = middle(bounds(figure));
  const turned = transform(figure, (x, y) => [2 * centre - x, y]);
  const parts = Object.entries(turned.parts).map(([part, points]) => {
    const swapped = [...points];
    for (const [right, left] of tableOf(tables, part).pairs) {
      if (right >= points.length || left >= points.length) continue;
      [swapped[right], swapped[left]] = [points[left], points[right]];
    }
    return [SIDES[part] || part, swapped];
  });
  return { ...turned, parts: Object.fromEntries(parts) };
}

/** The points that hang on one, itself first, down to fingers and toes. */
function descend(tables, part, index) {
  const found = [index];
  for (const one of found) {
    for (const [first, second] of tableOf(tables, part).limbs) if (first === one && !found.includes(second)) found.push(second);
  }
  return found;
}

/**
 * The points that move when some of a part are dragged: { part: [index] }.
 *
 * Hands go with their wrists and the face with the nose; `wholly` takes all that hangs on the points along.
 */
export function reach(figure, tables, part, indices, wholly) {
  const own = wholly ? [...new Set(indices.flatMap((index) => descend(tables, part, index)))] : indices;
  const found = { [part]: own };
  if (part !== "body") return found;
  for (const [other, at] of Object.entries(HANGING)) {
    if (own.includes(at) && figure.parts[other]) found[other] = [...figure.parts[other].keys()];
  }
  return found;
}

/** A figure with some points moved: { part: [index] } by so many pixels. */
export function movePoints(figure, found, across, down) {
  const parts = { ...figure.parts };
  for (const [part, indices] of Object.entries(found)) {
    parts[part] = [...parts[part]];
    for (const index of indices) parts[part][index] = moved(parts[part][index], (x, y) => [x + across, y + down]);
  }
  return { ...figure, parts };
}

/** Where a point that a figure never had might be: beside those that it is joined to, or in the middle. */
function guess(figure, tables, part, index) {
  const points = figure.parts[part];
  const [left, top] = middle(bounds(figure));
  const near = tableOf(tables, part).limbs.filter((limb) => limb.includes(index)).map(([a, b]) => points[a === index ? b : a]);
  const [x, y] = near.find(Boolean) || [left, top];
  const step = Math.max(bounds(figure).height / 12, 4);
  return [x, y + (near.some(Boolean) ? step : 0), 1];
}

/** A figure with a point hidden, or shown again. */
export function toggle(figure, tables, part, index) {
  const points = [...figure.parts[part]];
  const point = points[index];
  points[index] = point ? [point[0], point[1], point[2] ? 0 : 1] : guess(figure, tables, part, index);
  return { ...figure, parts: { ...figure.parts, [part]: points } };
}

/** Points of a template, laid from `from` along `along` (x, y), mirrored if need be. */
const lay = (template, [left, top], [x, y], isMirrored) =>
  template.map(([across, down]) => {
    const side = isMirrored ? -across : across;
    return [left + side * -y + down * x, top + side * x + down * y, 1];
  });

/** A person with a hand more, or less. The hand goes on where the forearm ends, as long as its share of that. */
export function toggleHand(figure, part, template) {
  const { [part]: present, ...rest } = figure.parts;
  if (present) return { ...figure, parts: rest };
  const wrist = HANGING[part];
  const [from, elbow] = [figure.parts.body?.[wrist], figure.parts.body?.[wrist - 1]];
  const size = bounds(figure).height;
  const start = from || middle(bounds(figure));
  const forearm = from && elbow ? [from[0] - elbow[0], from[1] - elbow[1]] : [0, size / 7];
  const length = Math.hypot(...forearm) || 1;
  const wanted = Math.max(length * 0.7, size * 0.05);
  const along = forearm.map((one) => (one / length) * wanted);
  return { ...figure, parts: { ...figure.parts, [part]: lay(template, start, along, part === "left_hand") } };
}

/** A person with a face more, or less; it goes to the eyes, or else above the neck. */
export function toggleFace(figure, template) {
  const { face, ...rest } = figure.parts;
  if (face) return { ...figure, parts: rest };
  const body = figure.parts.body || [];
  const [nose, neck, right, left] = [0, 1, 14, 15].map((index) => body[index]);
  const apart = right && left ? Math.hypot(left[0] - right[0], left[1] - right[1]) : 0;
  const size = bounds(figure).height;
  const eye = apart > size / 100 ? apart : nose && neck ? Math.hypot(nose[0] - neck[0], nose[1] - neck[1]) * 0.42 : size * 0.035;
  const between = right && left ? [(right[0] + left[0]) / 2, (right[1] + left[1]) / 2] : nose ? [nose[0], nose[1] - eye * 0.6] : neck ? [neck[0], neck[1] - eye * 3] : middle(bounds(figure));
  const angle = apart > size / 100 ? Math.atan2(left[1] - right[1], left[0] - right[0]) : 0;
  const turn = Math.abs(angle) > Math.PI / 2 ? angle - Math.PI : angle; // seen from behind, or mirrored
  const along = [-Math.sin(turn) * eye, Math.cos(turn) * eye];
  return { ...figure, parts: { ...figure.parts, face: lay(template, between, along, true) } };
}

/** A figure of the library, so high and about a point. */
export function fromLibrary({ kind, points }, height, [x, y], colour) {
  const part = kind === "animal" ? "animal" : "body";
  const figure = { kind, colour, parts: { [part]: points.map((point) => point && [...point, 1]) } };
  const box = bounds(figure);
  const [left, top] = middle(box);
  const size = height / (kind === "animal" ? Math.max(box.width, box.height) : 1);
  return transform(figure, (across, down) => [x + (across - left) * size, y + (down - top) * size]);
}

// What is under a pointer.

const between = ([x, y], [fromX, fromY], [toX, toY]) => {
  const [across, down] = [toX - fromX, toY - fromY];
  const share = ((x - fromX) * across + (y - fromY) * down) / (across * across + down * down || 1);
  const at = Math.min(Math.max(share, 0), 1);
  return Math.hypot(x - fromX - at * across, y - fromY - at * down);
};

/** The nearest point of a figure within a distance: { part, index, distance }; hidden ones if `ghosts`. */
export function nearestPoint(figure, x, y, distance, ghosts) {
  let best = null;
  for (const { part, index, point } of entries(figure)) {
    if (!point || !(point[2] || ghosts)) continue;
    // A body's joints are meant before the many points of the hand or face that lies on them.
    const far = Math.hypot(point[0] - x, point[1] - y) * (part in HANGING ? CROWDED : 1);
    if (far <= distance && far < (best?.distance ?? Infinity)) best = { part, index, distance: far };
  }
  return best;
}

/** The nearest limb of a figure within a distance: { part, indices, distance }. */
export function nearestLimb(figure, tables, x, y, distance) {
  let best = null;
  for (const [part, points] of Object.entries(figure.parts)) {
    for (const indices of tableOf(tables, part).limbs) {
      const [from, to] = indices.map((index) => points[index]);
      if (!isSeen(from) || !isSeen(to)) continue;
      const far = between([x, y], from, to);
      if (far <= distance && far < (best?.distance ?? Infinity)) best = { part, indices, distance: far };
    }
  }
  return best;
}

export const isInside = ({ left, top, width, height }, x, y, margin) =>
  x >= left - margin && y >= top - margin && x <= left + width + margin && y <= top + height + margin;

// To the server, and from files.

/** The text of a file, as much as the server might read. */
export const readFile = (file) => file.slice(0, MOST_TEXT + 1).text();

function flat(points, { width, height }, fraction) {
  const seen = points.filter(isSeen);
  const isTiny = seen.every(([x, y]) => Math.abs(x) <= fraction && Math.abs(y) <= fraction);
  const [across, down] = isTiny ? [width, height] : [1, 1];
  return points.flatMap((point) => (isSeen(point) ? [point[0] / across, point[1] / down, 1] : [0, 0, 0]));
}

/**
 * Figures as the text of a pose, in pixels; `keys` has the name that each part has there.
 *
 * A part that has no point farther than `fraction` is taken for one in fractions of the canvas, so it is written in these.
 */
export function asText(figures, size, { keys, fraction }) {
  const of = (kind) => figures.filter((figure) => figure.kind === kind);
  const people = of("person").map(({ parts }) =>
    Object.fromEntries(Object.entries(keys).map(([key, part]) => [key, parts[part] ? flat(parts[part], size, fraction) : null])),
  );
  const animals = of("animal").map(({ parts }) => flat(parts.animal, size, fraction));
  return JSON.stringify({ people, animals, canvas_width: size.width, canvas_height: size.height });
}
