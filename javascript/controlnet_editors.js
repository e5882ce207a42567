// Opens the editors of maps. What they are made of lies in `javascript/editors/`, and nothing of it
// is loaded before one is opened.
//
// A classic script; `controlnetPanel.openEditor(unit, tool)`, `loadEditor` and `moveMaps` are for other scripts of
// the panel.
(() => {
  "use strict";

  const { TABS, find, follow, isShown, part, word } = window.controlnetPanel.page;
  const TOOLS = ["pose", "segmentation", "scribble", "regions"];
  const DATABASE = "controlnet-editors"; // of store.mjs
  const place = document.currentScript.src;

  const tools = () => window.controlnetPanel.unitTools;
  /** A module of `javascript/editors/`. */
  const loadEditor = (file) => import(new URL(`editors/${file}?${stampOf()}`, place));
  const stampOf = () => JSON.parse(find('[id$="_controlnet_fields"]').textContent).editors;

  /** The tool that fits what a unit is steered by. */
  function guess(unit) {
    const named = ["preprocessor", "model"].map((list) => part(unit, `controlnet_${list}_dropdown`, "input")?.value || "");
    const text = named.join(" ").toLowerCase();
    if (/pose/.test(text)) return "pose";
    return /seg/.test(text) ? "segmentation" : "scribble";
  }

  /** Open an editor for a unit; without a tool the one that fits it. */
  async function openEditor(unit, tool = guess(unit)) {
    try {
      const frame = await loadEditor("frame.mjs");
      await frame.open({ ...tools().placeOf(unit), unit, tool });
    } catch (error) {
      tools().sayInUnit(unit, word("editor_failed", { error: error.message }), true);
    }
  }

  /** Whether anything was ever kept by an editor; no place is made for it. */
  const isAnythingKept = () =>
    new Promise((answer) => {
      const request = indexedDB.open(DATABASE);
      request.onupgradeneeded = () => request.transaction.abort();
      request.onerror = (event) => {
        event.preventDefault();
        answer(false);
      };
      request.onsuccess = () => {
        request.result.close();
        answer(true);
      };
    });

  /** Have maps go where units go, see places.mjs; what the units had before. */
  async function moveMaps(tab, moves) {
    if (!(await isAnythingKept())) return new Map();
    return (await loadEditor("places.mjs")).move(tab, moves);
  }

  function addMenu(event) {
    const unit = event.target.closest(".cnet-unit");
    if (find(".cnet-editors", unit)) return;
    const entries = () => TOOLS.map((tool) => [word(`editor_${tool}`), () => openEditor(unit, tool)]);
    const menu = tools().makeMenu(word("editors"), entries);
    menu.classList.add("cnet-editors");
    find("summary", menu).title = word("editors_note");
    find(".cnet-tool-clear", event.target).before(menu);
  }

  /** Regions are all units': they are opened below them, too. */
  function addButtons() {
    for (const tab of TABS) {
      const row = find(`#${tab}_controlnet .cnet-presets-of-all`);
      if (!row || find(".cnet-regions-open", row)) continue;
      const open = () => {
        const units = tools().unitsOf(tab);
        openEditor(units.find(isShown) || units[0], "regions");
      };
      row.append(tools().makeButton(word("editor_regions"), open, { classes: ["cnet-regions-open"] }));
    }
  }

  document.addEventListener("controlnettools", addMenu);
  follow(addButtons, { calmly: true });
  Object.assign(window.controlnetPanel, { loadEditor, moveMaps, openEditor });
})();
