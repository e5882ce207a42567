// The editor of regions: where each unit of a tab acts, painted in the units' colours.
//
// Each unit has a layer, a plane (raster.mjs) of 0 and 1, so regions may overlap. A state is { layers: [{ packed,
// feather }], chosen, width, isApart }; `packed` is null for nothing. Using them gives each painted unit an own mask.

export const isOfAllUnits = true;

const WIDTH = { min: 1, max: 400, step: 1, value: 48 };
const WIDER = 1.25;
const FEATHER = { min: 0, max: 256, step: 1, value: 0 };
const OWN = 1; // place of the own mask in the radio of regions
const WHITE = [255, 255, 255];
const DIVISIONS = {
  columns2: "regions_columns2",
  columns3: "regions_columns3",
  rows2: "regions_rows2",
  rows3: "regions_rows3",
  grid: "regions_grid",
  grid6: "regions_grid6",
};
const TOOLS = {
  brush: ["regions_brush", "regions_brush_note"],
  erase: ["regions_erase", "regions_erase_note"],
  fill: ["regions_fill", "regions_fill_note"],
  rectangle: ["regions_rectangle", "regions_rectangle_note"],
  polygon: ["regions_polygon", "regions_polygon_note"],
  pick: ["regions_pick", "regions_pick_note"],
};

/** What of a kept state is a unit's, see places.mjs. */
export const partOf = ({ state }, index) => state.layers[index] ?? null;

/** A kept state with another part for a unit; one that has another size is none. */
export function withPart(kept, index, part) {
  const { size, state } = kept;
  const count = Math.max(state.layers.length, index + 1);
  const layers = Array.from({ length: count }, (_, i) => state.layers[i] ?? { packed: null });
  const fits = !part?.packed || (part.packed.width === size.width && part.packed.height === size.height);
  layers[index] = (fits && part) || { packed: null };
  return { ...kept, state: { ...state, layers } };
}

export async function create(frame) {
  const files = ["raster", "view", "segmentation_tools", "regions_areas", "regions_picture", "regions_neighbours"];
  const [raster, view, tools, areas, pictures, neighbours] = await Promise.all(files.map((file) => frame.load(`${file}.mjs`)));

  /** What paints on a plane; the bucket looks at the borders of all regions. */
  class RegionPainter extends tools.Painter {
    fill(point) {
      const { layers, plane } = this.editor;
      const i = Math.floor(point.y) * plane.width + Math.floor(point.x);
      const seeds = layers.map((one) => one.plane.data[i]);
      const area = this.raster.findArea(plane, point, (k) => layers.every((one, n) => one.plane.data[k] === seeds[n]));
      if (area) this.finish(this.raster.fillMask(plane, area.mask, this.value, area.bounds));
    }
  }
  return new Regions(frame, { raster, view, tools, areas, pictures, neighbours }, RegionPainter);
}

class Regions {
  constructor(frame, modules, Painter) {
    Object.assign(this, { frame, ...modules, label: 1, erased: 0, width: WIDTH.value, isApart: false });
    const { unitTools, page } = window.controlnetPanel;
    this.page = page;
    this.units = unitTools.unitsOf(frame.tab);
    this.layers = this.units.map((unit, index) => ({ index, unit, colour: this.areas.colourOf(index), zone: null }));
    this.chosen = frame.index;
    this.picture = new frame.Konva.Image({ listening: false });
    frame.content.add(this.picture);
    this.buildBar();
    this.buildSide();
    this.page.find(".cnet-editor-main", frame.box).title = frame.word("regions_use_note");
    this.painter = new Painter(frame, this.raster, this);
    this.painter.choose("brush");
  }

  get layer() {
    return this.layers[this.chosen];
  }

  get plane() {
    return this.layer.plane;
  }

  /** What messages call a unit. */
  nameOf({ index, unit }) {
    const [module, model] = ["preprocessor", "model"].map((list) => this.page.part(unit, `controlnet_${list}_dropdown`, "input")?.value || "");
    const name = [module, model.replace(/ \[[0-9a-f]+\]$/, "")].find((text) => text && text.toLowerCase() !== "none");
    return this.frame.word("regions_unit", { unit: index, name: name || "" }).trim();
  }

  listOf = (layers) => layers.map(({ index }) => index).join(", ");

  // ---- what the frame calls ----

  async load(state) {
    this.painter.cancel();
    const { width, height } = this.frame.size;
    const before = state ? null : await this.pictures.readMasks(this);
    this.layers.forEach((layer, index) => {
      const kept = state?.layers[index];
      layer.packed = kept?.packed || null;
      layer.plane = kept?.packed ? this.raster.unpack(kept.packed) : before?.[index] || this.raster.makePlane(width, height);
      layer.feather = kept?.feather ?? this.readFeather(layer.unit);
      Object.assign(layer, { isChanged: !kept?.packed, isMeasured: false });
    });
    if (state && !this.isBegun) Object.assign(this, { width: state.width, isApart: state.isApart });
    if (state && this.isBegun) this.chosen = Math.min(state.chosen, this.layers.length - 1);
    this.isBegun = true;
    const canvas = this.raster.makeCanvas(width, height);
    this.pen = canvas.getContext("2d");
    this.picture.setAttrs({ image: canvas, width, height });
    this.showAll();
  }

  save() {
    for (const layer of this.layers) {
      if (!layer.isChanged) continue;
      layer.isChanged = false;
      layer.packed = layer.plane.data.includes(1) ? this.raster.pack(layer.plane) : null;
    }
    const { chosen, width, isApart } = this;
    return { layers: this.layers.map(({ packed, feather }) => ({ packed, feather })), chosen, width, isApart };
  }

  /** Give each painted unit its region as an own mask; the others stay as they are. */
  async apply() {
    const { word, tab } = this.frame;
    const painted = this.painted();
    if (!painted.length) throw new Error(word("regions_nothing"));
    const palette = this.raster.makePalette([[0, 0, 0], [255, 255, 255]]);
    const masks = painted.map(({ plane }) => this.raster.toUrl(plane, palette));
    const region = this.ownMask();
    const lost = await window.controlnetPanel.edit(tab, (units) =>
      painted.map(({ index, feather }, i) => ({
        unit: index,
        pictures: { mask: masks[i], region: null },
        values: { ...units[index].values, region, region_feather: feather },
      })),
    );
    const others = this.layers.filter((layer) => !painted.includes(layer));
    const off = painted.filter(({ unit }) => !this.page.find(".cnet-unit-enabled input", unit)?.checked);
    const said = [word("regions_applied", { units: this.listOf(painted) })];
    if (others.length) said.push(word("regions_left", { units: this.listOf(others) }));
    if (off.length) said.push(word("regions_off", { units: this.listOf(off) }));
    return [...said, ...lost].join(" ");
  }

  key(event) {
    const isCommand = event.ctrlKey || event.metaKey || event.altKey;
    if (event.key === "[" || event.key === "]") {
      const width = event.key === "]" ? Math.ceil(this.width * WIDER) : Math.floor(this.width / WIDER);
      this.setWidth(Math.min(Math.max(width, WIDTH.min), WIDTH.max));
    } else if (/^[1-9]$/.test(event.key) && !isCommand && this.layers[event.key - 1]) this.choose(event.key - 1);
    else return this.painter.key(event);
    return true;
  }

  // ---- what the painter calls ----

  at({ x, y }) {
    const { width, height } = this.plane;
    if (!(x >= 0 && y >= 0 && x < width && y < height)) return null;
    const i = Math.floor(y) * width + Math.floor(x);
    return this.layers.filter(({ plane }) => plane.data[i]);
  }

  labelAt(point) {
    return this.at(point)?.at(-1)?.index;
  }

  nameAt(point) {
    const here = this.at(point);
    if (!here) return "";
    return here.length ? here.map((layer) => this.nameOf(layer)).join(" + ") : this.frame.word("regions_nobody");
  }

  pick(index) {
    this.choose(index);
    return true;
  }

  show(bounds) {
    if (!bounds) return;
    if (this.isApart && this.painter.value) this.takeFromOthers(bounds);
    this.areas.show(this.pen, this.layers, bounds);
    this.frame.content.batchDraw();
  }

  finish() {
    this.touch(this.layer);
    this.settle();
  }

  restore() {
    this.layers.forEach((layer) => {
      layer.plane = layer.packed ? this.raster.unpack(layer.packed) : this.raster.makePlane(layer.plane.width, layer.plane.height);
      layer.isMeasured = false;
    });
    this.showAll();
  }

  point() {} // the name stands at the pointer

  chose(tool) {
    for (const [name, button] of Object.entries(this.buttons)) button.setAttribute("aria-pressed", String(name === tool));
    this.widths.hidden = tool !== "brush" && tool !== "erase";
  }

  shaped(isOpen) {
    this.closer.hidden = !isOpen;
  }

  // ---- layers ----

  painted() {
    return this.layers.filter(({ count }) => count);
  }

  choose(index) {
    this.painter.cancel();
    this.chosen = Number(index);
    this.showUnits();
  }

  /** Without overlaps what is one's now is nobody else's. */
  takeFromOthers({ left, top, right, bottom }) {
    const { data, width } = this.plane;
    for (const layer of this.layers) {
      if (layer === this.layer) continue;
      for (let y = top; y < bottom; y += 1) {
        for (let i = y * width + left; i < y * width + right; i += 1) {
          if (!data[i] || !layer.plane.data[i]) continue;
          layer.plane.data[i] = 0;
          this.touch(layer);
        }
      }
    }
  }

  /** Change a layer as a whole: `act` gets its plane. */
  rewrite(act, layer = this.layer) {
    act(layer.plane);
    this.touch(layer);
  }

  touch(layer) {
    Object.assign(layer, { isChanged: true, isMeasured: false });
  }

  settle() {
    this.showAll();
    this.frame.changed();
  }

  takeRest() {
    const { data } = this.areas.merge(this.layers, this.raster.makePlane).plane;
    this.rewrite((plane) => data.forEach((one, i) => one || (plane.data[i] = 1)));
    this.settle();
  }

  empty() {
    this.rewrite((plane) => plane.data.fill(0));
    this.settle();
  }

  /** Divide the picture among the units that are enabled, then the others; what was painted goes. */
  divide(name) {
    const { width, height } = this.frame.size;
    const isOn = ({ unit }) => Boolean(this.page.find(".cnet-unit-enabled input", unit)?.checked);
    const order = [...this.layers.filter(isOn), ...this.layers.filter((layer) => !isOn(layer))];
    const parts = this.areas.divide(name).slice(0, order.length);
    for (const layer of this.layers) this.rewrite((plane) => plane.data.fill(0), layer);
    parts.forEach(([left, top, right, bottom], i) => {
      const [from, to] = [[left, top], [right, bottom]].map(([x, y]) => ({ x: Math.round(x * width), y: Math.round(y * height) }));
      const last = { x: to.x - 1, y: to.y - 1 };
      this.rewrite((plane) => this.raster.fillRectangle(plane, from, last, 1), order[i]);
    });
    this.settle();
    this.frame.say(this.frame.word("regions_divided", { units: this.listOf(order.slice(0, parts.length)) }));
  }

  readFeather(unit) {
    return Number(this.page.part(unit, "controlnet_region_feather_slider", "input[type=number]")?.value) || 0;
  }

  /** What a unit's region is called where it is its own mask. */
  ownMask() {
    return this.page.findAll("input", this.page.part(this.frame.unit, "controlnet_region_radio"))[OWN].value;
  }

  // ---- as one picture ----

  /** `{ url, text }`: the picture in colours, and a sentence on what was several units'. */
  drawPicture(colours = this.layers.map(({ colour }) => colour)) {
    const { plane, shared } = this.areas.merge(this.layers, this.raster.makePlane);
    const url = this.raster.toUrl(plane, this.raster.makePalette([WHITE, ...colours]));
    const share = ((100 * shared) / plane.data.length).toFixed(1);
    return { url, text: shared ? this.frame.word("regions_shared", { share }) : "" };
  }

  download(url, name) {
    this.frame.make("a", { href: url, download: name }).click();
  }

  // ---- controls ----

  buildBar() {
    const { frame } = this;
    const { word } = frame;
    const tool = ([name, key]) => {
      const [text, note] = TOOLS[name].map((one) => word(one));
      const title = `${note} (${key.toUpperCase()})`;
      return [name, frame.button(text, () => this.painter.choose(name), { title, pressed: false })];
    };
    this.buttons = Object.fromEntries(this.tools.TOOLS.map(tool));
    this.widths = frame.slider(word("regions_width"), WIDTH, (value) => this.setWidth(value));
    this.closer = frame.button(word("regions_close_shape"), () => this.painter.closePolygon());
    const entries = [["", word("regions_divide_none")], ...Object.entries(DIVISIONS).map(([name, text]) => [name, word(text)])];
    const divisions = frame.choice(word("regions_divide"), entries, "", (name) => {
      if (name) this.divide(name);
      divisions.input.value = "";
    });
    frame.bar.append(...Object.values(this.buttons), this.widths, this.closer, divisions);
  }

  makeSwatch(colour) {
    const swatch = this.frame.make("span", { className: "cnet-regions-swatch" });
    swatch.style.background = this.areas.toHex(colour);
    return swatch;
  }

  buildSide() {
    const { frame } = this;
    const { make, word, button } = frame;
    this.rows = this.layers.map((layer) => {
      const text = make("span", {});
      const row = button("", () => this.choose(layer.index), { pressed: false, className: "cnet-regions-unit" });
      row.append(this.makeSwatch(layer.colour), text);
      row.title = this.areas.toHex(layer.colour);
      return Object.assign(row, { text });
    });
    const list = make("div", { className: "cnet-regions-units", role: "group", "aria-label": word("regions_units") }, ...this.rows);
    this.feathers = frame.slider(word("regions_feather"), FEATHER, (value) => this.setFeather(value));
    this.feathers.querySelector("input").addEventListener("change", () => frame.changed());
    this.feathers.title = word("regions_feather_note");
    this.apart = make("input", { type: "checkbox" });
    this.apart.addEventListener("change", () => (this.isApart = this.apart.checked));
    const apart = make("label", { className: "cnet-regions-apart", title: word("regions_apart_note") }, this.apart, word("regions_apart"));
    const act = (name, note, run) => button(word(name), run, { title: word(note) });
    const acts = (...buttons) => make("div", { className: "cnet-regions-acts" }, ...buttons);
    this.files = make("input", { type: "file", accept: "image/*", hidden: true });
    this.files.addEventListener("change", () => {
      const [file] = this.files.files;
      this.files.value = "";
      if (file) this.frame.inTurn(() => this.pictures.importFile(this, file));
    });
    const own = acts(act("regions_rest", "regions_rest_note", () => this.takeRest()), act("regions_empty", "regions_empty_note", () => this.empty()));
    const picture = acts(act("regions_import", "regions_import_note", () => this.files.click()), act("regions_export", "regions_export_note", () => this.pictures.exportPicture(this)));
    this.offered = make("div", { className: "cnet-regions-offered" });
    this.note = make("p", { className: "cnet-regions-note", role: "status" });
    const handed = acts(...this.neighbours.buildButtons(this));
    frame.side.append(list, this.feathers, apart, own, picture, this.files, this.offered, handed, this.note);
  }

  setWidth(width) {
    this.width = width;
    this.widths.set(width);
    this.painter.draw();
  }

  setFeather(feather) {
    Object.assign(this.layer, { feather, isMeasured: false });
    this.showAll();
  }

  /** What is known of a layer's plane; the feather is in pixels of the picture to be made. */
  gauge(layer) {
    const { width } = this.frame.size;
    const wanted = window.controlnetPanel.targetOf(this.frame.tab)[0] || width;
    const zone = this.areas.findZone(layer.plane, (layer.feather * width) / wanted);
    Object.assign(layer, { zone, count: this.areas.count(layer.plane), isMeasured: true });
  }

  showAll() {
    for (const layer of this.layers) if (!layer.isMeasured) this.gauge(layer);
    this.areas.show(this.pen, this.layers, this.raster.allOf(this.plane));
    this.frame.content.batchDraw();
    this.showUnits();
  }

  showUnits() {
    const { width, height } = this.plane;
    this.rows.forEach((row, index) => {
      const share = Math.round((1000 * this.layers[index].count) / (width * height)) / 10;
      row.text.textContent = `${this.nameOf(this.layers[index])}: ${share} %`;
      row.setAttribute("aria-pressed", String(index === this.chosen));
    });
    this.feathers.set(this.layer.feather);
    this.apart.checked = this.isApart;
    this.widths.set(this.width);
  }

  tell(text, isFault = false) {
    this.note.textContent = text;
    this.note.classList.toggle("cnet-fault", isFault);
  }
}
