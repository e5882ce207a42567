// Two of a unit's picture, its map and the last result over one another, with a line between them
// that is moved by mouse, touch or key.
//
// A classic script without globals. All of it is in the page: pictures are shown by their addresses.
(() => {
  "use strict";

  const { find, findAll, word } = window.controlnetPanel.page;
  const TITLES = { picture: "compare_picture", map: "compare_map", result: "compare_result" };
  const NAMES = Object.keys(TITLES);

  const tools = () => window.controlnetPanel.unitTools;

  /** Addresses of what can be compared, by name. */
  function sources(unit) {
    const { tab } = tools().placeOf(unit);
    const gallery = find(`#${tab}_gallery`);
    const places = [".preview img[data-testid=detailed-image]", ".preview img", ".grid-wrap img", "img"];
    const result = gallery && places.map((place) => find(place, gallery)).find((image) => image);
    const own = unit.dataset.picture;
    const images = {
      picture: find(own && `${own} img[src]:not([src=""])`),
      map: find(".cnet-generated-image-group img[src]", unit),
      result,
    };
    return Object.fromEntries(NAMES.filter((name) => images[name]?.src).map((name) => [name, images[name].src]));
  }

  function make(tag, properties, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function makeChoice(label, names, chosen, choose) {
    const options = names.map((name) => make("option", { value: name }, word(TITLES[name])));
    const select = make("select", {}, ...options);
    select.value = chosen;
    select.addEventListener("change", choose);
    return { select, label: make("label", {}, `${label} `, select) };
  }

  function close(view, unit) {
    view.remove();
    find(".cnet-tool-compare", unit)?.focus();
  }

  /** Open the comparison, or close it. */
  function toggle(unit) {
    const present = find(".cnet-compare", unit);
    if (present) {
      close(present, unit);
      return;
    }
    const found = sources(unit);
    const names = Object.keys(found);
    if (names.length < 2) {
      tools().sayInUnit(unit, word("compare_few"));
      return;
    }
    tools().sayInUnit(unit, "");
    const frame = make("div", { class: "cnet-compare-frame" }, make("img", { alt: "" }), make("img", { alt: "", class: "cnet-compare-over" }));
    const line = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": word("compare_line") });
    const under = findAll("img", frame)[0];
    const over = findAll("img", frame)[1];
    const show = () => {
      [over.src, under.src] = [found[left.select.value], found[right.select.value]];
      over.alt = word(TITLES[left.select.value]);
      under.alt = word(TITLES[right.select.value]);
    };
    const left = makeChoice(word("compare_left"), names, names[0], show);
    const right = makeChoice(word("compare_right"), names, names.at(-1), show);
    under.addEventListener("load", () => {
      frame.style.aspectRatio = `${under.naturalWidth} / ${under.naturalHeight}`;
    });
    const cut = () => frame.style.setProperty("--cnet-cut", `${line.value}%`);
    line.addEventListener("input", cut);
    const drag = (event) => {
      if (!event.buttons) return;
      const box = frame.getBoundingClientRect();
      line.value = (100 * (event.clientX - box.left)) / box.width;
      cut();
    };
    for (const name of ["pointerdown", "pointermove"]) frame.addEventListener(name, drag);
    const closing = tools().makeButton(word("compare_close"), () => close(view, unit));
    const choices = make("div", { class: "cnet-compare-choices" }, left.label, right.label, closing);
    const view = make("div", { class: "cnet-compare", role: "group", "aria-label": word("compare_view") }, choices, frame, line);
    view.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      close(view, unit);
    });
    show();
    cut();
    find(".cnet-unit-tools", unit).after(view);
    line.focus();
  }

  // The line of tools of a unit has been made.
  document.addEventListener("controlnettools", (event) => {
    const line = event.target;
    const unit = line.closest(".cnet-unit");
    const properties = { classes: ["cnet-tools-button", "cnet-tool-compare"], title: word("compare_note") };
    find(".cnet-tools-said", line).before(tools().makeButton(word("compare"), () => toggle(unit), properties));
  });
})();
