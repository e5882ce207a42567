// Label maps of segmentation: palettes, a picture's colours as labels, labels as a picture.
//
// A plane (raster.mjs) holds for each pixel the number of its class in a palette, or NONE. Classes of one colour are one
// label, since no map can tell them apart: the first of them, which is called by the names of all. Nothing here asks the
// page, so it is tried without one.

export const NONE = 255;
/** A colour farther than this from every class (as a distance in RGB) is not taken for one by itself. */
export const NEAR = 12;
const ROUNDS = 8; // pixels that a class grows into what is unclear: as far as JPEG smears colours
const SMOOTH = 16; // so near to black or white a colour tells nothing of its palette

const toRgb = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
const wordOf = ([red, green, blue]) => (red << 16) | (green << 8) | blue;
const rgbOf = (word) => [word >> 16, (word >> 8) & 255, word & 255];
const distance = ([r, g, b], [red, green, blue]) => Math.hypot(r - red, g - green, b - blue);

/** A palette as the server describes it -> one whose classes know their label, colour and name. */
export function readPalette(name, { classes, most_used: first }) {
  const byColour = new Map();
  const all = classes.map(([title, colour], number) => {
    if (!byColour.has(colour)) byColour.set(colour, { label: number, names: [] });
    const shared = byColour.get(colour);
    shared.names.push(title);
    return { number, title, colour, shared };
  });
  const labels = new Map(all.filter(({ number, shared }) => number === shared.label).map(({ number, colour, shared }) => [number, { colour, rgb: toRgb(colour), title: shared.names.join(" / ") }]));
  return {
    name,
    classes: all.map(({ shared, ...rest }) => ({ ...rest, label: shared.label })),
    first: new Set(first),
    labels,
    colours: classes.map(([, colour]) => toRgb(colour)),
  };
}

/** The nearest label of a colour and how far it is; each colour is looked for once. */
function makeFinder({ labels }) {
  const known = new Map();
  return (word) => {
    let found = known.get(word);
    if (!found) {
      const rgb = rgbOf(word);
      found = { label: NONE, far: distance(rgb, [0, 0, 0]) };
      for (const [label, { rgb: own }] of labels) {
        const far = distance(rgb, own);
        if (far < found.far) found = { label, far };
      }
      known.set(word, found);
    }
    return found;
  };
}

/** Go through the colours of pixels (ImageData) in order: `act(word, from, to)` for each run of one colour. */
function eachRun({ data }, act) {
  const wordAt = (i) => wordOf([data[4 * i], data[4 * i + 1], data[4 * i + 2]]);
  const count = data.length / 4;
  for (let start = 0; start < count; ) {
    const word = wordAt(start);
    let end = start + 1;
    while (end < count && data[4 * end] === word >> 16 && wordAt(end) === word) end += 1;
    act(word, start, end);
    start = end;
  }
}

/** The palette that pixels are painted in, or null where they are no such map: black and white tell nothing. */
export function guessPalette(pixels, palettes) {
  const counts = new Map();
  eachRun(pixels, (word, from, to) => counts.set(word, (counts.get(word) || 0) + to - from));
  const coloured = [...counts].filter(([word]) => Math.max(...rgbOf(word)) >= SMOOTH && Math.min(...rgbOf(word)) <= 255 - SMOOTH);
  const total = coloured.reduce((sum, [, count]) => sum + count, 0);
  const fits = palettes.map((palette) => {
    const find = makeFinder(palette);
    const share = (most) => coloured.reduce((sum, [word, count]) => sum + (find(word).far <= most ? count : 0), 0) / total;
    return { palette, exact: share(0), near: share(NEAR) };
  });
  const best = fits.reduce((one, other) => (other.exact + other.near > one.exact + one.near ? other : one));
  return best.exact >= 0.5 || best.near >= 0.8 ? best.palette : null;
}

/** The label among a pixel's neighbours whose colour is nearest to the pixel's; undefined if none is known yet. */
function nearestBeside(plane, isKnown, i, rgb, labels) {
  const { width, height, data } = plane;
  const [x, y] = [i % width, Math.floor(i / width)];
  let best;
  let least = Infinity;
  for (let row = Math.max(0, y - 1); row <= Math.min(height - 1, y + 1); row += 1) {
    for (let column = Math.max(0, x - 1); column <= Math.min(width - 1, x + 1); column += 1) {
      const other = row * width + column;
      if (!isKnown[other]) continue;
      const far = distance(rgb, labels.get(data[other])?.rgb || [0, 0, 0]);
      if (far < least) [best, least] = [data[other], far];
    }
  }
  return best;
}

/**
 * Pixels (ImageData) as labels: `{ plane, moved, lost }`.
 *
 * A colour within NEAR of a class is that class. Others are what resizing and JPEG leave between two areas, and may by
 * chance be near a third: they take the nearest among the classes beside them, from pixel to pixel, ROUNDS times. What
 * is still unclear has no class. `moved` counts pixels of a class that had not its exact colour, `lost` those without one.
 */
export function readLabels(pixels, palette) {
  const { width, height, data } = pixels;
  const plane = { width, height, data: new Uint8Array(width * height).fill(NONE) };
  const find = makeFinder(palette);
  const isKnown = new Uint8Array(width * height);
  let [moved, unclear] = [0, []];
  eachRun(pixels, (word, from, to) => {
    const { label, far } = find(word);
    if (far > NEAR) {
      for (let i = from; i < to; i += 1) unclear.push(i);
      return;
    }
    plane.data.fill(label, from, to);
    isKnown.fill(1, from, to);
    if (far > 0) moved += to - from;
  });
  const rgbAt = (i) => [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
  for (let round = 0; round < ROUNDS && unclear.length; round += 1) {
    const found = unclear.map((i) => nearestBeside(plane, isKnown, i, rgbAt(i), palette.labels));
    found.forEach((label, at) => {
      if (label === undefined) return;
      plane.data[unclear[at]] = label;
      isKnown[unclear[at]] = 1;
      moved += 1;
    });
    unclear = unclear.filter((_, at) => found[at] === undefined);
  }
  return { plane, moved, lost: unclear.length };
}

/** Labels of one palette as those of another by the meaning of classes: `{ plane, lost }`, lost ones have no class now. */
export function convert(plane, from, to, alike) {
  const numberOf = new Map(to.classes.map(({ title, label }) => [title, label]));
  const table = new Uint8Array(256).fill(NONE);
  for (const { number, label, title } of from.classes) {
    const pair = alike.find((one) => one[from.name] === title && to.name in one);
    if (number === label && pair) table[number] = numberOf.get(pair[to.name]);
  }
  let lost = 0;
  const data = plane.data.map((label) => {
    if (label !== NONE && table[label] === NONE) lost += 1;
    return table[label];
  });
  return { plane: { ...plane, data }, lost };
}

// A PNG of the labels and the palette, as they are. A canvas would do as long as the browser does not alter what scripts
// read from it, as some do against being recognised.

const CRC = Uint32Array.from({ length: 256 }, (_, i) => {
  let value = i;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function chunk(name, body) {
  const bytes = new Uint8Array(body.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, body.length);
  bytes.set(Array.from(name, (letter) => letter.charCodeAt(0)), 4);
  bytes.set(body, 8);
  let crc = 0xffffffff;
  for (const byte of bytes.subarray(4, -4)) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(body.length + 8, ~crc >>> 0);
  return bytes;
}

const compress = (bytes) => new Response(new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer();

/** A plane as an indexed PNG: a Blob. What has no class is black. */
export async function toPng({ width, height, data }, { colours }) {
  const head = new DataView(new ArrayBuffer(13));
  head.setUint32(0, width);
  head.setUint32(4, height);
  [8, 3, 0, 0, 0].forEach((value, i) => head.setUint8(8 + i, value)); // 8 bits, by a palette, plain
  const table = new Uint8Array(768);
  table.set(colours.flat());
  const rows = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y += 1) rows.set(data.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const parts = [chunk("IHDR", new Uint8Array(head.buffer)), chunk("PLTE", table), chunk("IDAT", new Uint8Array(await compress(rows))), chunk("IEND", [])];
  return new Blob([Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a), ...parts], { type: "image/png" });
}
