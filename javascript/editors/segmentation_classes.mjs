// The list of a palette's classes: searched, those most used first, the recently used above it.
//
// One stop of the Tab key with arrow keys inside; the names are those of the data sets and stay English.

const MOST_RECENT = 8;

/** A chip of a colour, which says nothing by itself. */
export function makeChip(make, colour) {
  const chip = make("span", { className: "cnet-seg-chip", "aria-hidden": "true" });
  chip.style.background = colour;
  return chip;
}

/** Whether each word that is looked for begins a word of a name; without any, all do. */
function fits(title, text) {
  const parts = title.toLowerCase().split(/[\s-]/);
  return text.toLowerCase().split(/\s+/).every((word) => parts.some((part) => part.startsWith(word)));
}

/**
 * Build the list in the frame's side. `choose(label)` is called when a person chooses; the list shows what `show` gets.
 *
 * Returns { element, focus(), show({ palette, label, recent }) }.
 */
export function buildClasses(frame, choose) {
  const { make, word } = frame;
  const search = make("input", { type: "search", placeholder: word("seg_search"), "aria-label": word("seg_search"), title: word("seg_search_note"), maxlength: 60, autocomplete: "off" });
  const recent = make("div", { className: "cnet-seg-recent", role: "group", "aria-label": word("seg_recent") });
  const list = make("div", { className: "cnet-seg-list", role: "listbox", tabindex: 0, "aria-label": word("seg_classes") });
  const none = make("p", { className: "cnet-seg-none", role: "status" });
  const element = make("div", { className: "cnet-seg-classes" }, search, recent, list, none);
  let shown = {};
  let options = [];
  let chosen = null;

  const idOf = ({ number }) => `cnet_seg_class_${number}`;

  function makeOption(entry) {
    const option = make("div", { id: idOf(entry), role: "option", className: "cnet-seg-class", "aria-selected": "false" }, makeChip(make, entry.colour), entry.title);
    const { title } = shown.palette.labels.get(entry.label);
    if (title !== entry.title) option.title = word("seg_shared", { classes: title });
    option.addEventListener("click", () => take(entry));
    return option;
  }

  function makeGroup(text, note, entries) {
    if (!entries.length) return [];
    const head = make("div", { className: "cnet-seg-head", role: "presentation" }, text);
    if (note) head.title = note;
    return [make("div", { role: "group", "aria-label": text }, head, ...entries.map(makeOption))];
  }

  function fill() {
    const { palette } = shown;
    const text = search.value.trim();
    const found = palette.classes.filter(({ title }) => fits(title, text));
    const isFirst = ({ title }) => palette.first.has(title);
    const [first, others] = [found.filter(isFirst), found.filter((entry) => !isFirst(entry))];
    const order = [...palette.first];
    first.sort((one, other) => order.indexOf(one.title) - order.indexOf(other.title));
    options = [...first, ...others];
    const isAll = palette.first.size === palette.classes.length;
    const groups = isAll ? makeGroup(word("seg_classes"), "", first) : makeGroup(word("seg_first"), word(`seg_first_${palette.name}`), first);
    list.replaceChildren(...groups, ...makeGroup(word("seg_others"), "", others));
    none.textContent = found.length ? "" : word("seg_none");
    mark();
  }

  /** Show which class is the chosen one: of those that share its colour the one that was taken. */
  function mark() {
    if (chosen?.label !== shown.label) chosen = shown.palette.classes[shown.label];
    for (const option of list.querySelectorAll("[role=option]")) option.setAttribute("aria-selected", String(option.id === idOf(chosen)));
    if (options.includes(chosen)) list.setAttribute("aria-activedescendant", idOf(chosen));
    else list.removeAttribute("aria-activedescendant");
  }

  function fillRecent() {
    const entries = shown.recent.slice(0, MOST_RECENT).map((label) => [label, shown.palette.labels.get(label)]);
    recent.replaceChildren(
      ...entries.map(([label, { colour, title }]) => {
        const button = frame.button(title, () => choose(label), { pressed: label === shown.label });
        button.prepend(makeChip(make, colour));
        return button;
      }),
    );
    recent.hidden = !entries.length;
  }

  function take(entry) {
    chosen = entry;
    choose(entry.label);
    const { offsetTop: top = 0, offsetHeight: height = 0 } = list.querySelector("[aria-selected=true]") || {};
    if (top < list.scrollTop + 2 * height) list.scrollTop = top - 2 * height; // below the heading
    else if (top + height > list.scrollTop + list.clientHeight) list.scrollTop = top + height - list.clientHeight;
  }

  const at = () => options.indexOf(chosen);
  const steps = { ArrowDown: () => at() + 1, ArrowUp: () => Math.max(at(), 1) - 1, Home: () => 0, End: () => options.length - 1 };
  list.addEventListener("keydown", (event) => {
    if (event.key === "Enter") frame.place.focus();
    else if (event.key in steps && options.length) take(options[Math.min(steps[event.key](), options.length - 1)]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  search.addEventListener("input", fill);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && options.length) {
      const [found] = options;
      search.value = "";
      fill();
      take(found);
      frame.place.focus();
    } else if (event.key === "ArrowDown" && options.length) list.focus();
    else if (event.key === "Escape" && search.value) {
      search.value = "";
      fill();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  return {
    element,
    focus() {
      search.focus();
      search.select();
    },
    show(now) {
      const isOther = now.palette !== shown.palette;
      shown = now;
      if (isOther) {
        search.value = "";
        chosen = null;
        fill();
      } else mark();
      fillRecent();
    },
  };
}
