// Presets of units: a dialog that is built when it is first opened, and what it asks the server.
//
// A classic script; it adds three entries to `controlnetPanel` (javascript/controlnet_events.js),
// which the events of `lib_controlnet/ui/presets.py` call. What a preset says stands here as texts
// alone, never as HTML.
(() => {
  "use strict";

  const TABS = ["txt2img", "img2img"];
  const MOST_MEGABYTES = 200;
  const SURE = ["cnet-presets-row", "cnet-presets-sure"].join(" ");
  const POLLING = 50; // ms
  const PATIENCE = 8000; // ms
  /** Milliseconds in which a canvas of the host's own has taken a picture that was written for it. */
  const SETTLING = 1000;
  const kept = { __type__: "update" };

  const word = (name, values) => window.controlnetWord(name, values);
  const countUnits = (count) => word(count === 1 ? "badge_one" : "badge", { count });
  const countPictures = (count) => word(count === 1 ? "presets_picture_one" : "presets_picture_count", { count });
  const sayImported = ({ added }) =>
    added.length ? word("presets_imported", { names: added.join(", ") }) : word("presets_imported_none");
  const find = (selector, root) => (root || document).querySelector(selector);
  const make = (tag, properties, ...inside) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...inside);
    return element;
  };
  const wait = (time) => new Promise((next) => setTimeout(next, time));
  async function until(check) {
    for (let time = 0; time < PATIENCE; time += POLLING) {
      const found = check();
      if (found) return found;
      await wait(POLLING);
    }
    return null;
  }

  // ---- what the events call ----

  /** The button that carries everything between a panel and the server. */
  const carrier = (prefix) => find(`#${prefix}_presets`);

  /** The inputs of a question: what is asked, and the units where they are to be saved. */
  const askPresets = (prefix, count) => (_box, ...values) => {
    const { asked } = carrier(prefix);
    const units = values.slice(0, count);
    return [asked, ...(asked?.do === "save" ? units : units.map(() => null))];
  };

  /**
   * An answer -> pictures of the units: for each its picture and its mask file.
   *
   * The server has emptied both, so that a canvas begins anew. `drawings` tells where drawings are
   * values of their own.
   */
  const takePresets = (prefix, names, drawings) => (answer) => {
    const button = carrier(prefix);
    const isFresh = Boolean(answer) && answer.serial === button.asked?.serial;
    button.answered = isFresh ? answer : null;
    button.taken = button.asked?.serial;
    const pictures = new Map((button.answered?.pictures || []).map((one) => [one.unit, one]));
    const { pictureFor } = window.controlnetPanel;
    const work = [...pictures].map(([unit, one]) => choosePictures(names[unit], one));
    if (!drawings) {
      work.push(putInDrawings(prefix, names, pictures));
      Promise.allSettled(work).then(() => button.dispatchEvent(new Event("answered")));
    }
    return names.flatMap((name, index) => {
      const { image, region } = pictures.get(index) || {};
      return [
        image ? pictureFor(`#${name}_input_image`, image) : kept,
        region ? pictureFor(`#${name}_mask_image`, region) : kept,
      ];
    });
  };

  /**
   * Nothing -> the drawings of the units, once the host's canvases show what they lie on.
   *
   * It follows the same answer as `takePresets`: nothing follows what the page alone answers.
   */
  const takeDrawings = (prefix, names) => async () => {
    const button = carrier(prefix);
    await until(() => button.taken === button.asked?.serial);
    const pictures = (button.answered?.pictures || []).filter((one) => one.drawing);
    for (const one of pictures) await findCanvas(names[one.unit], one.drawing);
    if (pictures.length) await wait(SETTLING);
    button.dispatchEvent(new Event("answered"));
    return names.map((_name, index) => pictures.find((one) => one.unit === index)?.drawing ?? kept);
  };

  async function load(url) {
    const image = new Image();
    image.src = url;
    await image.decode();
    return image;
  }

  /** The layer that is drawn on, once it has the size of a drawing; null if it never has. */
  async function findCanvas(name, drawing) {
    const { naturalWidth: width, naturalHeight: height } = await load(drawing);
    return until(() => {
      const layer = window.controlnetPanel.findLayer(`#${name}_input_image`);
      return layer?.width === width && layer?.height === height && layer;
    });
  }

  /**
   * Draw on gradio 3's canvases, which take no drawing as a value.
   *
   * gradio reads the layer when it is told that the picture has loaded. It forgets what is on the
   * layer when a canvas that was hidden is first shown; then it is drawn again.
   */
  async function putInDrawings(prefix, names, pictures) {
    const missed = [];
    await wait(POLLING); // the pictures are written
    for (const [unit, one] of pictures) {
      if (!one.drawing) continue;
      const layer = await findCanvas(names[unit], one.drawing);
      if (layer) await drawAndWatch(names[unit], layer, await load(one.drawing));
      else missed.push(unit);
    }
    if (missed.length) dialogs.get(prefix)?.say(word("presets_no_drawing"), true);
  }

  async function drawAndWatch(name, layer, drawing) {
    const picture = find(`#${name}_input_image img`);
    const isEmpty = () => {
      const pixels = layer.getContext("2d").getImageData(0, 0, layer.width, layer.height).data;
      return !pixels.some((value) => value);
    };
    const draw = () => {
      if (!layer.isConnected || layer.width !== drawing.naturalWidth || !isEmpty()) return;
      layer.getContext("2d").drawImage(drawing, 0, 0);
      picture.dispatchEvent(new Event("load"));
    };
    // gradio clears a new canvas within some frames, whenever that is on a busy machine.
    for (let time = 0; time < 6; time += 1) {
      draw();
      await wait(2 * POLLING);
    }
    if (layer.offsetParent !== null) return;
    const watcher = new IntersectionObserver(async (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      await wait(6 * POLLING);
      draw();
    });
    watcher.observe(layer);
  }

  /** Open the tab that a unit's pictures are in, and give it its several pictures. */
  async function choosePictures(name, one) {
    const unit = find(`#${name}_input_image`).closest(".cnet-unit");
    const group = find(".cnet-input-tabs", unit);
    const button = group.querySelectorAll(":scope > .tab-nav > button")[one.tab];
    if (button && !button.classList.contains("selected")) button.click();
    find(`#${name}_merge_clear`)?.click();
    if (!one.several.length) return;
    await wait(2 * POLLING);
    const files = new DataTransfer();
    for (const [index, url] of one.several.filter(Boolean).entries()) {
      const data = await (await fetch(url)).blob();
      files.items.add(new File([data], `picture-${index}.png`, { type: "image/png" }));
    }
    const upload = find(`#${name}_merge_upload`);
    const near = [upload.previousElementSibling, find("input[type=file]", upload), find("input[type=file]", upload.parentElement)];
    const input = near.find((one) => one?.type === "file");
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    const gallery = find(`#${name}_merge_gallery`);
    await until(() => gallery.querySelectorAll("img").length >= files.files.length);
    // An upload switches the unit on.
    const box = find(".cnet-unit-enabled input", unit);
    if (!one.isEnabled && (await until(() => box.checked))) box.click();
  }

  window.controlnetPanel = Object.assign(window.controlnetPanel || {}, { askPresets, takePresets, takeDrawings });

  // ---- the dialog ----

  let serial = 0;
  const dialogs = new Map();

  /** Ask the server, one question at a time, and wait for its answer; null if none comes. */
  let before = Promise.resolve();
  function ask(prefix, question) {
    const button = carrier(prefix);
    before = before.then(
      () =>
        new Promise((next) => {
          serial += 1;
          button.asked = { ...question, serial };
          button.addEventListener("answered", () => next(button.answered), { once: true });
          button.click();
        }),
    );
    return before;
  }

  class PresetDialog {
    constructor(prefix) {
      this.prefix = prefix;
      this.presets = [];
      const label = (text, element) => Object.assign(element, { ariaLabel: text, title: text });
      this.search = label(word("presets_search"), make("input", { type: "search", placeholder: word("presets_search") }));
      this.target = label(word("presets_target"), make("select", {}));
      this.list = make("ul", { className: "cnet-presets-list" });
      this.name = label(word("presets_name"), make("input", { type: "text", placeholder: word("presets_name"), maxLength: 120 }));
      this.pictures = make("input", { type: "checkbox", checked: true });
      this.status = make("p", { className: "cnet-presets-status" });
      this.status.setAttribute("role", "status");
      this.files = make("input", { type: "file", multiple: true, hidden: true, accept: ".json,.txt,.png,.jpg,.webp" });
      this.old = this.button("", () => this.importOld());
      const title = make("h3", { id: `${prefix}_presets_title`, textContent: word("presets_title") });
      const close = this.button(word("presets_close"), () => this.box.close());
      const save = make("form", { className: "cnet-presets-row" });
      save.append(
        this.name,
        make("label", {}, this.pictures, word("presets_pictures")),
        make("button", { type: "submit", textContent: word("presets_save"), className: "cnet-presets-main" }),
      );
      save.addEventListener("submit", (event) => {
        event.preventDefault();
        this.save(this.name.value.trim(), save);
      });
      this.search.addEventListener("input", () => this.draw());
      this.files.addEventListener("change", () => this.importFiles());
      const row = (...inside) => make("div", { className: "cnet-presets-row" }, ...inside);
      const choose = this.button(word("presets_import"), () => this.files.click());
      this.box = make("dialog", { className: "cnet-presets" });
      this.box.setAttribute("aria-labelledby", title.id);
      this.box.append(row(title, close), row(this.search, this.target), this.list, save);
      this.box.append(row(choose, this.old, this.files), this.status);
      // What is typed here is no shortcut of the host's page.
      this.box.addEventListener("keydown", (event) => event.stopPropagation());
      (find(".gradio-container") || document.body).append(this.box);
    }

    button(text, act) {
      const button = make("button", { type: "button", textContent: text });
      button.addEventListener("click", act);
      return button;
    }

    /** Show it for one unit, or all with null. */
    open(unit, count) {
      const choices = [...Array(count).keys()].map((i) => make("option", { value: i, textContent: word("presets_unit", { number: i }) }));
      this.target.replaceChildren(make("option", { value: "", textContent: word("presets_all") }), ...choices);
      this.target.value = unit === null ? "" : String(unit);
      this.box.showModal();
      this.search.focus();
      this.send({ do: "list" }, () => "");
    }

    get unit() {
      return this.target.value === "" ? null : Number(this.target.value);
    }

    say(text, isFault) {
      this.status.textContent = text;
      this.status.classList.toggle("cnet-fault", Boolean(isFault));
    }

    /** Ask, show the list that comes with every answer, and say what came of it. */
    async send(question, success) {
      this.say(word("presets_working"));
      this.box.setAttribute("aria-busy", "true");
      const answer = await ask(this.prefix, question);
      this.box.removeAttribute("aria-busy");
      if (!answer) {
        this.say(word("presets_lost"), true);
        return null;
      }
      Object.assign(this, { presets: answer.presets, lastUsed: answer.lastUsed });
      this.old.hidden = !answer.old.length;
      this.old.textContent = word("presets_import_old", { count: answer.old.length });
      this.old.title = answer.old.join(", ");
      this.draw();
      if (answer.fault) this.say(answer.fault, true);
      else this.say([success(answer), ...(answer.notes || [])].filter(Boolean).join(" "));
      return answer;
    }

    draw() {
      const words = this.search.value.toLowerCase().split(/\s+/);
      const text = (one) => [one.name, ...one.units.flatMap((unit) => [unit.module, unit.model])].join(" ").toLowerCase();
      const shown = this.presets.filter((one) => words.every((word) => text(one).includes(word)));
      shown.sort((a, b) => (b.name === this.lastUsed) - (a.name === this.lastUsed));
      const empty = make("li", { textContent: this.presets.length ? word("presets_none_found") : word("presets_none") });
      this.list.replaceChildren(...(shown.length ? shown.map((one) => this.drawOne(one)) : [empty]));
    }

    drawOne(one) {
      const item = make("li", {});
      const bytes = one.size >= 1e6 ? `${(one.size / 1e6).toFixed(1)} MB` : `${Math.ceil(one.size / 1e3)} kB`;
      const units = one.units.map((unit) => {
        const parts = [unit.module, unit.model].filter((part) => part.toLowerCase() !== "none").join(" + ");
        const text = parts || unit.module;
        return unit.enabled ? text : word("presets_off", { unit: text });
      });
      const facts = [one.scope === "all" ? countUnits(units.length) : "", units.join(", ")];
      if (one.pictures) facts.push(countPictures(one.pictures));
      const what = one.fault || [...facts, bytes].filter(Boolean).join(" \u00b7 ");
      const details = make("span", { textContent: what, className: one.fault ? "cnet-fault" : "" });
      const act = (text, run) => {
        const button = this.button(text, () => run(item));
        button.ariaLabel = `${text}: ${one.name}`;
        return button;
      };
      const isLast = one.name === this.lastUsed;
      const actions = make("div", { className: "cnet-presets-row" });
      if (!one.fault) {
        actions.append(act(word("presets_load"), () => this.load(one.name)));
        if (!isLast) actions.append(act(word("presets_over"), () => this.save(one.name, item)));
        actions.append(act(word("presets_rename"), () => this.rename(one.name, item)));
      }
      actions.append(act(word("presets_remove"), () => this.remove(one.name, item)));
      item.append(make("b", { textContent: one.name }), details, actions);
      return item;
    }

    /** Ask back in the place of an entry; true for yes. */
    sure(place, text) {
      return new Promise((next) => {
        const row = make("div", { className: SURE }, text);
        const end = (answer) => {
          row.remove();
          next(answer);
        };
        const no = this.button(word("presets_no"), () => end(false));
        row.append(this.button(word("presets_yes"), () => end(true)), no);
        find(".cnet-presets-sure", this.box)?.remove();
        place.append(row);
        no.focus();
      });
    }

    async save(name, place, replace = false) {
      const known = this.presets.find((one) => one.name.toLowerCase() === name.toLowerCase());
      if (known && !replace && !(await this.sure(place, word("presets_sure_over")))) return;
      const question = { do: "save", name, unit: this.unit, pictures: this.pictures.checked };
      const answer = await this.send({ ...question, replace: replace || Boolean(known) }, () => word("presets_saved", { name }));
      // Somebody else may have saved one of this name meanwhile.
      if (answer?.isTaken && (await this.sure(place, word("presets_sure_over")))) this.save(name, place, true);
    }

    load(name) {
      return this.send({ do: "load", name, unit: this.unit }, () => word("presets_loaded", { name }));
    }

    async remove(name, place) {
      if (!(await this.sure(place, word("presets_sure_remove")))) return;
      await this.send({ do: "remove", name }, () => word("presets_removed", { name }));
      this.search.focus();
    }

    rename(name, place) {
      const input = make("input", { type: "text", value: name, ariaLabel: word("presets_name"), maxLength: 120 });
      const form = make("form", { className: SURE }, input);
      form.append(make("button", { type: "submit", textContent: word("presets_rename") }));
      form.append(this.button(word("presets_no"), () => form.remove()));
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        const to = input.value.trim();
        this.send({ do: "rename", name, to }, () => word("presets_renamed", { name: to }));
      });
      find(".cnet-presets-sure", this.box)?.remove();
      place.append(form);
      input.select();
    }

    async importFiles() {
      const chosen = Array.from(this.files.files);
      this.files.value = "";
      if (!chosen.length) return;
      if (chosen.reduce((sum, file) => sum + file.size, 0) > MOST_MEGABYTES * 1e6) {
        this.say(word("presets_too_much", { limit: MOST_MEGABYTES }), true);
        return;
      }
      const read = (file) =>
        new Promise((next) => {
          const reader = new FileReader();
          reader.onload = reader.onerror = () => next([file.name, reader.result || ""]);
          reader.readAsDataURL(file);
        });
      const files = Object.fromEntries(await Promise.all(chosen.map(read)));
      this.send({ do: "import", files }, sayImported);
    }

    importOld() {
      return this.send({ do: "importOld" }, sayImported);
    }
  }

  function open(prefix, unit) {
    if (!dialogs.has(prefix)) dialogs.set(prefix, new PresetDialog(prefix));
    dialogs.get(prefix).open(unit, document.querySelectorAll(`#${prefix} .cnet-unit`).length);
  }

  /** Buttons in each unit and above all of them, where there are none yet. */
  function addButtons() {
    for (const tab of TABS) {
      const prefix = `${tab}_controlnet`;
      const panel = find(`#${prefix}`);
      if (!panel || !carrier(prefix) || find(".cnet-presets-open", panel)) continue;
      const add = (place, title, unit) => {
        const button = make("button", { type: "button", textContent: word("presets"), title, className: "cnet-presets-open" });
        button.addEventListener("click", () => open(prefix, unit));
        place.append(button);
      };
      const units = panel.querySelectorAll(".cnet-unit");
      units.forEach((unit, index) => add(find(".controlnet_main_options", unit), word("presets_of_unit"), index));
      const timeline = find(`#${prefix}_timeline`);
      const row = make("div", { className: "cnet-presets-of-all" });
      timeline.insertAdjacentElement("beforebegin", row);
      add(row, word("presets_of_all"), null);
    }
  }

  if (typeof onUiLoaded === "function") onUiLoaded(addButtons);
})();
