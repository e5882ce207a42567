// Texts of the panel in the language that the host's setting "Localization" chooses.
//
// `controlnetWord` gives a text of the table in `lib_controlnet/words/` by its name. What Python
// has written is translated where it stands: the host does so only with whole texts that are new
// in the page, neither with those that change later nor with those that hold values.
window.controlnetWord = (() => {
  "use strict";

  const PANELS = "#txt2img_controlnet, #img2img_controlnet";
  const ATTRIBUTES = ["title", "placeholder", "aria-label"];
  /** Names of models and what is typed are nobody's words. */
  const FOREIGN = "script, style, textarea, ul.options li[aria-label]";
  const PLACE = /\{(\w+)\}/g;
  const MOST_KNOWN = 2000;
  /** Letters beside its places without which a text is told from no other. */
  const TELLING = 12;

  const translations = () => (typeof window.localization === "object" && window.localization) || {};
  const translate = (text) => translations()[text] || text;

  /** A text with its places filled. */
  const fill = (text, values) => text.replace(PLACE, (place, name) => values[name] ?? place);

  let table;
  function readTable() {
    table ??= JSON.parse(document.querySelector('[id$="_controlnet_fields"]').textContent).words;
    return table;
  }

  /** A text of the table by its name, translated. */
  function word(name, values = {}) {
    readTable();
    if (!(name in table)) throw new Error(`controlnetWord(${name})`);
    return fill(translate(table[name]), values);
  }

  /** Take up more texts: those of a part that is loaded later. */
  const add = (texts) => Object.assign(readTable(), texts);

  /** The texts with places that have a translation: what stands between the places, their names. */
  let patterns;
  function readPatterns() {
    return Object.keys(translations())
      .filter((text) => text.search(PLACE) >= 0 && text.replace(PLACE, "").length >= TELLING)
      .map((text) => ({ text, names: [...text.matchAll(PLACE)].map((match) => match[1]), parts: text.split(/\{\w+\}/) }))
      .sort((a, b) => b.parts.join("").length - a.parts.join("").length); // the most telling first
  }

  /** What the places of a text were filled with; null if it is another one. */
  function match(text, { names, parts }) {
    const last = parts.at(-1);
    if (!text.startsWith(parts[0]) || !text.endsWith(last)) return null;
    const values = {};
    let at = parts[0].length;
    for (const [index, name] of names.entries()) {
      const isLast = index === names.length - 1;
      const end = isLast ? text.length - last.length : text.indexOf(parts[index + 1], at);
      if (end < at) return null;
      values[name] = read(text.slice(at, end));
      at = end + parts[index + 1].length;
    }
    return values;
  }

  const known = new Map();
  /** A text that Python has written, translated as far as there is a translation. */
  function read(text) {
    const whole = translations()[text];
    if (whole) return whole;
    if (known.has(text)) return known.get(text);
    patterns ??= readPatterns();
    let found = text;
    for (const pattern of patterns) {
      const values = match(text, pattern);
      if (values) {
        found = fill(translate(pattern.text), values);
        break;
      }
    }
    if (known.size > MOST_KNOWN) known.clear();
    known.set(text, found);
    return found;
  }

  function readNode(node) {
    if (node.parentElement?.closest(FOREIGN)) return;
    const text = node.data.trim();
    const found = text && read(text);
    if (found && found !== text) node.data = node.data.replace(text, () => found);
  }

  function readAttributes(element) {
    if (element.matches(FOREIGN) && !element.placeholder) return;
    for (const name of ATTRIBUTES) {
      const text = element.getAttribute(name);
      const found = text && read(text);
      if (found && found !== text) element.setAttribute(name, found);
    }
  }

  function readAll(root) {
    if (root.nodeType === Node.TEXT_NODE) return readNode(root);
    if (root.nodeType !== Node.ELEMENT_NODE) return undefined;
    const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    for (let node = walk.nextNode(); node; node = walk.nextNode()) readNode(node);
    for (const element of [root, ...root.querySelectorAll("[title], [placeholder], [aria-label]")]) readAttributes(element);
    return undefined;
  }

  function follow(panel) {
    readAll(panel);
    const observer = new MutationObserver((changes) => {
      for (const change of changes) {
        if (change.type === "childList") change.addedNodes.forEach(readAll);
        else if (change.type === "characterData") readNode(change.target);
        else readAttributes(change.target);
      }
    });
    observer.observe(panel, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ATTRIBUTES });
  }

  function start() {
    if (Object.keys(translations()).length) document.querySelectorAll(PANELS).forEach(follow);
  }

  if (typeof onUiLoaded === "function") onUiLoaded(start);
  else document.addEventListener("DOMContentLoaded", start);
  /** The texts whose names start alike, translated, by the rests of their names. */
  function startingWith(start) {
    const names = Object.keys(readTable()).filter((name) => name.startsWith(start));
    return Object.fromEntries(names.map((name) => [name.slice(start.length), word(name)]));
  }

  return Object.assign(word, { add, read, startingWith });
})();
