// Previews that follow the sliders, and what is said of one that takes its time.
//
// A classic script without globals. The events of a preview are in javascript/controlnet_events.js,
// which tells here that one was asked for, was answered, or has other settings now. At most one
// request of a unit is under way; what moves meanwhile is asked for once that is answered, with
// the values of then.
(() => {
  "use strict";

  /** Milliseconds between a movement and the request for it; what moves meanwhile is in that one. */
  const PAUSE = 60;
  /** Milliseconds after which a run is said to be one. */
  const LONG = 600;
  const SECOND = 1000;
  const { find } = window.controlnetPanel.page;
  const unitOf = (name) => find(`#${name}_input_image`)?.closest(".cnet-unit");
  const nameOf = (unit) => find('[id$="_controlnet_enable_checkbox"]', unit).id.replace(/_controlnet_enable_checkbox$/, "");
  const moduleOf = (name) => find(`#${name}_controlnet_preprocessor_dropdown input`)?.value;

  /** Unit's name -> what is going on: a request under way, one that is wanted, timers, a message. */
  const states = new Map();
  function stateOf(name) {
    if (!states.has(name)) states.set(name, { isRunning: false, isWanted: false, waiting: 0, ticking: 0 });
    return states.get(name);
  }

  /** Ask for a unit's map under its present settings, soon. */
  function want(name) {
    const state = stateOf(name);
    state.isWanted = true;
    if (state.isRunning || state.waiting) return;
    state.waiting = setTimeout(() => {
      state.waiting = 0;
      if (state.isWanted && !state.isRunning) ask(name);
    }, PAUSE);
  }

  function ask(name) {
    const unit = unitOf(name);
    const button = unit && find(".cnet-run-preprocessor", unit);
    stateOf(name).isWanted = false;
    if (!button || button.disabled || !controlnetPanel.isFollowing(name, moduleOf(name))) return;
    unit.dataset.following = "yes";
    button.click();
  }

  document.addEventListener("controlnetoutdated", (event) => want(event.detail));

  document.addEventListener("controlnetasked", (event) => {
    const name = event.detail;
    const state = stateOf(name);
    state.isRunning = true;
    state.module = moduleOf(name);
    if (!unitOf(name).dataset.following) state.ticking = setTimeout(() => showRun(name, Date.now() - LONG), LONG);
  });

  document.addEventListener("controlnetanswered", (event) => {
    const name = event.detail;
    const state = stateOf(name);
    state.isRunning = false;
    delete unitOf(name).dataset.following;
    hideRun(name);
    if (state.isWanted) want(name);
  });

  /** A slider of the preprocessor that is being moved, by the mouse: its value is taken when it is let go. */
  document.addEventListener(
    "input",
    (event) => {
      const unit = event.target.closest?.(".controlnet_sliders") && event.target.closest(".cnet-unit");
      if (!unit || !event.target.matches("input[type=range]:active")) return;
      const name = nameOf(unit);
      if (controlnetPanel.isFollowing(name, moduleOf(name))) want(name);
    },
    true,
  );

  /** Say in a unit's frame what is at work and for how long, beside a button that stops it. */
  function showRun(name, since) {
    const state = stateOf(name);
    const group = find(".cnet-generated-image-group", unitOf(name));
    if (!state.line) {
      state.line = Object.assign(document.createElement("div"), { className: "cnet-run-line" });
      state.line.setAttribute("role", "timer"); // told when it is asked for, not every second
      state.stop = Object.assign(document.createElement("button"), {
        ...{ className: "cnet-stop-preview", type: "button", textContent: controlnetWord("stop"), title: controlnetWord("stop_why") },
        onclick: () => stop(name),
      });
      group.append(state.line);
      find(".cnet-close-preview", group).before(state.stop);
    }
    const size = controlnetPanel.fieldsOf(name).sizes[state.module];
    const seconds = Math.round((Date.now() - since) / SECOND);
    const values = { preprocessor: state.module, size, seconds };
    const stopping = state.stopped && (Date.now() - state.stopped < SECOND ? "stopping" : "ending");
    state.line.textContent = controlnetWord(stopping || (size ? "at_work_size" : "at_work"), values);
    state.ticking = setTimeout(() => showRun(name, since), SECOND);
  }

  function hideRun(name) {
    const state = stateOf(name);
    clearTimeout(state.ticking);
    state.line?.remove();
    state.stop?.remove();
    delete state.line;
    delete state.stop;
    delete state.stopped;
  }

  /** Have the server stop what a unit's preview runs. */
  function stop(name) {
    const state = stateOf(name);
    const button = find(`#${name.slice(0, name.indexOf("_ControlNet"))}_stop_preview`);
    const notes = unitOf(name).dataset;
    notes.stopped = button.dataset.run = notes.run;
    button.click();
    state.stopped = Date.now();
    state.stop.disabled = true;
    state.line.textContent = controlnetWord("stopping");
  }
})();
