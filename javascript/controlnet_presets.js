// Presets of units: a dialog that is built when it is first opened, and what it asks the server.
//
// A classic script; it adds an entry to `controlnetPanel` that the event of
// `lib_controlnet/ui/presets.py` calls. What a preset says is written by `controlnetPanel.edit`;
// here it stands as texts alone, never as HTML.
(() => {
  "use strict";

  const { TABS, find, whenReady, word } = window.controlnetPanel.page;
  const MOST_MEGABYTES = 200;
  const SURE = ["cnet-presets-row", "cnet-presets-sure"].join(" ");

  const countUnits = (count) => word(count === 1 ? "badge_one" : "badge", { count });
  const countPictures = (count) => word(count === 1 ? "presets_picture_one" : "presets_picture_count", { count });
  const sayImported = ({ added }) =>
    added.length ? word("presets_imported", { names: added.join(", ") }) : word("presets_imported_none");
  const make = (tag, properties, ...inside) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...inside);
    return element;
  };

  // ---- what the event calls ----

  /** The inputs of a question: what is asked, and the units where they are to be saved. */
  const askPresets = (name, count) => (_box, ...values) => {
    const { asked } = find(`#${name}`);
    const units = values.slice(0, count);
    return [asked, ...(asked?.do === "save" ? units : units.map(() => null))];
  };

  Object.assign(window.controlnetPanel, { askPresets });

  // ---- the dialog ----

  const dialogs = new Map();

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

    /** Ask, show the list that comes with every answer, and say what comes of it. */
    async send(question, success) {
      this.say(word("presets_working"));
      this.box.setAttribute("aria-busy", "true");
      const answer = await window.controlnetPanel.ask(`${this.prefix}_presets`, question);
      if (answer) await this.show(answer, success);
      else this.say(word("presets_lost"), true);
      this.box.removeAttribute("aria-busy");
      return answer;
    }

    async show(answer, success) {
      Object.assign(this, { presets: answer.presets, lastUsed: answer.lastUsed });
      this.old.hidden = !answer.old.length;
      this.old.textContent = word("presets_import_old", { count: answer.old.length });
      this.old.title = answer.old.join(", ");
      this.draw();
      try {
        if (answer.fault) throw new Error(answer.fault);
        this.say([await success(answer), ...(answer.notes || [])].filter(Boolean).join(" "));
      } catch (error) {
        this.say(error.message, true);
      }
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
      return this.send({ do: "load", name, unit: this.unit }, async ({ edits, off }) => {
        const lost = await this.write(edits, off);
        return [word("presets_loaded", { name }), ...lost].join(" ");
      });
    }

    /**
     * Write units; of their values what is missing stays. Returns sentences on what could not be written.
     *
     * What was drawn for them before is not what they show then.
     */
    write(edits, off) {
      const { edit, unitTools } = window.controlnetPanel;
      const tab = TABS.find((name) => this.prefix.startsWith(name));
      for (const unit of off) unitTools.setEnabled(unitTools.unitsOf(tab)[unit], false);
      const complete = (units) => (one) => {
        const { values, maps } = units[one.unit];
        return { ...one, values: { ...values, ...one.values }, maps: { ...maps, isFormer: true } };
      };
      return edit(tab, (units) => edits.map(complete(units)));
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
      if (!panel || !find(`#${prefix}_presets`) || find(".cnet-presets-open", panel)) continue;
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

  whenReady(addButtons);
})();
