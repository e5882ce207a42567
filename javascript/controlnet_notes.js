// A line on every control, as its title, and below the control types what the chosen one is for,
// or the one under the mouse or with the focus.
//
// A classic script without globals. The texts are in `lib_controlnet/words/titles.py`.
(() => {
  "use strict";

  const { TABS, findAll, follow, isShown, nameOf, unitsOf, word } = window.controlnetPanel.page;

  /** Strokes of the small pictures of control types, on a field of 24 by 24. */
  const PICTURES = {
    all: "M4 4h7v7H4z M13 4h7v7h-7z M4 13h7v7H4z M13 13h7v7h-7z",
    canny: "M3 20 9 8l4 6 3-4 5 10z M16 5a2 2 0 1 0 .1 0z",
    depth: "M3 5h18v14H3z M7 8h10v8H7z M10.5 10.5h3v3h-3z",
    ipadapter: "M3 5h12v12H3z M3 14l4-4 3 3 2-2 3 3 M18 9h3 M18 13h3 M6 21h15",
    inpaint: "M4 4h16v16H4z M9 9h6v6H9z M9 12l3-3 M9 15l6-6 M12 15l3-3",
    instantid: "M12 3a6 7 0 1 0 .1 0z M9.5 9v.1 M14.5 9v.1 M10 13q2 1.5 4 0 M4 21q8-5 16 0",
    instructp2p: "M3 12h10 M10 8l4 4-4 4 M16 5h5v14h-5z",
    lineart: "M4 20q1-9 8-9 M12 11q6 0 8-7 M4 20q8 1 16-4",
    mlsd: "M3 20V9l9-5 9 5v11 M3 20h18 M12 4v16 M3 14h18",
    normalmap: "M12 3a9 9 0 1 0 .1 0z M12 12V5 M12 12l6 4 M12 12l-6 4",
    openpose: "M12 3a2 2 0 1 0 .1 0z M12 7v7 M5 9l7-1 7 1 M12 14l-4 7 M12 14l4 7",
    recolor: "M12 3q6 7 6 11a6 6 0 0 1-12 0q0-4 6-11z M12 8v12",
    reference: "M3 4h8v8H3z M13 12h8v8h-8z M14 5q5 0 5 5 M10 19q-5 0-5-5",
    revision: "M9 17q-4-2-4-6a7 7 0 0 1 14 0q0 4-4 6z M9 20h6",
    scribble: "M3 17q3-12 6-4t5-4 4 4 3-6 M5 21h10",
    segmentation: "M3 4h18v16H3z M3 13q6-5 9 0t9-2 M12 13v7",
    shuffle: "M3 7h4l9 10h5 M18 14l3 3-3 3 M3 17h4l3-3 M13 10l3-3h5 M18 4l3 3-3 3",
    softedge: "M4 18q2-11 8-11t8 11 M7 18q1-7 5-7t5 7 M10 18q0-3 2-3t2 3",
    sparsectrl: "M3 6h18v12H3z M8 6v12 M16 6v12 M5 9v.1 M5 15v.1 M19 9v.1 M19 15v.1",
    t2iadapter: "M4 9h6v6H4z M14 5h6v6h-6z M14 14h6v6h-6z M10 12h2 M12 8v9 M12 8h2 M12 17h2",
    tile: "M4 4h16v16H4z M4 9.3h16 M4 14.7h16 M9.3 4v16 M14.7 4v16",
  };
  const NAMESPACE = "http://www.w3.org/2000/svg";

  const keyOf = (type) => type.toLowerCase().replace(/[^a-z0-9]/g, "");

  /** What a control type is for; "" for one that is not known here, of another extension. */
  const sentenceOf = (type) => (PICTURES[keyOf(type)] ? word(`type_${keyOf(type)}`) : "");

  function draw(type) {
    const picture = document.createElementNS(NAMESPACE, "svg");
    picture.setAttribute("viewBox", "0 0 24 24");
    picture.setAttribute("aria-hidden", "true");
    picture.classList.add("cnet-type-picture");
    const strokes = document.createElementNS(NAMESPACE, "path");
    strokes.setAttribute("d", PICTURES[keyOf(type)]);
    picture.append(strokes);
    return picture;
  }

  /** The line below the control types. */
  function lineOf(group) {
    let line = group.querySelector(".cnet-type-line");
    if (!line) {
      line = document.createElement("div");
      line.className = "cnet-type-line";
      group.append(line);
    }
    return line;
  }

  function tell(group, type) {
    const line = lineOf(group);
    const sentence = sentenceOf(type);
    if (line.dataset.type === type && line.lastChild?.textContent === sentence) return;
    line.dataset.type = type;
    const text = Object.assign(document.createElement("span"), { textContent: sentence });
    line.replaceChildren(...(sentence ? [draw(type), text] : []));
  }

  const chosenIn = (group) => group.querySelector("input[type=radio]:checked, input:not([type=radio])")?.value || "";

  /** Once a group is seen: a picture and a title for every type, and the line that follows. */
  function introduce(group) {
    for (const label of findAll("label:has(input[type=radio])", group)) {
      const { value } = label.querySelector("input");
      if (!PICTURES[keyOf(value)]) continue;
      label.title = sentenceOf(value);
      label.querySelector("input").after(draw(value));
      for (const name of ["pointerenter", "focusin"]) label.addEventListener(name, () => tell(group, value));
      for (const name of ["pointerleave", "focusout"]) label.addEventListener(name, () => tell(group, chosenIn(group)));
    }
  }

  const introduced = new WeakSet();
  function updateTypes(group) {
    if (!group || !isShown(group)) return;
    if (!introduced.has(group)) {
      introduced.add(group);
      introduce(group);
    }
    if (!group.querySelector("label:hover, input[type=radio]:focus-visible")) tell(group, chosenIn(group));
  }

  /** The ends of element ids that there are titles for, and the titles. */
  let titles;
  const readTitles = () => Object.entries(window.controlnetWord.startingWith("title_"));

  /** A control's title, and that of what is typed or chosen in, so that it is read out there, too. */
  function setTitle(element, title) {
    if (!element || element.dataset.titled) return;
    element.dataset.titled = "yes";
    element.title = title;
    if (element.tagName === "BUTTON") return;
    for (const input of findAll("input:not([type=radio]), textarea", element)) input.title = title;
  }

  const titled = new WeakSet();
  function updateTitles(root, prefix) {
    if (titled.has(root) || !isShown(root)) return;
    titled.add(root);
    titles ??= readTitles();
    for (const [suffix, title] of titles) setTitle(document.getElementById(`${prefix}_controlnet_${suffix}`), title);
  }

  function update() {
    for (const tab of TABS) {
      const panel = document.getElementById(`${tab}_controlnet`);
      if (!panel || !isShown(panel)) continue;
      updateTitles(panel, `${tab}_controlnet`);
      for (const unit of unitsOf(tab)) {
        updateTitles(unit, nameOf(unit));
        updateTypes(unit.querySelector(".controlnet_control_type_filter_group"));
      }
    }
  }

  follow(update, { calmly: true });
})();
