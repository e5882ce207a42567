// What stands beside the stage of the editor of poses: the figures, what is done with the selected one,
// its joints, the library, and poses as files and texts.

const TURN = Math.PI / 12;
const GROW = 1.1;
const THUMBNAIL = { width: 60, height: 68 };

/** Write new children, the one with the focus again if it is among them. */
function renew(place, children) {
  const name = place.contains(document.activeElement) && document.activeElement.dataset.key;
  place.replaceChildren(...children);
  if (name) children.find((child) => child.dataset.key === name)?.focus();
}

export class Panel {
  constructor(tool) {
    this.tool = tool;
    this.frame = tool.frame;
    const { frame } = this;
    this.word = frame.word;
    this.list = this.make("div", "cnet-pose-list");
    this.joints = this.make("div", "cnet-pose-joints");
    this.part = null;
    this.buildBar();
    frame.side.append(
      this.section("pose_figures", true, this.list, this.actions()),
      (this.jointsSection = this.section("pose_joints", false, this.choosePart(), this.joints)),
      this.section("pose_library", true, this.buildLibrary()),
      this.section("pose_file", false, ...this.buildFile()),
    );
  }

  make(tag, className, properties, ...children) {
    return this.frame.make(tag, { className, ...properties }, ...children);
  }

  section(title, open, ...children) {
    const summary = this.frame.make("summary", {}, this.word(title));
    return this.make("details", "cnet-pose-section", { open }, summary, this.make("div", "cnet-pose-inside", {}, ...children));
  }

  press(button, isOn) {
    button.setAttribute("aria-pressed", String(isOn));
  }

  buildBar() {
    const { frame, tool, word } = this;
    const wholly = frame.button(
      word("pose_wholly"),
      (button) => {
        tool.isWhole = !tool.isWhole;
        this.press(button, tool.isWhole);
      },
      { title: word("pose_wholly_note"), pressed: false },
    );
    const hint = this.make("span", "cnet-pose-hint", {}, word("pose_hint"));
    frame.bar.append(wholly, hint);
  }

  // ---- the selected figure ----

  actions() {
    const { frame, tool, word } = this;
    const act = (name, note, what) => frame.button(word(name), what, { title: word(note) });
    const more = { pressed: false, title: word("pose_part_note") };
    this.hands = [...tool.F.HANDS, "face"].map((part) => [part, frame.button(tool.nameOfPart(part), () => tool.togglePart(part), more)]);
    const buttons = [
      act("pose_copy", "pose_copy_note", () => tool.copy()),
      act("pose_mirror", "pose_mirror_note", () => tool.mirror()),
      act("pose_raise", "pose_raise_note", () => tool.raise()),
      frame.button("\u21BA", () => tool.turn(-TURN), { title: word("pose_turn_left") }),
      frame.button("\u21BB", () => tool.turn(TURN), { title: word("pose_turn_right") }),
      frame.button("\u2212", () => tool.grow(1 / GROW), { title: word("pose_smaller") }),
      frame.button("+", () => tool.grow(GROW), { title: word("pose_larger") }),
      act("pose_delete", "pose_delete_note", () => tool.remove()),
      ...this.hands.map(([, button]) => button),
    ];
    this.deeds = this.make("div", "cnet-pose-deeds", { role: "group", "aria-label": word("pose_deeds") }, ...buttons);
    return this.deeds;
  }

  showFigures() {
    const { tool, frame, word } = this;
    const buttons = tool.list.map((figure, number) => {
      const button = frame.button(tool.nameOfFigure(number), () => tool.select(number), { pressed: number === tool.selected });
      button.dataset.key = String(number);
      const mark = this.make("span", "cnet-pose-mark");
      mark.style.background = tool.drawing.haloOf(figure);
      button.prepend(mark);
      return button;
    });
    renew(this.list, buttons.length ? buttons : [this.make("p", "cnet-pose-empty", {}, word("pose_empty"))]);
  }

  // ---- joints ----

  choosePart() {
    const { frame, word } = this;
    this.parts = frame.choice(word("pose_part"), [], "", (part) => {
      this.part = part;
      this.update();
    });
    return this.parts;
  }

  showJoints() {
    const { tool, frame } = this;
    const { figure } = tool;
    this.jointsSection.hidden = !figure;
    if (!figure) return;
    const parts = Object.keys(figure.parts);
    if (tool.joint) this.part = tool.joint.part;
    if (!parts.includes(this.part)) [this.part] = parts;
    this.parts.hidden = parts.length < 2;
    const { input } = this.parts;
    input.replaceChildren(...parts.map((part) => frame.make("option", { value: part }, tool.nameOfPart(part))));
    input.value = this.part;
    const isNamed = Boolean(tool.names[this.part]);
    this.joints.classList.toggle("cnet-pose-numbers", !isNamed);
    const buttons = figure.parts[this.part].map((point, index) => {
      const name = tool.nameOf(this.part, index);
      const isShown = Boolean(point?.[2]);
      const button = frame.button(isNamed ? name : String(index + 1), () => tool.toggleJoint({ part: this.part, index }), { pressed: isShown });
      button.dataset.key = `${this.part} ${index}`;
      if (!isNamed) button.ariaLabel = name;
      const isChosen = tool.joint?.part === this.part && tool.joint.index === index;
      button.classList.toggle("cnet-pose-chosen", isChosen);
      return button;
    });
    renew(this.joints, buttons);
  }

  // ---- the library ----

  buildLibrary() {
    const { tool, word } = this;
    const entries = tool.library.POSES.map((entry) => {
      const name = word(entry.name);
      const canvas = this.frame.make("canvas", { ...THUMBNAIL, "aria-hidden": "true" });
      tool.drawing.drawThumbnail(canvas, tool.F.fromLibrary(entry, 100, [0, 0], 0), tool.tableOf);
      const button = this.frame.button("", () => tool.add(entry), { className: "cnet-pose-entry", title: name });
      button.append(canvas, this.frame.make("span", {}, name));
      button.ariaLabel = word("pose_add", { name });
      return button;
    });
    return this.make("div", "cnet-pose-library", {}, ...entries);
  }

  // ---- files and texts ----

  buildFile() {
    const { frame, tool, word } = this;
    const input = frame.make("input", { type: "file", accept: "application/json,.json", hidden: true });
    input.addEventListener("change", () => {
      const [file] = input.files;
      if (file) frame.inTurn(async () => tool.take(await tool.F.readFile(file)));
      input.value = "";
    });
    const open = frame.button(word("pose_open"), () => input.click(), { title: word("pose_open_note") });
    const save = frame.button(word("pose_save"), () => frame.inTurn(() => this.save()), { title: word("pose_save_note"), className: "cnet-pose-save" });
    const text = frame.make("textarea", { rows: 4, spellcheck: "false", "aria-label": word("pose_text") });
    const take = frame.button(word("pose_take"), () => frame.inTurn(() => tool.take(text.value.slice(0, tool.F.MOST_TEXT + 1))), { title: word("pose_take_note") });
    const paste = this.make("details", "cnet-pose-text", {}, frame.make("summary", {}, word("pose_text")), text, take);
    return [this.make("div", "cnet-pose-deeds", {}, open, save, input), paste];
  }

  /** Give the pose as a file, in the form that the routes give. */
  async save() {
    const { frame, tool } = this;
    const text = await frame.ask("write_pose", { text: tool.text() });
    const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    frame.make("a", { href, download: "pose.json" }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10000);
  }

  // ---- what follows the tool ----

  update() {
    const { tool } = this;
    const { figure } = tool;
    this.showFigures();
    for (const button of this.deeds.querySelectorAll("button")) button.disabled = !figure;
    for (const [part, button] of this.hands) {
      this.press(button, Boolean(figure?.parts[part]));
      button.disabled = figure?.kind !== "person";
    }
    this.showJoints();
  }
}
