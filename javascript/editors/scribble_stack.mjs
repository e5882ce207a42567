// The layers of a scribble as they are drawn into and shown, one Konva image each, the lowest first.
//
// A layer is { name, isShown, opacity, plane, packed, image, show }: `packed` is what a state keeps of it, null while the
// plane has changed since. What is done to layers by their order ends with `settle`, which makes it a step of undo.

const MOST = 16; // layers: each takes five bytes per pixel
const LONGEST = 60; // characters of a name

export class Stack {
  /** `arranged` is called after every change of what layers there are, and of how. */
  constructor(frame, raster, lines, arranged) {
    Object.assign(this, { frame, raster, lines, arranged, layers: [], active: 0, count: 0 });
    this.colours = raster.makePalette(lines.SHOWN);
  }

  get present() {
    return this.layers[this.active];
  }

  make({ name, isShown = true, opacity = 1, packed = null }, plane = this.makePlane()) {
    const { frame, raster } = this;
    const canvas = raster.makeCanvas(plane.width, plane.height);
    const pen = canvas.getContext("2d");
    const layer = { name, isShown, opacity, packed, plane };
    layer.image = new frame.Konva.Image({ image: canvas, listening: false });
    layer.show = (bounds) => {
      raster.paint(pen, plane, this.colours, bounds);
      frame.content.batchDraw();
    };
    layer.show();
    return layer;
  }

  makePlane() {
    return this.raster.makePlane(this.frame.size.width, this.frame.size.height);
  }

  makeEmpty() {
    this.count += 1;
    return this.make({ name: this.frame.word("scribble_layer", { number: this.count }) });
  }

  /** Bring what is seen in line with the layers. */
  arrange() {
    const { content } = this.frame;
    const images = this.layers.map((layer) => layer.image);
    for (const image of content.getChildren().slice()) if (!images.includes(image)) image.destroy();
    this.layers.forEach(({ image, isShown, opacity }, i) => {
      if (!image.getLayer()) content.add(image);
      image.setAttrs({ visible: isShown, opacity });
      image.zIndex(i);
    });
    this.arranged();
  }

  settle() {
    this.active = Math.min(Math.max(this.active, 0), this.layers.length - 1);
    this.arrange();
    this.frame.changed();
  }

  /** Add the layer that `make` gives above the present one, unless there are too many. */
  add(make) {
    if (this.layers.length >= MOST) {
      this.frame.say(this.frame.word("scribble_full", { count: MOST }), true);
      return;
    }
    this.active += 1;
    this.layers.splice(this.active, 0, make());
    this.settle();
  }

  remove() {
    this.layers.splice(this.active, 1);
    if (!this.layers.length) this.layers.push(this.makeEmpty());
    this.active -= 1;
    this.settle();
  }

  shift(step) {
    const { layers, active } = this;
    const other = active + step;
    if (!layers[other]) return;
    [layers[active], layers[other]] = [layers[other], layers[active]];
    this.active = other;
    this.settle();
  }

  /** Change pixels of the present layer: `act(plane)` gives the bounds of what it has changed; without them it is all. */
  rewrite(act) {
    const layer = this.present;
    const bounds = act(layer.plane);
    layer.packed = null;
    if (bounds !== null) layer.show(bounds);
  }

  /** Put the present layer back to what it was when it was packed. */
  restore(packed) {
    this.rewrite((plane) => void plane.data.set(this.raster.unpack(packed).data));
    this.present.packed = packed;
  }

  /** Lay the present layer upon the one below it. */
  mergeDown() {
    if (this.active === 0) return;
    const [upper] = this.layers.splice(this.active, 1);
    this.active -= 1;
    this.rewrite((plane) => void this.lines.lay(plane, upper.plane));
    this.showPresent();
    this.settle();
  }

  invert() {
    this.rewrite(this.lines.invert);
    this.showPresent();
    this.frame.changed();
  }

  get longestName() {
    return LONGEST;
  }

  /** Give a layer another name; whether it has another then. */
  rename(layer, text) {
    const name = text.trim().slice(0, LONGEST);
    if (!name || name === layer.name || !this.layers.includes(layer)) return false;
    layer.name = name;
    this.settle();
    return true;
  }

  select(layer) {
    this.active = this.layers.indexOf(layer);
    this.arrange();
  }

  toggle(layer = this.present) {
    layer.isShown = !layer.isShown;
    this.settle();
  }

  /** What is drawn on is seen. */
  showPresent() {
    const { frame, present } = this;
    if (present.isShown) return;
    present.isShown = true;
    this.arrange();
    frame.say(frame.word("scribble_shown", { name: present.name }));
  }

  /** All visible layers as one plane. */
  compose() {
    const whole = this.makePlane();
    for (const layer of this.layers) if (layer.isShown) this.lines.lay(whole, layer.plane);
    return whole;
  }

  /** A picture as a layer, and the sentence about what was done to it: `{ layer, said }`. */
  read(image, name) {
    const { frame, raster, lines } = this;
    const own = { width: image.naturalWidth, height: image.naturalHeight };
    const at = lines.fitInto(own, frame.size);
    const pixels = raster.readPixels(image, at.width, at.height, at.width !== own.width || at.height !== own.height);
    const { data, isInverted } = lines.readLines(pixels);
    const plane = this.makePlane();
    for (let y = 0; y < at.height; y += 1) {
      plane.data.set(data.subarray(y * at.width, (y + 1) * at.width), (at.y + y) * plane.width + at.x);
    }
    return { layer: this.make({ name }, plane), said: isInverted ? frame.word("scribble_inverted", { name }) : "" };
  }

  addPicture(image, name) {
    this.add(() => {
      const { layer, said } = this.read(image, name);
      this.frame.say(said);
      return layer;
    });
  }

  async addFile(file) {
    const url = URL.createObjectURL(file);
    const image = Object.assign(new Image(), { src: url });
    const isRead = await image.decode().then(() => image.naturalWidth > 0, () => false);
    if (isRead) this.addPicture(image, file.name.slice(0, LONGEST));
    else this.frame.say(this.frame.word("scribble_unread", { name: file.name }), true);
    URL.revokeObjectURL(url);
  }

  // States: { active, count, layers: [{ name, isShown, opacity, packed }] }.

  /** Take up a state; of layers that are as in it already, only what they are called and whether they are seen. */
  load({ active, count, layers }) {
    const known = new Map(this.layers.map((layer) => [layer.packed, layer]));
    this.layers = layers.map(({ packed, ...rest }) => {
      const same = known.get(packed);
      known.delete(packed);
      return same ? Object.assign(same, rest) : this.make({ ...rest, packed }, this.raster.unpack(packed));
    });
    Object.assign(this, { active, count });
    this.arrange();
  }

  /** Begin with the detected map, if there is one, below an empty layer; the sentence about the map. */
  begin() {
    const { map, word } = this.frame;
    this.count = 0;
    const read = map ? this.read(map, word("scribble_map")) : null;
    this.layers = [...(read ? [read.layer] : []), this.makeEmpty()];
    this.active = this.layers.length - 1;
    this.arrange();
    return read?.said || "";
  }

  save() {
    const layers = this.layers.map((layer) => {
      layer.packed ??= this.raster.pack(layer.plane);
      const { name, isShown, opacity, packed } = layer;
      return { name, isShown, opacity, packed };
    });
    return { active: this.active, count: this.count, layers };
  }
}
