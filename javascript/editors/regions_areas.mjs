// Pixel work of the editor of regions: layers of 0 and 1, one for each unit, seen together and as one picture in colours.
//
// A layer is { plane, colour: [red, green, blue], zone }; the zone is its soft border (see `findZone`), or null.

/** The units' colours: those of the timeline. */
const [SATURATION, LIGHTNESS] = [0.62, 0.5];
const OPACITY = [0, 0.35, 0.62]; // by the values of a zone: outside, in the soft border, inside
/** Stripes where regions overlap, in the longer side of the map. */
const STRIPES = 64;
/** Colours of a picture: their least part of it, how many are offered, and how far apart they are. */
const [LEAST, MOST, APART] = [0.001, 12, 48];
const EVEN = 24; // levels by which pixels side by side differ within an area
const ALPHA = 128; // what is more transparent is nobody's

/** A colour of the wheel, hue in degrees -> [red, green, blue]. */
function fromHue(hue) {
  const reach = SATURATION * Math.min(LIGHTNESS, 1 - LIGHTNESS);
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (LIGHTNESS - reach * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

export const colourOf = (index) => fromHue(window.controlnetPanel.timeline.hueOf(index));
export const toHex = (colour) => `#${colour.map((level) => level.toString(16).padStart(2, "0")).join("")}`;

export const count = ({ data }) => data.reduce((sum, one) => sum + one, 0);

/** Grow what is 1 by a square of a radius: sums of a row, then of a column, of a window that slides along. */
function grow(data, width, height, radius) {
  const grown = new Uint8Array(data.length);
  const run = (from, to, start, step, length) => {
    let inside = 0;
    for (let i = -radius; i < length; i += 1) {
      if (i + radius < length) inside += from[start + (i + radius) * step];
      if (i - radius > 0) inside -= from[start + (i - radius - 1) * step];
      if (i >= 0) to[start + i * step] = inside > 0 ? 1 : 0;
    }
  };
  for (let y = 0; y < height; y += 1) run(data, grown, y * width, 1, width);
  const rows = grown.slice();
  for (let x = 0; x < width; x += 1) run(rows, grown, x, width, height);
  return grown;
}

/** Of each pixel whether it is outside (0), in a soft border of so many pixels (1) or inside (2); null without one. */
export function findZone({ data, width, height }, feather) {
  const radius = Math.round(feather / 2);
  if (!radius) return null;
  const zone = grow(data, width, height, radius);
  const others = grow(data.map((one) => 1 - one), width, height, radius);
  for (let i = 0; i < zone.length; i += 1) if (zone[i] && !others[i]) zone[i] = 2;
  return zone;
}

/** Show a part of the layers: where several are, in stripes of their colours. */
export function show(pen, layers, { left, top, right, bottom }) {
  const { width, height } = layers[0].plane;
  const pixels = new ImageData(right - left, bottom - top);
  const stripe = Math.max(3, Math.round(Math.max(width, height) / STRIPES));
  const here = [];
  let at = 0;
  for (let y = top; y < bottom; y += 1) {
    for (let x = left; x < right; x += 1, at += 4) {
      const i = y * width + x;
      here.length = 0;
      for (const layer of layers) if (layer.plane.data[i] || layer.zone?.[i]) here.push(layer);
      if (!here.length) continue;
      const { colour, plane, zone } = here[Math.floor((x + y) / stripe) % here.length];
      const level = plane.data[i] ? zone?.[i] || 2 : 1; // the zone is that before the stroke
      pixels.data.set(colour, at);
      pixels.data[at + 3] = 255 * OPACITY[level];
    }
  }
  pen.putImageData(pixels, left, top);
}

/**
 * All layers in one plane: `{ plane, shared }`, 0 for no region, else the layer's place in the list + 1.
 *
 * `shared` counts the pixels of several, which go to the last of them.
 */
export function merge(layers, makePlane) {
  const { width, height } = layers[0].plane;
  const plane = makePlane(width, height);
  let shared = 0;
  for (let i = 0; i < plane.data.length; i += 1) {
    let number = 0;
    layers.forEach((layer, k) => {
      if (!layer.plane.data[i]) return;
      number += 1;
      plane.data[i] = k + 1;
    });
    if (number > 1) shared += 1;
  }
  return { plane, shared };
}

/** The rectangles of a division, as parts of width and height: [left, top, right, bottom]. */
export function divide(name) {
  const [across, down] = { columns2: [2, 1], columns3: [3, 1], rows2: [1, 2], rows3: [1, 3], grid: [2, 2], grid6: [3, 2] }[name];
  return Array.from({ length: across * down }, (_, k) => {
    const [x, y] = [k % across, Math.floor(k / across)];
    return [x / across, y / down, (x + 1) / across, (y + 1) / down];
  });
}

const distance = (one, other) => Math.hypot(...one.map((level, k) => level - other[k]));

/** Whether a pixel is like the next one of its row and column: at edges, soft ones too, it is not. */
function isInside({ data, width, height }, i) {
  const pixel = i / 4;
  const steps = [pixel % width < width - 1 ? 4 : -4, pixel < width * (height - 1) ? 4 * width : -4 * width];
  for (const step of steps) for (let k = i; k < i + 3; k += 1) if (Math.abs(data[k] - data[k + step]) > EVEN) return false;
  return true;
}

/** What areas a picture is painted in, ImageData -> [{ colour, share }], the most frequent first. */
export function findColours(pixels) {
  const { data } = pixels;
  const cells = new Map();
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] < ALPHA || !isInside(pixels, i)) continue;
    const key = ((data[i] >> 3) << 10) | ((data[i + 1] >> 3) << 5) | (data[i + 2] >> 3);
    const cell = cells.get(key);
    if (cell) {
      cell[0] += 1;
      for (let k = 0; k < 3; k += 1) cell[k + 1] += data[i + k];
    } else cells.set(key, [1, data[i], data[i + 1], data[i + 2]]);
  }
  const found = [];
  for (const [number, ...sums] of [...cells.values()].sort((a, b) => b[0] - a[0])) {
    const share = (4 * number) / data.length;
    if (share < LEAST || found.length === MOST) break;
    const colour = sums.map((sum) => Math.round(sum / number));
    if (found.every((one) => distance(one.colour, colour) > APART)) found.push({ colour, share });
  }
  return found;
}

/** Which of some colours is meant by one: its place, -1 for none. */
export function findNearest(colour, colours) {
  const far = colours.map((one) => distance(one, colour));
  const least = Math.min(...far);
  return least <= APART ? far.indexOf(least) : -1;
}

/** The pixels of each of some colours, each pixel at the nearest: planes of 0 and 1. */
export function split(pixels, colours, { readLabels, makePlane }) {
  const { plane } = readLabels(pixels, colours);
  const planes = colours.map(() => makePlane(pixels.width, pixels.height));
  for (let i = 0; i < plane.data.length; i += 1) if (pixels.data[4 * i + 3] >= ALPHA) planes[plane.data[i]].data[i] = 1;
  return planes;
}
