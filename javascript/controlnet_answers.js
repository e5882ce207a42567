// Questions to the server about the choices of a unit, and what becomes of the answers.
//
// `lib_controlnet/ui/answers.py` makes the calls. A unit's questions go one after the other, through one
// hidden button: gradio sends no event while it waits for the answer to its last. An answer that comes
// late, on a busy machine or over a slow line, must not undo what was chosen since: each of its updates
// is written only if the choices that it follows from are still made, and the value of a field only if
// that is what it was before. `controlnetPanel.offerModels(unit)` asks for a unit's list of models.
Object.assign(window.controlnetPanel, (() => {
  "use strict";

  /** Values that are asked with: control type, preprocessor, model, "Show all", pixel perfect. */
  const CHOICES = 5;
  const MODEL = 2;
  /** How many of them decide on the lists and lines. */
  const OFFERED = 4;
  const SOON = 20; // ms until gradio has written an answer
  const PATIENCE = 60000; // ms for an answer, until the next question is asked without it

  const kept = { __type__: "update" };
  const never = () => new Promise(() => {});
  const { find } = window.controlnetPanel.page;
  const unitOf = (name) => find(`#${name}_input_image`).closest(".cnet-unit");

  /** Unit -> { wanted, question }: the questions still to be asked, each with what was shown then, and the one that was. */
  const units = new Map();
  function stateOf(unit) {
    if (!units.has(unit)) units.set(unit, { wanted: new Map(), question: null });
    return units.get(unit);
  }

  const isAwaited = ({ question }) => question && Date.now() - question.time < PATIENCE;

  /** Ask what is wanted, unless an answer is awaited; `takeChoices` goes on then. */
  function goOn(unit) {
    const state = stateOf(unit);
    if (state.wanted.size && !isAwaited(state)) find(".cnet-ask", unit)?.click();
  }

  /** A later question takes the place of an earlier one of its kind. */
  function wantIn(unit, kind, shown) {
    const { wanted } = stateOf(unit);
    wanted.delete(kind);
    wanted.set(kind, shown);
    goOn(unit);
  }

  const offerModels = (unit) => wantIn(unit, "offer", null);

  /** (choices, outputs) -> nothing; the server is asked what follows. With a widget only if that was used by hand. */
  const want = (name, kind, widget) => (...values) => {
    const shown = { choices: values.slice(0, CHOICES), outputs: values.slice(CHOICES) };
    if (!widget || window.controlnetPanel.isByHand(widget)) wantIn(unitOf(name), kind, shown);
    return never();
  };

  let serial = 0;
  /**
   * (told, choices) -> the question and the choices.
   *
   * What a control type brings was chosen with it; all else follows from what is chosen now. A model that was
   * downloaded for a unit that still has none is named by its file.
   */
  const askQuestion = (name) => (_told, ...values) => {
    const unit = unitOf(name);
    const state = stateOf(unit);
    const [next] = state.wanted;
    if (!next || isAwaited(state)) return never(); // pressed twice before it was asked: one after the other
    const [kind, then] = next;
    state.wanted.delete(kind);
    const choices = values.slice(0, CHOICES);
    serial += 1;
    const shown = kind === "type" ? then.choices : choices.slice();
    state.question = { serial, shown, before: then?.outputs, time: Date.now() };
    const { brought } = unit.dataset;
    if (brought && kind === "offer") {
      delete unit.dataset.brought;
      if (!choices[MODEL] || choices[MODEL] === "None") choices[MODEL] = brought;
    }
    return [{ serial, kind }, ...choices];
  };

  /** One update of an answer as it is written; `holds` says whether choices are as they were, `isChanged` whether a field is not. */
  function write({ update, follows, shown_by: shownBy }, holds, isChanged) {
    if (!holds(follows)) return kept;
    const { visible, value, ...rest } = update;
    if (visible !== undefined && holds(shownBy)) rest.visible = visible;
    if (value !== undefined && (visible === false || !isChanged)) rest.value = value; // what is put away has no effect
    return rest;
  }

  /** (told, choices, outputs) -> what is written. Lists and lines for other choices are asked for again. */
  const takeChoices = (name) => (told, ...values) => {
    const unit = unitOf(name);
    const state = stateOf(unit);
    const { question } = state;
    state.question = null;
    setTimeout(() => goOn(unit), SOON);
    if (!question || told?.serial !== question.serial) return never();
    const { shown, before } = question;
    const [now, present] = [values.slice(0, CHOICES), values.slice(CHOICES)];
    const isSame = now.map((value, i) => value === shown[i]);
    const holds = (choices) => isSame.every((same, i) => same || !(choices & (1 << i)));
    if (!isSame.slice(0, OFFERED).every(Boolean)) state.wanted.set("offer", null);
    return told.updates.map((one, i) => {
      if (!one) return kept;
      const { is_field: isField, choice, place } = one;
      const known = choice === null ? before : shown;
      return write(one, holds, isField && known && present[i] !== known[choice ?? place]);
    });
  };

  return { askQuestion, offerModels, takeChoices, want };
})());
