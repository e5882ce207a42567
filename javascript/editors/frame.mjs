// The frame of every editor: a dialog with a stage, undo and redo, a photograph beneath, and what
// becomes of the map. The tools are modules beside this one, each with `create(frame)`.
//
// A tool is { load(state | null), save(), result() or apply(), key(event), measure(state) }: `load`
// shows a state, or with null begins from `frame.map`, `frame.pose` or nothing, and may return a
// sentence about what it began from; `save` gives one that
// can be cloned and that nothing changes later; `result` gives the map as a data URL, or `apply`
// writes units by itself and returns a sentence; `key` answers whether it has taken a key, `measure`
// how many bytes a state has. `result`, `apply` or `key` and `measure` may be missing. What a tool
// does that takes a moment goes through `frame.inTurn`.
//
// Modules are loaded by `frame.load`, with the stamp in this one's address, so that none is of
// another version. A tool's controls go into `frame.bar` and `frame.side`.

const { ask, page, putMap, unitTools } = window.controlnetPanel;
const { find } = page;
const LATER = 400; // ms until what was made is kept
const OPACITY = 0.4;
/** Keys that never wait for what is being done. */
const KEYS_OF_PAGE = ["Escape", "Tab"];
const KINDS_OF_TEXT = "input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select";

const stamp = new URL(import.meta.url).search;
export const load = (file) => import(new URL(file + stamp, import.meta.url));
const [controls, { bound, loadPicture, readUnit, wantedSize }] = await Promise.all(["controls.mjs", "sources.mjs"].map(load));
const { button, make, slider } = controls;

let texts;
/** The editors' texts come when the first one is opened. */
async function readWords(tab) {
  texts ??= await askServer(tab, "words");
  window.controlnetWord.add(texts);
}

export async function askServer(tab, kind, value) {
  const answer = await ask(`${tab}_controlnet_editors`, { do: kind, value });
  if (!answer) throw new Error(texts ? page.word("editor_lost") : kind);
  if (answer.fault) throw new Error(answer.fault);
  return answer.value;
}

class Frame {
  constructor({ tab, index, unit, tool }, modules) {
    Object.assign(this, { tab, index, unit, toolName: tool, ...modules, ...controls, load });
    this.word = page.word;
    this.name = modules.module.isOfAllUnits ? `${tab}/${tool}` : `${tab}/${index}/${tool}`;
    this.size = wantedSize(tab);
    this.build();
    this.view = new modules.View(this.Konva, this.place, this.size);
    const { stage, content, handles } = this.view;
    Object.assign(this, { stage, content, handles });
    this.cursor = new modules.Cursor(this);
    Object.assign(this, { opacity: OPACITY, busy: 0, turn: Promise.resolve() });
  }

  // ---- what tools call ----

  scale() {
    return this.view.scale();
  }

  /** What a pointer does on the map: { start, move, end, hover }, see `view.mjs`; by keys as well, see `cursor.mjs`. */
  strokes(handler) {
    this.view.handler = handler;
    if (handler.holds) this.place.ariaLabel += ` ${this.word("editor_stage_keys")}`;
  }

  ask(kind, value) {
    return askServer(this.tab, kind, value);
  }

  /** Give the map another size, which a state of the tool tells. */
  resize(size) {
    this.view.resize(size);
    this.showPhotograph();
    this.showSize();
  }

  say(text, isFault = false) {
    this.status.textContent = text;
    this.status.classList.toggle("cnet-fault", isFault);
  }

  /** An action is finished. */
  changed() {
    this.history.add(this.moment());
    this.showHistory();
    this.keepSoon();
  }

  undo() {
    return this.inTurn(() => this.go(-1));
  }

  redo() {
    return this.inTurn(() => this.go(1));
  }

  /** Do what takes a moment: one after the other, the pointer kept out meanwhile; a fault is said. */
  inTurn(act) {
    this.setBusy(1);
    this.turn = this.turn.then(async () => {
      try {
        if (this.box.open) await act();
      } catch (error) {
        if (this.box.open) this.say(error.message, true);
        else unitTools.sayInUnit(this.unit, error.message, true);
      }
      this.setBusy(-1);
    });
    return this.turn;
  }

  setBusy(change) {
    this.busy += change;
    if (this.busy) this.box.setAttribute("aria-busy", "true");
    else this.box.removeAttribute("aria-busy");
  }

  // ---- the dialog ----

  build() {
    const { word } = this;
    const name = word(`editor_${this.toolName}`);
    const text = this.module.isOfAllUnits ? word("editor_title_all", { tool: name, tab: this.tab }) : word("editor_title", { tool: name, unit: this.index });
    const title = make("h3", { id: "cnet_editor_title" }, text);
    const sign = (text, note, act) => button(text, act, { title: word(note) });
    this.undoButton = sign("\u21B6", "editor_undo", () => this.undo());
    this.redoButton = sign("\u21B7", "editor_redo", () => this.redo());
    const zoom = [
      sign("+", "editor_closer", () => this.view.closer()),
      sign("\u2212", "editor_farther", () => this.view.farther()),
      sign("\u2922", "editor_fit", () => this.view.fit()),
    ];
    this.shade = slider(word("editor_photograph"), { min: 0, max: 1, step: 0.05, value: OPACITY }, (value) => this.showPhotograph(value));
    const use = button(word("editor_use"), () => this.inTurn(() => this.use()), { title: word("editor_use_note"), className: "cnet-editor-main" });
    const close = button(word("editor_close"), () => this.box.close(), { title: word("editor_close_note"), className: "cnet-editor-close" });
    const anew = button(word("editor_anew"), () => this.inTurn(() => this.startAnew()), { title: word("editor_anew_note") });
    this.bar = make("div", { className: "cnet-editor-bar", role: "toolbar", "aria-label": word("editor_bar") });
    this.side = make("div", { className: "cnet-editor-side", role: "group", "aria-label": word("editor_side") });
    this.place = make("div", {
      className: "cnet-editor-stage",
      tabindex: 0,
      role: "application",
      "aria-label": word("editor_stage", { tool: name }),
    });
    this.sizes = make("span", { className: "cnet-editor-sizes" });
    this.status = make("p", { className: "cnet-editor-status", role: "status" });
    const head = make("div", { className: "cnet-editor-head" }, title, this.undoButton, this.redoButton, ...zoom, this.shade, anew, use, close);
    const middle = make("div", { className: "cnet-editor-middle" }, this.place, this.side);
    const foot = make("div", { className: "cnet-editor-foot" }, this.sizes, this.status);
    this.box = make("dialog", { className: "cnet-editor", "aria-labelledby": title.id }, head, this.bar, middle, foot);
    this.box.addEventListener("keydown", (event) => this.press(event));
    this.box.addEventListener("keyup", (event) => event.key === " " && this.view.hold(false));
    this.box.addEventListener("close", () => this.end());
    (find(".gradio-container") || document.body).append(this.box);
  }

  /** Keys: those of the cursor, of the tool, of the frame; none reaches the host's page. */
  press(event) {
    event.stopPropagation();
    const isTyped = event.target.matches?.(KINDS_OF_TEXT);
    if (isTyped || !this.tool) return;
    if (!this.busy) {
      if (this.carryOut(event)) event.preventDefault();
    } else if (!KEYS_OF_PAGE.includes(event.key)) {
      event.preventDefault();
      this.inTurn(() => void this.carryOut(event));
    }
  }

  /** Do what a key means; whether it means something. */
  carryOut(event) {
    if (this.cursor.key(event) || this.tool.key?.(event)) return true;
    const isCommand = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    const isOnButton = event.target.matches?.("button, summary, input");
    const acts = {
      z: () => isCommand && (event.shiftKey ? this.redo() : this.undo(), true),
      y: () => isCommand && (this.redo(), true),
      "+": () => !isCommand && (this.view.closer(), true),
      "-": () => !isCommand && (this.view.farther(), true),
      0: () => !isCommand && (this.view.fit(), true),
      " ": () => !isOnButton && (this.view.hold(true), true),
    };
    return Object.hasOwn(acts, key) && Boolean(acts[key]());
  }

  showPhotograph(opacity = this.opacity) {
    this.opacity = opacity;
    this.view.photograph.opacity(opacity);
    this.view.showPhotograph(opacity > 0 ? this.photograph : null, this.mode);
    this.shade.hidden = !this.photograph;
  }

  showHistory() {
    this.undoButton.disabled = !this.history.canUndo;
    this.redoButton.disabled = !this.history.canRedo;
    if (document.activeElement?.disabled) this.place.focus(); // a button that is off would swallow the keys
  }

  showSize() {
    const { width, height } = this.size;
    this.sizes.textContent = this.word("editor_size", { width, height });
  }

  // ---- states ----

  async begin() {
    this.box.showModal();
    this.setBusy(1);
    this.say(this.word("editor_working"));
    const kept = await this.store.read(this.name).catch((error) => this.sayUnkept(error));
    await this.readSources(kept);
    this.tool = await this.module.create(this);
    this.lastKept = kept;
    Object.assign(this.size, kept?.size || this.freshSize());
    const said = await this.show(kept?.state ?? null);
    const weigh = this.tool.measure && (({ state }) => this.tool.measure(state));
    this.history = new this.store.History(this.moment(), weigh);
    this.showHistory();
    if (kept) this.sayKept();
    else this.sayBegun(said);
    if (kept?.isFormer && !this.isOwnMap) await this.leaveFormer();
    this.setBusy(-1);
    this.place.focus();
  }

  /** Where the photograph comes from: the unit, or the last time if the unit has the map in its place. */
  async readSources(kept) {
    const { photograph, ...rest } = await readUnit(this.unit);
    Object.assign(this, rest);
    this.beganFrom ??= kept ? kept.source : this.source;
    this.isOwnMap = Boolean(photograph) && photograph === kept?.result;
    this.photographUrl = (this.isOwnMap || !photograph ? kept?.photograph : photograph) || null;
    this.photograph = this.photographUrl && (await loadPicture(this.photographUrl));
  }

  /** The size of a map that is begun now: the detected one's, or that of the picture to be made. */
  freshSize() {
    const { naturalWidth: width, naturalHeight: height } = this.map || {};
    return width && !this.module.isOfAllUnits ? bound({ width, height }) : wantedSize(this.tab);
  }

  /** What undo goes back to. */
  moment() {
    return { size: { ...this.size }, state: this.tool.save() };
  }

  /** Show a state, or begin anew, in the size that is set; the tool's sentence about it. */
  show(state) {
    this.resize(this.size);
    return this.tool.load(state);
  }

  sayBegun(said) {
    const begun = this.map || this.pose ? this.word("editor_from_map") : "";
    this.say(said || begun);
  }

  sayKept() {
    const wanted = wantedSize(this.tab);
    const { width, height } = this.size;
    const fits = wanted.width * height === wanted.height * width;
    const other = { width, height, wanted: `${wanted.width} x ${wanted.height}` };
    const isNewer = this.source && this.source !== this.lastKept.source;
    const said = [this.word("editor_kept")];
    if (!fits) said.push(this.word("editor_other_size", other));
    if (isNewer) said.push(this.word("editor_newer"));
    this.say(said.join(" "));
  }

  sayUnkept(error) {
    this.say(this.word("editor_unkept", { error: error?.message || error }), true);
  }

  async go(step) {
    const { size, state } = this.history.go(step);
    if (size.width === this.size.width && size.height === this.size.height) await this.tool.load(state);
    else {
      Object.assign(this.size, size);
      await this.show(state);
    }
    this.showHistory();
    this.keepSoon();
  }

  async startAnew() {
    await this.readSources(this.lastKept);
    if (!this.box.open) return;
    this.beganFrom = this.source;
    Object.assign(this.size, this.freshSize());
    this.sayBegun(await this.show(null));
    this.changed();
  }

  /** Begin anew in a unit that was given something else; what was made before is a step behind, and kept until something is done. */
  async leaveFormer() {
    this.lastKept = undefined;
    await this.startAnew();
    clearTimeout(this.timer);
    this.isTouched = false;
    this.say(this.word("editor_former"));
  }

  keepSoon() {
    this.isTouched = true;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.keep(), LATER);
  }

  async keep(result = this.lastKept?.result) {
    clearTimeout(this.timer);
    const { photographUrl: photograph, beganFrom: source } = this;
    this.lastKept = { ...this.history.present, photograph, result, source };
    await this.store.write(this.name, this.lastKept).catch((error) => this.sayUnkept(error));
  }

  /** Give the map to the unit, or whatever the tool does instead. */
  async use() {
    this.say(this.word("editor_working"));
    if (this.tool.apply) {
      const text = await this.tool.apply();
      await this.keep();
      unitTools.sayInUnit(this.unit, text);
    } else {
      const image = await this.tool.result();
      await this.keep(image);
      await putMap(this.unit, image, this.word("editor_used"));
    }
    this.box.close();
  }

  async end() {
    if (this.isTouched) await this.keep();
    this.view.destroy();
    this.tool?.destroy?.();
    this.box.remove();
    find(".cnet-editors summary", this.unit)?.focus();
  }
}

let style;
/** What every dialog of the editors needs: their texts and looks. */
export function prepare(tab) {
  style ??= new Promise((next, fail) => {
    const link = make("link", { rel: "stylesheet", href: new URL(`editors.css${stamp}`, import.meta.url).href });
    Object.assign(link, { onload: next, onerror: () => fail(new Error("editors.css")) });
    document.head.append(link);
  });
  return Promise.all([readWords(tab), style]);
}

/** Open an editor: { tab, index, unit, tool }. */
export async function open(asked) {
  const [module, store, { View }, { Cursor }] = await Promise.all([
    load(`${asked.tool}.mjs`),
    load("store.mjs"),
    load("view.mjs"),
    load("cursor.mjs"),
    load("konva.min.js"),
    prepare(asked.tab),
  ]);
  const frame = new Frame(asked, { module, store, View, Cursor, Konva: globalThis.Konva });
  try {
    await frame.begin();
  } catch (error) {
    frame.box.close();
    throw error;
  }
}
