// What the controls of the editors are made of.

/** An element; properties that are true or false are there or not. */
export function make(tag, properties = {}, ...children) {
  const { className, dataset, ...rest } = properties;
  const element = document.createElement(tag);
  if (className) element.className = className;
  Object.assign(element.dataset, dataset);
  for (const [name, value] of Object.entries(rest)) {
    if (typeof value === "boolean") element.toggleAttribute(name, value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A button; `pressed`, true or false, makes it one of two states. */
export function button(text, act, { title, pressed, className = "" } = {}) {
  const made = make("button", { type: "button", className: `cnet-editor-button ${className}` }, text);
  if (title) Object.assign(made, { title, ariaLabel: text.length > 2 ? text : title });
  if (pressed !== undefined) made.setAttribute("aria-pressed", String(pressed));
  made.addEventListener("click", () => act(made));
  return made;
}

/** A range with its label and number; `set` shows another value. */
export function slider(label, { min, max, step = 1, value }, act) {
  const number = make("output", {}, String(value));
  const input = make("input", { type: "range", min, max, step, value });
  input.addEventListener("input", () => {
    number.textContent = input.value;
    act(Number(input.value));
  });
  const made = make("label", { className: "cnet-editor-slider" }, make("span", {}, label), input, number);
  made.set = (now) => {
    input.value = now;
    number.textContent = input.value;
  };
  return made;
}

/** A list of [value, text] to choose from. */
export function choice(label, entries, value, act) {
  const input = make("select", {}, ...entries.map(([name, text]) => make("option", { value: name }, text)));
  input.value = value;
  input.addEventListener("change", () => act(input.value));
  const made = make("label", { className: "cnet-editor-choice" }, make("span", {}, label), input);
  made.input = input;
  return made;
}
