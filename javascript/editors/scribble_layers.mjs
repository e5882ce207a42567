// Layers of a scribble: what their bytes mean, and what they are together. Nothing here knows of the page.
//
// A byte of a layer is 0 for nothing, 1 for black that covers what is below, else the grey of a line on black. Lines of
// several layers meet as the brighter of the two. The brush draws 255, black or nothing; greys come from maps and files.

export const NOTHING = 0;
export const BLACK = 1;
export const WHITE = 255;
const BRIGHT = 127; // a picture that is brighter on average is taken for black on white

/** Lay a layer upon another, in place: both are planes of one size. */
export function lay(below, above) {
  const { data } = below;
  for (let i = 0; i < data.length; i += 1) {
    const value = above.data[i];
    if (value === BLACK) data[i] = BLACK;
    else if (value > data[i]) data[i] = value;
  }
  return below;
}

/** White where there was nothing, and nothing where there was white, in place. */
export function invert({ data }) {
  for (let i = 0; i < data.length; i += 1) {
    const value = data[i] <= BLACK ? WHITE : WHITE - data[i];
    data[i] = value === BLACK ? NOTHING : value;
  }
}

/** Greys of a map as the bytes of a layer. The grey 1, which nobody sees, is nothing. */
const toByte = (grey) => (grey === BLACK ? NOTHING : grey);

const brightness = (data, i) => Math.round(0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]);

/** Whether what is there of a transparent drawing is darker than it is bright. */
function isInkDark(data) {
  let [sum, weight] = [0, 0];
  for (let i = 0; i < data.length; i += 4) {
    sum += brightness(data, i) * data[i + 3];
    weight += data[i + 3];
  }
  return sum < BRIGHT * weight;
}

/**
 * A picture's RGBA pixels as bytes of a layer: `{ data, isInverted }`.
 *
 * Lines are bright in the layer: what is black on white, also on paper that is transparent, is inverted.
 */
export function readLines({ width, height, data }) {
  const greys = new Uint8Array(width * height);
  const paper = isInkDark(data) ? WHITE : 0;
  let sum = 0;
  for (let i = 0; i < greys.length; i += 1) {
    const cover = data[i * 4 + 3] / 255;
    greys[i] = Math.round(brightness(data, i * 4) * cover + paper * (1 - cover));
    sum += greys[i];
  }
  const isInverted = sum > BRIGHT * greys.length;
  for (let i = 0; i < greys.length; i += 1) greys[i] = toByte(isInverted ? WHITE - greys[i] : greys[i]);
  return { data: greys, isInverted };
}

/** Where a picture lies in another size: whole, in its proportions, in the middle. */
export function fitInto(picture, { width, height }) {
  const scale = Math.min(width / picture.width, height / picture.height);
  const size = { width: Math.max(1, Math.round(picture.width * scale)), height: Math.max(1, Math.round(picture.height * scale)) };
  return { ...size, x: Math.floor((width - size.width) / 2), y: Math.floor((height - size.height) / 2) };
}

/** The colours in which a layer is shown: lines are white, the darker the more of what lies below is seen. */
export const SHOWN = Array.from({ length: 256 }, (_, i) => (i === BLACK ? [0, 0, 0, 255] : [255, 255, 255, i]));

/** The colours of the finished map. */
export const GREYS = Array.from({ length: 256 }, (_, i) => (i === BLACK ? [0, 0, 0] : [i, i, i]));
