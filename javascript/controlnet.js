// What the other scripts of the panel share: finding elements, and one look at the page after it
// has changed.
//
// A classic script. Hosts load the scripts of an extension by the order of their names, this first.
window.controlnetPanel = { page: (() => {
  "use strict";

  const TABS = ["txt2img", "img2img"];
  /** Milliseconds that gradio 4 takes to write what a unit's values bring about. */
  const WRITING = 100;
  /** Milliseconds between two looks: what one event brings about changes the page several times. */
  const PAUSE = 50;
  /** Milliseconds without a change until those look who are in no hurry, and the longest that they wait. */
  const CALM = 200;
  const LONGEST = 1000;
  /** Properties such as `checked` are no mutations of the page, which the host tells of. */
  const EVENTS = ["input", "change", "click", "load", "controlnetchange"];

  const find = (selector, root) => (selector ? (root || document).querySelector(selector) : null);
  const findAll = (selector, root) => Array.from((root || document).querySelectorAll(selector));
  const isShown = (element) => element.offsetParent !== null;

  /** The units of a tab's panel, in order; they stay as long as the page does. */
  const units = {};
  function unitsOf(tab) {
    if (!units[tab]?.length || !units[tab][0].isConnected) units[tab] = findAll(`#${tab}_controlnet .cnet-unit`);
    return units[tab];
  }
  const word = (name, values) => window.controlnetWord(name, values);

  /** The start of the ids of a unit's elements. */
  const names = new WeakMap();
  function nameOf(unit) {
    if (!names.has(unit)) names.set(unit, find('[id$="_input_image"]', unit).id.replace(/_input_image$/, ""));
    return names.get(unit);
  }

  /** An element of a unit by the end of its id; with `selector` what is in it. Both can be missing. */
  function part(unit, end, selector) {
    const whole = document.getElementById(`${nameOf(unit)}_${end}`);
    return whole && selector ? whole.querySelector(selector) : whole;
  }

  /** A picture by a text or by what gradio 4 has in its place, once it is read. */
  async function load(source) {
    const image = new Image();
    image.src = source.url ?? source;
    await image.decode();
    return image;
  }

  /** Set a property only when it differs: writing the page calls whoever follows it again. */
  function set(target, name, value) {
    if (target && target[name] !== value) target[name] = value;
  }

  /**
   * Bring an element, and what is in it, to be like another that nobody has yet; what is alike stays, focus and all.
   *
   * Neighbours of one kind that are no longer the same things are told apart by `data-hand`.
   */
  function liken(old, made) {
    for (const { name } of Array.from(old.attributes)) if (!made.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of made.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const present = Array.from(old.childNodes);
    const wanted = Array.from(made.childNodes);
    wanted.forEach((child, i) => {
      const there = present[i];
      if (!there) old.append(child);
      else if (there.nodeName !== child.nodeName || there.dataset?.hand !== child.dataset?.hand) there.replaceWith(child);
      else if (child.nodeType !== Node.TEXT_NODE) liken(there, child);
      else if (there.data !== child.data) there.data = child.data;
    });
    present.slice(wanted.length).forEach((child) => child.remove());
    if (made.tagName === "SELECT") set(old, "value", made.value);
  }

  const followers = { soon: [], calmly: [] };
  const waiting = { soon: false, calmly: false };
  let lastLook = -Infinity;
  let lastChange = 0;

  /** A fault of one keeps none of the others from looking. */
  function look(when) {
    waiting[when] = false;
    if (when === "soon") lastLook = performance.now();
    for (const update of followers[when]) {
      try {
        update();
      } catch (error) {
        reportError(error);
      }
    }
  }

  /** Look once the page has been still for a while. */
  function lookCalmly(since) {
    const left = Math.min(lastChange + CALM, since + LONGEST) - performance.now();
    if (left > 0) setTimeout(() => lookCalmly(since), left);
    else look("calmly");
  }

  /** The page has changed, or is about to; a frame lets gradio finish writing. */
  function noteChange() {
    lastChange = performance.now();
    if (!waiting.soon) {
      waiting.soon = true;
      const lookSoon = () => requestAnimationFrame(() => look("soon"));
      const left = lastLook + PAUSE - lastChange;
      if (left > 0) setTimeout(lookSoon, left);
      else lookSoon();
    }
    if (!waiting.calmly) {
      waiting.calmly = true;
      lookCalmly(lastChange);
    }
  }

  /**
   * Have a function look at the page, which must write nothing that is there already.
   *
   * It is called once the page is up and after each change: with the next frame, though not with every one, or
   * calmly, for what nobody waits for, once the page is still.
   */
  function follow(update, { calmly = false } = {}) {
    followers[calmly ? "calmly" : "soon"].push(update);
  }

  /** Call a function once the page is up. */
  const whenReady = (act) => {
    if (typeof onUiLoaded === "function") onUiLoaded(act);
    else document.addEventListener("DOMContentLoaded", act);
  };

  whenReady(() => {
    for (const name of EVENTS) document.addEventListener(name, noteChange, true);
    if (parseInt(window.gradio_config?.version) >= 4) {
      document.addEventListener("controlnetchange", () => setTimeout(noteChange, WRITING));
    }
    noteChange();
  });
  if (typeof onUiUpdate === "function") onUiUpdate(noteChange);

  return { TABS, find, findAll, follow, isShown, liken, load, nameOf, noteChange, part, set, unitsOf, whenReady, word };
})() };
