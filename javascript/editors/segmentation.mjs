// The editor of segmentation maps: areas of classes, painted as labels and never as colours.
//
// The map is a plane (raster.mjs) of class numbers; colours come in when it is shown and when it is handed over, so no
// other can come to be. A state is { palette, map: packed plane, label, erased, recent, width }.

const MOST_RECENT = 8;
const WIDTH = { min: 1, max: 256, step: 1, value: 24 };
const OPACITY = 0.7; // of the map over a photograph
const WIDER = 1.25;

let described;
/** The palettes are asked for once in a page. */
function ask(frame) {
  described ??= frame.ask("palettes").catch((error) => {
    described = undefined;
    throw error;
  });
  return described;
}

export async function create(frame) {
  const files = ["raster", "view", "segmentation_labels", "segmentation_classes", "segmentation_tools"];
  const [told, raster, view, labels, lists, tools] = await Promise.all([ask(frame), ...files.map((file) => frame.load(`${file}.mjs`))]);
  return new Segmentation(frame, { raster, view, labels, lists, tools }, told);
}

class Segmentation {
  constructor(frame, modules, { palettes, alike }) {
    Object.assign(this, { frame, ...modules, alike });
    Object.assign(this, { label: 0, erased: this.labels.NONE, recent: [], width: WIDTH.value, isWhole: false });
    this.palettes = Object.entries(palettes).map(([name, one]) => this.labels.readPalette(name, one));
    [this.palette] = this.palettes;
    this.picture = new frame.Konva.Image({ listening: false });
    frame.content.add(this.picture);
    this.buildBar();
    this.buildSide();
    this.painter = new this.tools.Painter(frame, this.raster, this);
    this.chose(this.painter.tool);
  }

  // ---- what the frame calls ----

  async load(state) {
    this.painter.cancel();
    const isFirst = !this.plane;
    if (isFirst || !state) this.showSources();
    if (state) {
      const { palette, map, ...hand } = state;
      this.setPalette(palette);
      if (isFirst) Object.assign(this, hand); // to go back takes nothing out of the hand
      this.setPlane(this.raster.unpack(map));
      this.packed = map;
    }
    const said = state ? "" : this.begin();
    this.tell("");
    this.showHand();
    return said;
  }

  save() {
    const { palette, label, erased, recent, width } = this;
    this.packed ??= this.raster.pack(this.plane);
    return { palette: palette.name, map: this.packed, label, erased, recent: [...recent], width };
  }

  async result() {
    return window.controlnetPanel.dataUrl(await this.labels.toPng(this.plane, this.palette));
  }

  key(event) {
    if (event.key === "[" || event.key === "]") {
      const width = event.key === "]" ? Math.ceil(this.width * WIDER) : Math.floor(this.width / WIDER);
      this.setWidth(Math.min(Math.max(width, WIDTH.min), WIDTH.max));
      this.widths.set(this.width);
    } else if (event.key === "/") this.list.focus();
    else return this.painter.key(event);
    return true;
  }

  // ---- what the painter calls ----

  labelAt({ x, y }) {
    const { width, height, data } = this.plane;
    const isInside = x >= 0 && y >= 0 && x < width && y < height;
    return isInside ? data[Math.floor(y) * width + Math.floor(x)] : undefined;
  }

  nameOf(label) {
    return this.palette.labels.get(label)?.title || this.frame.word("seg_unlabeled");
  }

  nameAt(point) {
    const label = this.labelAt(point);
    return label === undefined ? "" : this.nameOf(label);
  }

  show(bounds) {
    if (!bounds) return;
    this.raster.paint(this.pen, this.plane, this.colours, bounds);
    this.frame.content.batchDraw();
  }

  finish() {
    this.packed = null;
    this.tell("");
    if (this.painter.value === this.label) this.remember(this.label);
    this.frame.changed();
  }

  restore() {
    this.setPlane(this.raster.unpack(this.packed));
  }

  /** Take the class of a pixel into the hand; false where there is none. */
  pick(label) {
    const isClass = this.palette.labels.has(label);
    if (isClass) this.take(label);
    this.frame.say(isClass ? this.frame.word("seg_chosen", { name: this.nameOf(label) }) : this.frame.word("seg_nothing_picked"));
    return isClass;
  }

  take(label) {
    this.label = label;
    this.showHand();
  }

  point(name) {
    this.under.textContent = name || "\u2013";
  }

  chose(tool) {
    for (const [name, button] of Object.entries(this.buttons)) button.setAttribute("aria-pressed", String(name === tool));
    const isBrush = tool === "brush" || tool === "erase";
    this.widths.hidden = !isBrush;
    this.reach.hidden = tool !== "fill";
    this.leaves.hidden = tool !== "erase";
  }

  shaped(isOpen) {
    this.closer.hidden = !isOpen;
  }

  // ---- the map ----

  setPlane(plane) {
    const { makeCanvas, makePalette, allOf } = this.raster;
    if (plane.width !== this.plane?.width || plane.height !== this.plane?.height) {
      const canvas = makeCanvas(plane.width, plane.height);
      this.pen = canvas.getContext("2d");
      this.picture.setAttrs({ image: canvas, width: plane.width, height: plane.height });
    }
    this.plane = plane;
    this.packed = null;
    this.colours = makePalette(this.palette.colours); // what has no class is clear, so that the photograph is seen
    this.show(allOf(plane));
    this.painter.look();
  }

  /** Begin from the detected map, or empty; a sentence about it. */
  begin() {
    const { map, size } = this.frame;
    this.setPlane(this.raster.makePlane(size.width, size.height, this.labels.NONE));
    return map ? this.read(map, "seg_map_unfit").text : "";
  }

  /** What the map may be begun from, and how much of the photograph beneath is seen. */
  showSources() {
    const { map, photograph } = this.frame;
    this.fromMap.hidden = !map;
    this.fromPicture.hidden = !photograph;
    this.shade.set(photograph ? OPACITY : 1);
    this.picture.opacity(photograph ? OPACITY : 1);
  }

  /** Take a picture's colours over as labels, in the palette that they are of, where it is seen beneath: { text, isRead, lost }. */
  read(image, unfit) {
    const { labels, plane: { width, height } } = this;
    const { word, mode } = this.frame;
    const at = this.view.placeIn({ width: image.naturalWidth, height: image.naturalHeight }, { width, height }, mode);
    const pixels = this.raster.readPixels(image, width, height, false, at);
    const palette = labels.guessPalette(pixels, this.palettes);
    if (!palette) return { text: word(unfit), isRead: false };
    const { plane, moved, lost } = labels.readLabels(pixels, palette);
    this.setPalette(palette.name);
    this.setPlane(plane);
    const sentences = [word("seg_read", { palette: this.titleOf(palette) }), word(moved ? "seg_moved" : "seg_exact", { count: moved })];
    if (lost) sentences.push(word("seg_lost", { count: lost }));
    return { text: sentences.join(" "), isRead: true, lost };
  }

  readAgain(image) {
    const { text, isRead, lost } = this.read(image, "seg_picture_unfit");
    this.tell(text, !isRead || lost > 0);
    if (isRead) this.frame.changed();
  }

  empty() {
    this.plane.data.fill(this.erased);
    this.show(this.raster.allOf(this.plane));
    this.packed = null;
    this.frame.changed();
  }

  // ---- the palette ----

  titleOf({ name }) {
    return this.frame.word(`seg_palette_${name}`);
  }

  setPalette(name) {
    if (name === this.palette.name) return;
    this.palette = this.palettes.find((one) => one.name === name) || this.palettes[0];
    const [first] = this.palette.first;
    this.label = this.palette.classes.find(({ title }) => title === first).label;
    Object.assign(this, { erased: this.labels.NONE, recent: [] });
    this.choices.input.value = this.palette.name;
    this.fillLeaves();
    this.showHand();
  }

  /** Go over to another palette: areas become the classes that mean the same there. */
  changePalette(name) {
    const from = this.palette;
    this.painter.cancel();
    this.setPalette(name);
    const { plane, lost } = this.labels.convert(this.plane, from, this.palette, this.alike);
    this.setPlane(plane);
    const text = { from: this.titleOf(from), to: this.titleOf(this.palette), count: lost };
    this.tell(lost ? this.frame.word("seg_converted_lost", text) : this.frame.word("seg_converted", text), lost > 0);
    this.frame.changed();
  }

  // ---- the controls ----

  buildBar() {
    const { frame } = this;
    const { word } = frame;
    const keys = Object.fromEntries(this.tools.TOOLS);
    this.buttons = Object.fromEntries(
      Object.entries(keys).map(([tool, key]) => {
        const note = word(`seg_${tool}_note`);
        const title = `${note} (${key.toUpperCase()})`;
        return [tool, frame.button(word(`seg_${tool}`), () => this.painter.choose(tool), { title, pressed: false })];
      }),
    );
    this.widths = frame.slider(word("seg_width"), WIDTH, (value) => this.setWidth(value));
    this.widths.title = word("seg_width_note");
    this.reach = frame.choice(word("seg_reach"), [["area", word("seg_reach_area")], ["class", word("seg_reach_class")]], "area", (value) => {
      this.isWhole = value === "class";
    });
    this.leaves = frame.choice(word("seg_leaves"), [], "", (value) => {
      this.erased = Number(value);
    });
    this.closer = frame.button(word("seg_close_shape"), () => this.painter.closePolygon(), { title: word("seg_close_shape_note") });
    frame.bar.append(...Object.values(this.buttons), this.widths, this.reach, this.leaves, this.closer);
  }

  buildSide() {
    const { frame } = this;
    const { make, word } = frame;
    this.choices = frame.choice(word("seg_palette"), this.palettes.map((one) => [one.name, this.titleOf(one)]), this.palette.name, (name) => this.changePalette(name));
    this.hand = make("strong", {});
    this.under = make("span", {});
    const line = (text, value) => make("p", { className: "cnet-seg-line" }, `${text} `, value);
    this.list = this.lists.buildClasses(frame, (label) => this.take(label));
    this.shade = frame.slider(word("seg_opacity"), { min: 0.1, max: 1, step: 0.05, value: 1 }, (value) => this.picture.opacity(value));
    this.note = make("p", { className: "cnet-seg-note", role: "status" });
    const again = (name, act) => frame.button(word(name), act, { title: word(`${name}_note`) });
    this.fromMap = again("seg_from_map", () => this.readAgain(frame.map));
    this.fromPicture = again("seg_from_picture", () => this.readAgain(frame.photograph));
    const acts = make("div", { className: "cnet-seg-acts" }, again("seg_empty", () => this.empty()), this.fromMap, this.fromPicture);
    frame.side.append(this.choices, line(word("seg_hand"), this.hand), line(word("seg_under"), this.under), this.list.element, this.shade, acts, this.note);
    this.fillLeaves();
  }

  fillLeaves() {
    const { make } = this.frame;
    const entries = [[this.labels.NONE, this.frame.word("seg_unlabeled")], ...Array.from(this.palette.labels, ([label, { title }]) => [label, title])];
    this.leaves.input.replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));
    this.leaves.input.value = this.erased;
  }

  setWidth(width) {
    this.width = width;
    this.painter.draw();
  }

  remember(label) {
    this.recent = [label, ...this.recent.filter((one) => one !== label)].slice(0, MOST_RECENT);
    this.showHand();
  }

  /** Show what is in the hand: class, width, and what the eraser leaves. */
  showHand() {
    const { label, palette, recent } = this;
    this.hand.replaceChildren(this.lists.makeChip(this.frame.make, palette.labels.get(label).colour), this.nameOf(label));
    this.list.show({ palette, label, recent });
    this.leaves.input.value = this.erased;
    this.widths.set(this.width);
  }

  tell(text, isFault = false) {
    this.note.textContent = text;
    this.note.classList.toggle("cnet-fault", isFault);
  }
}
