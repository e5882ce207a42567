// Regions out of pictures and as pictures: the units' own masks, and one picture in colours as requests take it (`region_map`).

const MOST_BYTES = 64e6; // of a file
const HALF = 128; // of a mask's levels and of a drawing's alpha
const GREY = 24; // levels between the channels of a colour that is none

/** Pixels of a picture where a resize mode lays it over the map; what it leaves goes on as the edge is, as in a generation. */
function readPlaced({ frame, raster, view }, image, mode) {
  const { width, height } = frame.size;
  const at = view.placeIn({ width: image.naturalWidth, height: image.naturalHeight }, frame.size, mode);
  const pixels = raster.readPixels(image, width, height, false, at);
  if (at.x <= 0 && at.y <= 0) return pixels;
  const words = new Uint32Array(pixels.data.buffer);
  const within = (value, start, length, end) => Math.min(Math.max(value, start, 0), start + length - 1, end - 1);
  for (let i = 0; i < words.length; i += 1) {
    const [x, y] = [within(i % width, at.x, at.width, width), within(Math.floor(i / width), at.y, at.height, height)];
    words[i] = words[y * width + x];
  }
  return pixels;
}

/** The own masks that units have already, as planes by their number. */
export async function readMasks(editor) {
  let units = [];
  try {
    await window.controlnetPanel.edit(editor.frame.tab, (found) => {
      units = found;
      return [];
    });
  } catch (error) {
    editor.tell(error.message, true);
  }
  const own = editor.ownMask();
  const readOwn = (pictures, i) => readMask(editor, pictures, window.controlnetPanel.resizeModeOf(editor.frame.tab, editor.units[i]));
  return Promise.all(units.map(({ pictures, values }, i) => (values.region === own ? readOwn(pictures, i) : null)));
}

/** White of the file and what is drawn, together. */
async function readMask(editor, { mask, region }, mode) {
  const { frame, raster, page } = editor;
  const { width, height } = frame.size;
  const plane = raster.makePlane(width, height);
  for (const [source, channel] of [[mask, 0], [region, 3]]) {
    const image = source && (await page.load(source).catch(() => null));
    if (!image) continue;
    const { data } = readPlaced(editor, image, mode);
    for (let i = 0; i < plane.data.length; i += 1) if (data[4 * i + channel] >= HALF && data[4 * i + 3] >= HALF) plane.data[i] = 1;
  }
  return plane;
}

/** Save the picture in the units' colours, and say what they are. */
export function exportPicture(editor) {
  const { word } = editor.frame;
  const painted = editor.painted();
  if (!painted.length) {
    editor.tell(word("regions_nothing"), true);
    return;
  }
  const { url, text } = editor.drawPicture();
  editor.download(url, "regions.png");
  const colours = painted.map(({ index, colour }) => `${index} ${editor.areas.toHex(colour)}`).join(", ");
  editor.tell([word("regions_exported", { colours }), text].filter(Boolean).join(" "));
}

/** Read a picture in a few colours, which are then offered to the units. */
export async function importFile(editor, file) {
  const { word, mode } = editor.frame;
  const url = URL.createObjectURL(file);
  try {
    if (file.size > MOST_BYTES) throw new Error(word("regions_large", { limit: MOST_BYTES / 1e6 }));
    const image = await editor.page.load(url).catch(() => null);
    if (!image) throw new Error(word("regions_unread", { name: file.name.slice(0, 60) }));
    const pixels = readPlaced(editor, image, mode);
    const colours = editor.areas.findColours(pixels);
    if (!colours.length) throw new Error(word("regions_no_colours"));
    offer(editor, pixels, colours);
  } catch (error) {
    editor.tell(error.message, true);
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** Whose each colour is at first: the unit's that has it, or of the others the next one's; white, grey and black nobody's. */
function guess(editor, colours) {
  const own = editor.layers.map(({ colour }) => colour);
  const meant = colours.map(({ colour }) => editor.areas.findNearest(colour, own));
  const free = editor.layers.map(({ index }) => index).filter((index) => !meant.includes(index));
  const isGrey = ({ colour }) => Math.max(...colour) - Math.min(...colour) < GREY;
  return colours.map((one, i) => (meant[i] >= 0 ? meant[i] : isGrey(one) ? -1 : (free.shift() ?? -1)));
}

function offer(editor, pixels, colours) {
  const { areas, layers, raster, offered } = editor;
  const { make, word, choice, button } = editor.frame;
  const chosen = guess(editor, colours);
  const units = [[-1, word("regions_nobody")], ...layers.map((layer) => [layer.index, editor.nameOf(layer)])];
  const rows = colours.map(({ colour, share }, i) => {
    const label = `${areas.toHex(colour)}, ${(100 * share).toFixed(1)} %`;
    const row = choice(label, units, chosen[i], (value) => {
      chosen[i] = Number(value);
    });
    row.prepend(editor.makeSwatch(colour));
    return row;
  });
  const take = () => {
    const planes = areas.split(pixels, colours.map(({ colour }) => colour), raster);
    for (const layer of layers) editor.rewrite((plane) => plane.data.fill(0), layer);
    planes.forEach((plane, i) => {
      if (chosen[i] >= 0) raster.fillMask(layers[chosen[i]].plane, plane, 1);
    });
    offered.replaceChildren();
    editor.settle();
    editor.tell(word("regions_imported", { units: editor.listOf(editor.painted()) }));
  };
  const acts = [button(word("regions_take"), take), button(word("regions_cancel"), () => offered.replaceChildren())];
  offered.replaceChildren(make("p", {}, word("regions_offer")), ...rows, make("div", { className: "cnet-regions-acts" }, ...acts));
  editor.tell("");
  rows[0].input.focus();
}
