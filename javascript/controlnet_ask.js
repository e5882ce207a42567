// Questions to the server, each through a hidden button of `lib_controlnet/ui/carrier.py`.
//
// A classic script. `controlnetPanel.ask(button, question)` gives a promise of the answer, null if
// none comes; questions of one button go one after the other. The two other entries are called by
// the button's events.
Object.assign(window.controlnetPanel, (() => {
  "use strict";

  const { find } = window.controlnetPanel.page;
  let serial = 0;
  const turns = new Map();

  function put(button, question) {
    return new Promise((next) => {
      serial += 1;
      button.asked = { ...question, serial };
      button.addEventListener("answered", ({ detail }) => next(detail), { once: true });
      button.click();
    });
  }

  function ask(name, question) {
    const before = turns.get(name) || Promise.resolve();
    const turn = before.then(() => put(find(`#${name}`), question));
    turns.set(name, turn);
    return turn;
  }

  /** The inputs of a question. */
  const giveQuestion = (name) => () => [find(`#${name}`).asked];

  /** An answer, for who asked; null if it is an older one. */
  const takeAnswer = (name) => (answer) => {
    const button = find(`#${name}`);
    const isFresh = Boolean(answer) && answer.serial === button.asked?.serial;
    button.dispatchEvent(new CustomEvent("answered", { detail: isFresh ? answer : null }));
    return [];
  };

  return { ask, giveQuestion, takeAnswer };
})());
