// The page's half of tests/small_canvas.py: a picture and a layer to draw on, kept in two hidden texts.
window.SmallCanvas = class {
  constructor(name, noUpload, colour, width, names) {
    const part = (kind) => document.getElementById(`${kind}_${name}`);
    const text = (kind) => document.querySelector(`#${name}.logical_image_${kind} textarea`);
    Object.assign(this, { colour, width: width * 20, image: part("image"), layer: part("drawingCanvas") });
    this.texts = { background: text("background"), foreground: text("foreground") };
    this.written = { background: "", foreground: "" };
    Object.assign(this, { names, turns: { background: 0, foreground: 0 } });
    part("imageInput").addEventListener("change", (event) => {
      const reader = new FileReader();
      reader.onload = () => this.show(reader.result);
      if (!noUpload) reader.readAsDataURL(event.target.files[0]);
    });
    part("removeButton").addEventListener("click", () => this.show(""));
    this.listen();
    setInterval(() => this.poll(), 100);
  }

  listen() {
    const pen = this.layer.getContext("2d");
    let down = false;
    this.layer.addEventListener("pointerdown", (event) => {
      down = true;
      Object.assign(pen, { strokeStyle: this.colour, lineWidth: this.width, lineCap: "round" });
      pen.beginPath();
      pen.moveTo(event.offsetX, event.offsetY);
    });
    this.layer.addEventListener("pointermove", (event) => {
      if (!down) return;
      pen.lineTo(event.offsetX, event.offsetY);
      pen.stroke();
    });
    this.layer.addEventListener("pointerup", () => {
      down = false;
      this.keep();
    });
  }

  /** What the page has written into the texts is shown. */
  poll() {
    if (this.texts.background.value !== this.written.background) this.show(this.texts.background.value);
    else if (this.texts.foreground.value !== this.written.foreground) this.paint(this.texts.foreground.value);
  }

  paint(url) {
    this.written.foreground = url;
    const drawing = new Image();
    drawing.onload = () => {
      const pen = this.layer.getContext("2d");
      pen.clearRect(0, 0, this.layer.width, this.layer.height);
      pen.drawImage(drawing, 0, 0);
      this.keep();
    };
    if (url) drawing.src = url;
  }

  show(url) {
    this.written.background = this.texts.background.value;
    const picture = new Image();
    picture.onload = () => {
      const canvas = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
      canvas.getContext("2d").drawImage(picture, 0, 0);
      if (this.layer.width !== picture.width || this.layer.height !== picture.height) {
        Object.assign(this.layer, { width: picture.width, height: picture.height });
      }
      this.image.src = url;
      this.write("background", canvas.toDataURL("image/png"));
      this.keep();
    };
    if (url) {
      picture.src = url;
      return;
    }
    Object.assign(this.layer, { width: 1, height: 1 });
    this.image.src = "";
    this.write("background", "");
    this.write("foreground", "");
  }

  keep() {
    this.write("foreground", this.layer.toDataURL("image/png"));
  }

  /** Send a picture to the server; its name. */
  async send(url) {
    const body = new FormData();
    body.append("files", await (await fetch(url)).blob(), "drawn.png");
    const [path] = await (await fetch("upload", { method: "POST", body })).json();
    return `small-canvas://${path}`;
  }

  async write(kind, url) {
    const turn = (this.turns[kind] += 1);
    const value = this.names && url ? await this.send(url) : url;
    if (turn !== this.turns[kind]) return;
    this.written[kind] = value;
    this.texts[kind].value = value;
    this.texts[kind].dispatchEvent(new Event("input", { bubbles: true }));
  }
};
