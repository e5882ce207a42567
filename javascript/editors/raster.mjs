// Pixel work of the editors: planes of one byte per pixel that are drawn into with hard edges.
//
// A plane is `{ width, height, data: Uint8Array }`; what the bytes mean (a label, a grey) is its tool's. Nothing here is
// smoothed: a pixel takes the value or stays as it was, so that no in-between value comes to be. Coordinates are those
// of the map: pixel (x, y) covers x..x+1 and y..y+1, and belongs to a shape that holds its centre.
//
// What draws returns the bounds of what it may have changed, `{ left, top, right, bottom }` in whole pixels, the last two
// exclusive, or null for nothing; only these need to be shown anew. Only the end of the file knows of the page.

export const makePlane = (width, height, value = 0) => ({ width, height, data: new Uint8Array(width * height).fill(value) });

// Bounds.

export const allOf = ({ width, height }) => ({ left: 0, top: 0, right: width, bottom: height });

/** The bounds around two, either of which may be null. */
export function join(one, other) {
  if (!one || !other) return one || other;
  return {
    left: Math.min(one.left, other.left),
    top: Math.min(one.top, other.top),
    right: Math.max(one.right, other.right),
    bottom: Math.max(one.bottom, other.bottom),
  };
}

/** The part of bounds that lies in a plane, or null. */
export function clip(bounds, { width, height }) {
  if (!bounds) return null;
  const left = Math.max(0, Math.floor(bounds.left));
  const top = Math.max(0, Math.floor(bounds.top));
  const right = Math.min(width, Math.ceil(bounds.right));
  const bottom = Math.min(height, Math.ceil(bounds.bottom));
  return left < right && top < bottom ? { left, top, right, bottom } : null;
}

// Shapes.

const THINNEST = 0.75; // a thinner disc may lie between the centres of four pixels
const PIECE = 64; // long segments are gone through in pieces, as the box around a slanting one is mostly empty

/** The pixels of a line between two points, one per column or row of its longer side (Bresenham). */
export function drawLine(plane, from, to, value) {
  let [x, y] = [Math.floor(from.x), Math.floor(from.y)];
  const [endX, endY] = [Math.floor(to.x), Math.floor(to.y)];
  const [dx, dy] = [Math.abs(endX - x), -Math.abs(endY - y)];
  const [stepX, stepY] = [x < endX ? 1 : -1, y < endY ? 1 : -1];
  const bounds = { left: Math.min(x, endX), top: Math.min(y, endY), right: Math.max(x, endX) + 1, bottom: Math.max(y, endY) + 1 };
  let fault = dx + dy;
  for (;;) {
    if (x >= 0 && y >= 0 && x < plane.width && y < plane.height) plane.data[y * plane.width + x] = value;
    if (x === endX && y === endY) return clip(bounds, plane);
    const twice = 2 * fault;
    if (twice >= dy) {
      fault += dy;
      x += stepX;
    }
    if (twice <= dx) {
      fault += dx;
      y += stepY;
    }
  }
}

/**
 * All pixels that a disc covers on its way from one point to another: `{ x, y, radius }`, the radius growing evenly.
 *
 * A pixel p is covered if |p - c(t)| <= r(t) for a t in 0..1: a quadratic in t, whose least value is at a known place.
 */
export function drawSegment(plane, from, to, value) {
  if (Math.max(from.radius, to.radius) < THINNEST) return drawLine(plane, from, to, value);
  const widest = Math.max(from.radius, to.radius);
  const pieces = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(PIECE, 2 * widest)));
  const at = (part) => ({
    x: from.x + (to.x - from.x) * part,
    y: from.y + (to.y - from.y) * part,
    radius: Math.max(THINNEST, from.radius + (to.radius - from.radius) * part),
  });
  let bounds = null;
  for (let i = 0; i < pieces; i += 1) bounds = join(bounds, drawPiece(plane, at(i / pieces), at((i + 1) / pieces), value));
  return bounds;
}

function drawPiece(plane, from, to, value) {
  const box = {
    left: Math.min(from.x - from.radius, to.x - to.radius),
    top: Math.min(from.y - from.radius, to.y - to.radius),
    right: Math.max(from.x + from.radius, to.x + to.radius),
    bottom: Math.max(from.y + from.radius, to.y + to.radius),
  };
  const bounds = clip(box, plane);
  if (!bounds) return null;
  const [dx, dy, dr] = [to.x - from.x, to.y - from.y, to.radius - from.radius];
  const square = dx * dx + dy * dy - dr * dr;
  for (let y = bounds.top; y < bounds.bottom; y += 1) {
    for (let x = bounds.left; x < bounds.right; x += 1) {
      const [px, py] = [x + 0.5 - from.x, y + 0.5 - from.y];
      const slope = px * dx + py * dy + from.radius * dr;
      const start = px * px + py * py - from.radius * from.radius;
      const end = start - 2 * slope + square; // 0 or less: covered by the disc at the end
      const isBetween = square > 0 && slope > 0 && slope < square && start * square <= slope * slope;
      if (start <= 0 || end <= 0 || isBetween) plane.data[y * plane.width + x] = value;
    }
  }
  return bounds;
}

/**
 * A stroke of the brush through points as they come, rounded at each of them.
 *
 * `move` takes `{ x, y, radius }`; between the middles of two ways it follows the curve whose handle is the point
 * between them, so what it has drawn ends halfway to the last point, until `end`. Both return bounds.
 */
export function startStroke(plane, value) {
  let last = null;
  let middle = null;
  const mix = (one, other, part) => ({
    x: one.x + (other.x - one.x) * part,
    y: one.y + (other.y - one.y) * part,
    radius: one.radius + (other.radius - one.radius) * part,
  });
  const bend = (from, handle, to) => {
    const length = Math.hypot(handle.x - from.x, handle.y - from.y) + Math.hypot(to.x - handle.x, to.y - handle.y);
    const steps = Math.min(32, Math.max(1, Math.ceil(length / 4)));
    let bounds = null;
    let here = from;
    for (let i = 1; i <= steps; i += 1) {
      const part = i / steps;
      const next = mix(mix(from, handle, part), mix(handle, to, part), part);
      bounds = join(bounds, drawSegment(plane, here, next, value));
      here = next;
    }
    return bounds;
  };
  return {
    move(point) {
      if (!last) {
        [last, middle] = [point, point];
        return drawSegment(plane, point, point, value);
      }
      const next = mix(last, point, 0.5);
      const bounds = bend(middle, last, next);
      [last, middle] = [point, next];
      return bounds;
    },
    end() {
      return last ? drawSegment(plane, middle, last, value) : null;
    },
  };
}

/** The pixels from one point's to another's, both included, in whatever order. */
export function fillRectangle(plane, one, other, value) {
  const box = {
    left: Math.floor(Math.min(one.x, other.x)),
    top: Math.floor(Math.min(one.y, other.y)),
    right: Math.floor(Math.max(one.x, other.x)) + 1,
    bottom: Math.floor(Math.max(one.y, other.y)) + 1,
  };
  const bounds = clip(box, plane);
  for (let y = bounds?.top; y < bounds?.bottom; y += 1) {
    plane.data.fill(value, y * plane.width + bounds.left, y * plane.width + bounds.right);
  }
  return bounds;
}

/**
 * The pixels whose centre lies inside rings by the even-odd rule: a ring within a ring is a hole.
 *
 * A ring is `[x, y, x, y, ...]` and closes by itself. Polygons that share an edge share no pixel.
 */
export function fillPolygon(plane, rings, value) {
  const edges = [];
  for (const ring of rings) {
    for (let i = 0; i < ring.length; i += 2) {
      const j = (i + 2) % ring.length;
      if (ring[i + 1] !== ring[j + 1]) edges.push([ring[i], ring[i + 1], ring[j], ring[j + 1]]);
    }
  }
  const [xs, ys] = [0, 1].map((side) => edges.flatMap((edge) => [edge[side], edge[side + 2]]));
  const extent = (values, pick) => values.reduce((one, other) => pick(one, other), values[0]);
  const box = { left: extent(xs, Math.min), top: extent(ys, Math.min), right: extent(xs, Math.max), bottom: extent(ys, Math.max) };
  const bounds = edges.length ? clip(box, plane) : null;
  for (let y = bounds?.top; y < bounds?.bottom; y += 1) {
    const middle = y + 0.5;
    const crossings = edges
      .filter(([, y0, , y1]) => y0 <= middle !== y1 <= middle)
      .map(([x0, y0, x1, y1]) => x0 + ((middle - y0) / (y1 - y0)) * (x1 - x0))
      .sort((one, other) => one - other);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const from = Math.max(0, Math.ceil(crossings[i] - 0.5));
      const to = Math.min(plane.width, Math.ceil(crossings[i + 1] - 0.5));
      if (from < to) plane.data.fill(value, y * plane.width + from, y * plane.width + to);
    }
  }
  return bounds;
}

// Areas.

/**
 * The connected area round a pixel: `{ mask, bounds }`, the mask a plane of 0 and 1, or null outside of the plane.
 *
 * `isLike(i)` says whether the pixel at an offset of `data` belongs to it; the four neighbours of a pixel touch it.
 */
export function findArea({ width, height }, { x, y }, isLike) {
  const [startX, startY] = [Math.floor(x), Math.floor(y)];
  if (!(startX >= 0 && startY >= 0 && startX < width && startY < height)) return null;
  const mask = makePlane(width, height);
  const isOpen = (i) => !mask.data[i] && isLike(i);
  const starts = isOpen(startY * width + startX) ? [startY * width + startX] : [];
  let bounds = null;
  while (starts.length) {
    const start = starts.pop();
    if (mask.data[start]) continue;
    const top = Math.floor(start / width);
    const [first, end] = [top * width, (top + 1) * width];
    let [left, right] = [start, start + 1];
    while (left > first && isOpen(left - 1)) left -= 1;
    while (right < end && isOpen(right)) right += 1;
    mask.data.fill(1, left, right);
    bounds = join(bounds, { left: left - first, top, right: right - first, bottom: top + 1 });
    for (const step of [top > 0 ? -width : 0, top + 1 < height ? width : 0]) {
      for (let i = left; step && i < right; i += 1) {
        if (isOpen(i + step) && (i === left || !isOpen(i + step - 1))) starts.push(i + step);
      }
    }
  }
  return { mask, bounds };
}

/** Give a value to the pixels where a mask is not 0. */
export function fillMask(plane, mask, value, bounds = allOf(plane)) {
  for (let y = bounds?.top; y < bounds?.bottom; y += 1) {
    for (let i = y * plane.width + bounds.left; i < y * plane.width + bounds.right; i += 1) {
      if (mask.data[i]) plane.data[i] = value;
    }
  }
  return bounds;
}

/** Give a value to the connected area round a point whose values differ from the point's by `tolerance` at most. */
export function fillArea(plane, point, value, tolerance = 0) {
  const { data, width } = plane;
  const seed = data[Math.floor(point.y) * width + Math.floor(point.x)];
  const area = findArea(plane, point, (i) => Math.abs(data[i] - seed) <= tolerance);
  return area && fillMask(plane, area.mask, value, area.bounds);
}

// To keep.

const LONGEST = 2 ** 24 - 1;

/** A plane as runs of equal bytes (length * 256 + byte), for undo and storage: a drawing takes some kilobytes. */
export function pack({ width, height, data }) {
  let runs = new Uint32Array(1024);
  let count = 0;
  for (let start = 0, i = 1; start < data.length; i += 1) {
    if (i < data.length && data[i] === data[start] && i - start < LONGEST) continue;
    if (count === runs.length) {
      const longer = new Uint32Array(count * 2);
      longer.set(runs);
      runs = longer;
    }
    runs[count] = (i - start) * 256 + data[start];
    count += 1;
    start = i;
  }
  return { width, height, runs: runs.slice(0, count) };
}

export function unpack({ width, height, runs }) {
  const plane = makePlane(width, height);
  let at = 0;
  for (const run of runs) {
    const end = at + (run >>> 8);
    plane.data.fill(run & 255, at, end);
    at = end;
  }
  return plane;
}

// Colours, and the page.

/** Colours `[red, green, blue, alpha = 255]` for the bytes from 0 on -> what `paint` takes; further bytes are clear. */
export function makePalette(colours) {
  const bytes = new Uint8ClampedArray(256 * 4);
  colours.slice(0, 256).forEach(([red, green, blue, alpha = 255], i) => bytes.set([red, green, blue, alpha], i * 4));
  return new Uint32Array(bytes.buffer);
}

/** A part of a plane in colours, as ImageData. */
export function toPixels(plane, palette, bounds = allOf(plane)) {
  const { left, top, right, bottom } = bounds;
  const pixels = new ImageData(right - left, bottom - top);
  const words = new Uint32Array(pixels.data.buffer);
  let at = 0;
  for (let y = top; y < bottom; y += 1) {
    for (let i = y * plane.width + left; i < y * plane.width + right; i += 1, at += 1) words[at] = palette[plane.data[i]];
  }
  return pixels;
}

/** Show a part of a plane on the canvas of the plane's size that `pen` is the 2d context of. */
export function paint(pen, plane, palette, bounds = allOf(plane)) {
  if (bounds) pen.putImageData(toPixels(plane, palette, bounds), bounds.left, bounds.top);
}

export function makeCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** A plane as the data URL of a PNG. Colours without transparency are exact: a canvas changes no others. */
export function toUrl(plane, palette) {
  const canvas = makeCanvas(plane.width, plane.height);
  paint(canvas.getContext("2d"), plane, palette);
  return canvas.toDataURL("image/png");
}

/** The pixels of a picture in a size, or where it lies in that, as ImageData; without `isSmooth` by the nearest pixel. */
export function readPixels(image, width, height, isSmooth = false, at = { x: 0, y: 0, width, height }) {
  const pen = makeCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingEnabled = isSmooth;
  if (isSmooth) pen.imageSmoothingQuality = "high";
  pen.drawImage(image, at.x, at.y, at.width, at.height);
  return pen.getImageData(0, 0, width, height);
}

/**
 * For each pixel the number of its colour, or of the nearest, among `[red, green, blue]`s: `{ plane, strays }`.
 *
 * `strays` counts the pixels that had none of the colours exactly.
 */
export function readLabels({ width, height, data }, colours) {
  const plane = makePlane(width, height);
  const known = new Map();
  let strays = 0;
  for (let i = 0; i < plane.data.length; i += 1) {
    const [red, green, blue] = [data[i * 4], data[i * 4 + 1], data[i * 4 + 2]];
    const key = (red << 16) | (green << 8) | blue;
    let found = known.get(key);
    if (!found) {
      const far = colours.map(([r, g, b]) => (r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2);
      const least = Math.min(...far);
      found = { label: far.indexOf(least), isExact: least === 0 };
      known.set(key, found);
    }
    plane.data[i] = found.label;
    if (!found.isExact) strays += 1;
  }
  return { plane, strays };
}
