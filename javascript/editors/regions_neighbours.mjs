// Hands painted regions to extensions that prompt by regions, if they are installed, in the form that each reads.
//
// A neighbour is { name, find(tab), pictures(editor, painted), give(editor, painted, place) }: `find` gives its elements in
// the page or null, `pictures` what would be put in by hand, [url, file name], and `give` puts it in and returns a sentence.

const PATIENCE = 20000; // ms for a neighbour's server
const PERIOD = 50;
const SETTLING = 400; // ms until a canvas that was written has its picture
const SHORT = { txt2img: "t2i", img2img: "i2i" };

const { find, findAll } = window.controlnetPanel.page;
const wait = (time) => new Promise((done) => setTimeout(done, time));

/** Wait until something is there; its value. */
async function until(look) {
  for (const end = Date.now() + PATIENCE; ; ) {
    const found = look();
    if (found) return found;
    if (Date.now() > end) throw new Error(window.controlnetWord("regions_late"));
    await wait(PERIOD);
  }
}

/** Put a picture into a place for files, which shows it until its extension has taken it. */
async function upload(findInput, [url, name]) {
  const input = await until(findInput);
  const place = input.closest(".block");
  const isShown = () => Boolean(find("img", place));
  let wasShown = false;
  const observer = new MutationObserver(() => {
    wasShown ||= isShown();
  });
  observer.observe(place, { childList: true, subtree: true });
  const files = new DataTransfer();
  const blob = await (await fetch(url)).blob();
  files.items.add(new File([blob], name, { type: "image/png" }));
  input.files = files.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  try {
    await until(() => wasShown && !isShown());
  } finally {
    observer.disconnect();
  }
}

function write(box, value) {
  box.value = value;
  box.dispatchEvent(new Event("input", { bubbles: true }));
}

/** White where a unit acts, black elsewhere. */
function masksOf({ raster }, painted) {
  const palette = raster.makePalette([[0, 0, 0], [255, 255, 255]]);
  return painted.map(({ plane }, i) => [raster.toUrl(plane, palette), `region_${i}.png`]);
}

// Regional Prompter (hako-mikan): tab "Mask". One picture; the region of number k has a hue of its own at saturation and value
// of one half: 0, then 1/2, 1/4, 3/4, 1/8, 3/8 ... of the circle. What has none belongs to the first, or to the base prompt.

function hueOf(number) {
  if (!number) return 0;
  const cycle = Math.ceil(Math.log2(number + 1));
  return (2 * (number - 2 ** (cycle - 1)) + 1) / 2 ** cycle;
}

export function regionalColour(number) {
  const hue = hueOf(number) * 6;
  const [sector, part] = [Math.floor(hue), hue - Math.floor(hue)];
  const [low, falling, rising] = [0.25, 0.5 * (1 - 0.5 * part), 0.5 * (1 - 0.5 * (1 - part))];
  const all = [[0.5, rising, low], [falling, 0.5, low], [low, 0.5, rising], [low, falling, 0.5], [rising, low, 0.5], [0.5, low, falling]];
  return all[sector % 6].map((level) => Math.floor(level * 256));
}

const regionalPrompter = {
  name: "Regional Prompter",
  find(tab) {
    const canvas = find(`#polymask${SHORT[tab]}`);
    const room = canvas?.closest(".tabitem");
    return room ? { canvas, room, tabs: find(`#RP_mode${SHORT[tab]}`) } : null;
  },
  pictures(editor, painted) {
    const colours = editor.layers.map((layer) => regionalColour(Math.max(painted.indexOf(layer), 0)));
    return [[editor.drawPicture(colours).url, "regional_prompter.png"]];
  },
  async give(editor, painted, { canvas, room, tabs }) {
    findAll(":scope > .tab-nav > button", tabs)[1]?.click();
    const findInput = () => findAll("input[type=file]", room).find((input) => !canvas.contains(input));
    if (!findInput()) throw new Error(editor.frame.word("regions_no_place"));
    await upload(findInput, this.pictures(editor, painted)[0]);
    await until(() => find("img, canvas", canvas));
    return editor.frame.word("regions_given_rp", { units: editor.listOf(painted) });
  },
};

// Forge Couple (Haoming02): "Region Assignment" at "Mask". One mask after the other is put in, shown on its canvas, and saved.
// Its server keeps masks over a reload of the page, and tells of them, with an empty canvas, when "Mask" is chosen.

const forgeCouple = {
  name: "Forge Couple",
  find(tab) {
    const whole = find(`#forge_couple_${SHORT[tab]}`);
    const mode = find('input[type=radio][value="Mask"]', whole);
    return whole && mode ? { whole, mode } : null;
  },
  pictures: masksOf,
  async give(editor, painted, { whole, mode }) {
    const isNew = !mode.checked;
    if (isNew) mode.click();
    const room = await until(() => find(".fc_msk", whole));
    await until(() => find(".fc_preview_res :is(input, textarea)", whole)?.value); // the size that its script has told it
    const hasCanvas = () => find(".logical_image_background textarea", room)?.value || find(".fc_msk_canvas :is(img, canvas)", room);
    if (isNew) await until(hasCanvas);
    const count = () => findAll(".fc_masks .fc_mask_row", room).length;
    const save = await until(() => find(".fc_msk_io button", room));
    const [, , , , reset] = findAll("button.round-btn", room); // empty, save, load, override, reset, pull
    await wait(SETTLING);
    reset.click();
    await until(() => !count());
    const findInput = () => find("#fc_msk_upload_mask input[type=file]", room);
    for (const [i, mask] of masksOf(editor, painted).entries()) {
      await upload(findInput, mask);
      await wait(SETTLING);
      save.click();
      await until(() => count() > i);
    }
    if (count() !== painted.length) throw new Error(editor.frame.word("regions_late"));
    return editor.frame.word("regions_given_couple", { units: editor.listOf(painted) });
  },
};

// Tiled Diffusion (pkuliyi2015): "Region Prompt Control". Boxes, as parts of width and height; its canvas must be there first.

function boxOf({ data, width, height }) {
  const box = { left: width, top: height, right: 0, bottom: 0 };
  data.forEach((one, i) => {
    if (!one) return;
    const [x, y] = [i % width, Math.floor(i / width)];
    Object.assign(box, { left: Math.min(box.left, x), top: Math.min(box.top, y), right: Math.max(box.right, x + 1), bottom: y + 1 });
  });
  return { x: box.left / width, y: box.top / height, w: (box.right - box.left) / width, h: (box.bottom - box.top) / height };
}

const tiledDiffusion = {
  name: "Tiled Diffusion",
  find(tab) {
    const whole = find(`#MD-bbox-control-${SHORT[tab]}`);
    return whole ? { whole, name: SHORT[tab] } : null;
  },
  pictures: masksOf,
  async give(editor, painted, { whole, name }) {
    const { word } = editor.frame;
    const room = findAll(`[id^="MD-accordion-${name}-"]`, whole).length;
    if (painted.length > room) throw new Error(word("regions_too_many", { count: room }));
    const reference = `#MD-bbox-ref-${name}`;
    if (!find(`${reference} img`)) find("#MD-create-canvas", whole).click();
    await until(() => find(`${reference} img`)?.naturalWidth);
    for (const [i, { plane }] of painted.entries()) {
      const box = find(`#MD-bbox-${name}-${i}-enable input`);
      if (!box.checked) box.click();
      await until(() => find(`${reference} #MD-bbox-${name}-${i}`));
      for (const [side, value] of Object.entries(boxOf(plane))) {
        write(find(`#MD-${name}-${i}-${side} input[type=number]`), Number(value.toFixed(4)));
      }
    }
    for (let i = painted.length; i < room; i += 1) {
      const box = find(`#MD-bbox-${name}-${i}-enable input`);
      if (box.checked) box.click();
    }
    return word("regions_given_tiled", { units: editor.listOf(painted) });
  },
};

const NEIGHBOURS = [regionalPrompter, forgeCouple, tiledDiffusion];

/** Give a neighbour the regions; where its elements do not take them, offer them as files. */
async function hand(editor, neighbour) {
  const { word, tab } = editor.frame;
  const painted = editor.painted();
  if (!painted.length) {
    editor.tell(word("regions_nothing"), true);
    return;
  }
  editor.tell(word("regions_handing", { name: neighbour.name }));
  try {
    editor.tell(await neighbour.give(editor, painted, neighbour.find(tab)));
  } catch (error) {
    for (const [url, name] of neighbour.pictures(editor, painted)) editor.download(url, name);
    editor.tell(word("regions_not_handed", { name: neighbour.name, error: error.message }), true);
  }
}

/** A button for each neighbour that is in the page. */
export function buildButtons(editor) {
  const { button, tab, word } = editor.frame;
  const present = NEIGHBOURS.filter((neighbour) => neighbour.find(tab));
  return present.map((neighbour) => {
    const { name } = neighbour;
    return button(word("regions_hand", { name }), () => editor.frame.inTurn(() => hand(editor, neighbour)), { title: word("regions_hand_note", { name }) });
  });
}
