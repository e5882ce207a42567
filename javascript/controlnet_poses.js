// Poses that come into a unit from outside: a JSON file, what another extension writes into the hidden
// text and draws by the hidden button, and the pose editor that another extension brings.
//
// A classic script. The elements are those that other extensions and their users know; what they do is
// in `javascript/editors/pose_outside.mjs`, which is loaded when it is first needed.
(() => {
  "use strict";

  const { TABS, find, follow, part, set, unitsOf, word } = window.controlnetPanel.page;
  const OUTSIDE = "openpose_editor_index";

  const tools = () => window.controlnetPanel.unitTools;

  /** Call a function of the module; what goes wrong is said in the unit. */
  async function run(unit, name, ...values) {
    try {
      const outside = await window.controlnetPanel.loadEditor("pose_outside.mjs");
      await outside[name]({ ...tools().placeOf(unit), unit }, ...values);
    } catch (error) {
      tools().sayInUnit(unit, error.message, true);
    }
  }

  function makeElement(tag, classes, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.classList.add(...classes);
    made.append(...children);
    return made;
  }

  function build(unit) {
    const input = makeElement("input", ["cnet-pose-file"], { type: "file", accept: "application/json,.json", title: word("pose_upload_note") });
    input.addEventListener("change", async () => {
      const [file] = input.files;
      if (file) await run(unit, "putFile", file);
      input.value = "";
    });
    const upload = makeElement("label", ["cnet-upload-pose", "cnet-tools-button"], { title: word("pose_upload_note") }, word("pose_upload"), input);
    const button = (name, act, classes) => {
      const note = word(name === "pose_edit" ? "pose_edit_note" : "pose_outside_note");
      return Object.assign(tools().makeButton(word(name), act, { classes: ["cnet-tools-button", ...classes] }), { title: note });
    };
    const edit = button("pose_edit", () => window.controlnetPanel.openEditor(unit, "pose"), ["cnet-edit-pose"]);
    const outside = button("pose_outside", () => run(unit, "openOutside", OUTSIDE), ["cnet-outside-pose"]);
    const text = makeElement("textarea", [], { tabIndex: -1 });
    const draw = makeElement("button", ["cnet-render-pose"], { type: "button", tabIndex: -1 });
    draw.addEventListener("click", () => run(unit, "put", text.value));
    const hidden = makeElement("div", [], { hidden: true }, makeElement("div", ["cnet-pose-json"], {}, text), draw);
    const row = makeElement("div", ["cnet-pose-row"], { hidden: true }, upload, edit, outside, hidden);
    find(".cnet-image-row", unit).after(row);
    return row;
  }

  /** Whether another extension brings an editor; asked once, of this WebUI alone. */
  let known;
  let isThere = false;
  function lookForOutside() {
    known ??= fetch(OUTSIDE)
      .then((answer) => {
        isThere = answer.ok;
        update();
      })
      .catch(() => {});
  }

  /** Whether a unit is steered by poses; a list of control types is a dropdown in some hosts. */
  function isOfPoses(unit) {
    const places = ["controlnet_preprocessor_dropdown", "controlnet_model_dropdown", "controlnet_type_filter_radio"];
    return places.some((place) => /pose/i.test(part(unit, place, "input:not([type=radio]), input:checked")?.value || ""));
  }

  function update() {
    const isOff = typeof opts === "object" && opts.controlnet_disable_openpose_edit;
    for (const unit of TABS.flatMap(unitsOf)) {
      const row = find(".cnet-pose-row", unit) || build(unit);
      const isShown = isOfPoses(unit);
      set(row, "hidden", !isShown);
      if (!isShown) continue;
      if (!isOff) lookForOutside();
      set(find(".cnet-edit-pose", row), "hidden", Boolean(isOff));
      set(find(".cnet-outside-pose", row), "hidden", Boolean(isOff) || !isThere);
    }
  }

  follow(update, { calmly: true });
})();
