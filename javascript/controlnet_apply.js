// Reads and writes whole units: copying, moving, clearing, pictures that are sent here, presets.
//
// `controlnetPanel.edit(tab, change)` calls `change` with all units of a tab and writes what it
// returns. A unit is { pictures: { image, drawing, mask, region }, values: { name: value }, maps };
// the pictures are data URLs (or what gradio 4 has instead) or null. An edit is { unit: number,
// pictures, values, shared, maps }: of pictures what is missing stays; without `values` nothing else
// changes, and of `values` what is missing goes back to what a unit starts with. With `shared`
// the values that all units have in common are written, too.
//
// `maps` are what was made for a unit in the editors: those of a unit that was read go along, null
// leaves none, and with `isFormer` an editor begins anew (`javascript/editors/places.mjs`).
//
// Pictures are written here, all else by the server (`lib_controlnet/ui/apply.py`). gradio has no
// way to be given a drawing, so that is laid on the canvas when the picture has settled there.
(() => {
  "use strict";

  const PERIOD = 100; // ms between two looks at a canvas
  const TRIES = 60;
  /** Looks in which a drawing waits for the picture that it was drawn on; that may still be on its way. */
  const GRACE = 20;
  /** Looks at which a canvas must be as it should, one after the other; gradio clears it late. */
  const CALM = 4;
  /** Cells of a side, and levels, by which drawings are told apart. */
  const [GRID, ALIKE] = [32, 64];
  const PATIENCE = 30000; // ms for the server's answer

  const { TABS, find, isShown, load, word } = window.controlnetPanel.page;
  const wait = (time) => new Promise((done) => setTimeout(done, time));
  const kept = { __type__: "update" };
  const never = () => new Promise(() => {});

  /** Pixels of a canvas or picture, drawn at a size. */
  function pixels(source, width, height) {
    const pen = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
    pen.drawImage(source, 0, 0, width, height);
    return pen.getImageData(0, 0, width, height).data;
  }

  /** Whether any pixel of a canvas or picture is seen. */
  function hasPixels(source) {
    const [width, height] = [source.naturalWidth ?? source.width, source.naturalHeight ?? source.height];
    if (!width || !height) return false;
    return new Uint32Array(pixels(source, width, height).buffer).some((pixel) => pixel);
  }

  /** Whether a layer shows a drawing or, without one, nothing. */
  function shows(layer, drawing) {
    if (!drawing) return !hasPixels(layer);
    const [mine, wanted] = [layer, drawing].map((source) => pixels(source, GRID, GRID));
    return mine.every((value, i) => i % 4 !== 3 || Math.abs(value - wanted[i]) < ALIKE);
  }

  /** The element ids of a panel's units. */
  const namesOf = (panel, count) =>
    count === 1 ? [`${panel}_ControlNet`] : Array.from({ length: count }, (_, i) => `${panel}_ControlNet-${i}`);
  const unitOf = (name) => find(`#${name}_input_image`)?.closest(".cnet-unit");

  /** Raw values of a unit, as the page collects them -> a unit. */
  function readUnit(raw, type, name, number) {
    const { image, drawing, effective_region_mask, region_canvas, region_drawing, ...values } = raw || {};
    const isLayered = image && typeof image === "object" && "image" in image;
    const picture = (isLayered ? image.image : image) || null;
    return {
      pictures: {
        image: picture,
        drawing: (isLayered ? image.mask : drawing) || null,
        mask: effective_region_mask || null,
        region: region_canvas?.mask || region_drawing || null,
        isCanvas: Boolean(picture) && unitOf(name)?.dataset.canvas === picture,
      },
      values: { ...values, control_type: type },
      maps: { unit: number },
    };
  }

  // Canvases.

  const layerOf = (widget) => window.controlnetPanel.findLayer(widget);

  /** Call `then` as soon as an element is seen. */
  function whenSeen(element, then) {
    const observer = new ResizeObserver(() => {
      if (!isShown(element)) return;
      observer.disconnect();
      then();
    });
    observer.observe(element);
  }

  /** The text beside a canvas of the host's that its drawing is in. */
  function textOfDrawing(widget) {
    const group = find(widget).closest(".cnet-input-image-group, .cnet-region-canvas-group");
    return find(".logical_image_foreground textarea", group);
  }

  /** A drawing, or nothing, as a picture of a size. */
  function drawn(drawing, width, height) {
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    if (drawing) canvas.getContext("2d").drawImage(drawing, 0, 0, width, height);
    return canvas;
  }

  /** Have a canvas of the host's show a drawing, or none. */
  function writeDrawing(widget, drawing, width, height) {
    const text = textOfDrawing(widget);
    text.value = drawn(drawing, width, height).toDataURL("image/png");
    text.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** Take the strokes off a canvas at once; gradio keeps them where the next picture has the same size. */
  function clearStrokes(widget) {
    const layer = layerOf(widget);
    if (!layer || !hasPixels(layer)) return;
    if (layer.matches("[key]")) find(`${widget} button[aria-label="Clear"]`)?.click();
    else writeDrawing(widget, null, layer.width, layer.height);
    layer.getContext("2d").clearRect(0, 0, layer.width, layer.height);
  }

  /** Whether a canvas shows a picture of another size than a drawing's. */
  function isOther(widget, drawing) {
    const picture = find(`${widget} img`);
    return picture?.naturalWidth !== drawing.naturalWidth || picture.naturalHeight !== drawing.naturalHeight;
  }

  /** One look at a canvas, which is brought to show a drawing. Returns whether it did already. */
  function look(widget, drawing) {
    const layer = layerOf(widget);
    const picture = find(`${widget} img`);
    if (!layer || !picture?.naturalWidth) return false;
    const { naturalWidth: width, naturalHeight: height } = picture;
    const fits = layer.width === width && layer.height === height;
    if (!layer.matches("[key]")) {
      if (!fits) return false;
      if (shows(layer, drawing)) return true;
      writeDrawing(widget, drawing, width, height);
      return false;
    }
    if (!fits && isShown(layer)) return false; // javascript/controlnet_canvas.js sees to it
    if (fits && shows(layer, drawing)) return true;
    if (!fits) Object.assign(layer, { width, height });
    const pen = layer.getContext("2d");
    pen.clearRect(0, 0, width, height);
    if (drawing) pen.drawImage(drawing, 0, 0, width, height);
    picture.dispatchEvent(new Event("load")); // gradio takes the layer into the value then
    return false;
  }

  /**
   * Lay a drawing on a canvas once its picture has settled. Returns whether it is there, or no longer asked for.
   *
   * gradio lays a canvas out anew when it is first seen, and whenever it is seen again if its
   * picture came while it was not; so that is done once more then.
   */
  const laid = new Map();
  async function lay(widget, url) {
    const turn = {};
    laid.set(widget, turn);
    const loaded = url ? await load(url).catch(() => null) : null;
    const drawing = loaded && hasPixels(loaded) ? loaded : null;
    let calm = 0;
    for (let tries = TRIES; tries && calm < CALM; tries -= 1) {
      await wait(PERIOD);
      if (laid.get(widget) !== turn) return true;
      if (drawing && tries > TRIES - GRACE && isOther(widget, drawing)) continue;
      calm = look(widget, drawing) ? calm + 1 : 0;
    }
    const element = find(widget);
    const isThere = url && !loaded ? false : calm > 0 || !drawing;
    if (!find(`${widget} canvas[key=mask]`) || isShown(element)) return isThere;
    const source = find(`${widget} img`)?.src;
    whenSeen(element, () => {
      const picture = find(`${widget} img`);
      if (laid.get(widget) !== turn || picture?.src !== source) return;
      picture.dispatchEvent(new Event("load"));
      lay(widget, url);
    });
    return isThere;
  }

  /** Write what cannot be an output of an event: drawings, and the tab above the picture. Returns whether all is there. */
  async function settle(name, { pictures, values }) {
    const mode = ["simple", "batch", "merge"].indexOf(values?.input_mode);
    if (mode >= 0) unitOf(name).querySelectorAll(".cnet-input-tabs > .tab-nav > button")[mode]?.click();
    const done = [];
    if (pictures?.image) done.push(await lay(`#${name}_input_image`, pictures.drawing));
    if (pictures?.region) {
      find(".cnet-region-backdrop", unitOf(name))?.click();
      done.push(await lay(`#${name}_region_canvas`, pictures.region));
    }
    return done.every(Boolean);
  }

  // Edits, one after the other in each panel.

  const turns = {};
  const present = {};

  function promise() {
    const made = {};
    made.done = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
    return made;
  }

  async function carryOut(panel, change) {
    const turn = { change, asked: promise(), answered: promise() };
    present[panel] = turn;
    find(`#${panel}_apply`).click();
    const edits = await turn.asked.done;
    if (edits.some((edit) => edit.values)) {
      const late = wait(PATIENCE).then(() => Promise.reject(new Error(word("edit_unanswered"))));
      await Promise.race([turn.answered.done, late]);
    }
    await wait(PERIOD);
    for (const edit of edits) {
      if (edit.values) window.controlnetPanel.offerModels(unitOf(turn.names[edit.unit]));
    }
    const [moved, ...settled] = await Promise.all([
      carryMaps(panel, turn),
      ...edits.map((edit) => settle(turn.names[edit.unit], edit)),
    ]);
    return settled.every(Boolean) ? moved : [...moved, word("edit_no_drawing")];
  }

  /** Have maps of the editors go along. What a unit had keeps them, for who takes the edit back. */
  async function carryMaps(panel, { units, edits }) {
    const goesElsewhere = ({ unit, maps }) => maps === null || (maps && (maps.unit !== unit || maps.kept || maps.isFormer));
    const asked = edits.filter(goesElsewhere).map(({ unit, maps }) => ({ unit, maps }));
    if (!asked.length) return [];
    try {
      const before = await window.controlnetPanel.moveMaps(panel.replace(/_controlnet$/, ""), asked);
      for (const [unit, kept] of before) units[unit].maps.kept = kept;
      return [];
    } catch (error) {
      return [word("edit_no_maps", { error: error?.message || error })];
    }
  }

  /**
   * Change units of a tab.
   *
   * `change` gets all of them, and returns a list of edits; an empty one if it only reads. Returns
   * a promise of sentences on what could not be written, kept when all else is.
   */
  function edit(tab, change) {
    const panel = `${tab}_controlnet`;
    const begun = (turns[panel] || Promise.resolve()).catch(() => {}).then(() => carryOut(panel, change));
    turns[panel] = begun;
    const end = () => {
      if (turns[panel] === begun) delete turns[panel];
    };
    begun.then(end, end);
    return begun;
  }

  /** Values of all units, then their control types -> the pictures that an edit writes. */
  const readUnits =
    (panel, count) =>
    (...inputs) => {
      const turn = present[panel];
      turn.names = namesOf(panel, count);
      try {
        const units = turn.names.map((name, i) => readUnit(inputs[i], inputs[count + i], name, i));
        turn.units = units;
        turn.edits = turn.change(units);
      } catch (error) {
        turn.edits = [];
        turn.asked.reject(error);
      }
      turn.asked.resolve(turn.edits);
      const { pictureFor } = window.controlnetPanel;
      const written = Array(2 * count).fill(kept);
      for (const { unit, pictures } of turn.edits) {
        const name = turn.names[unit];
        const place = { image: `#${name}_input_image`, mask: `#${name}_mask_image` };
        if (!pictures) continue;
        if ("image" in pictures) {
          laid.delete(place.image); // what was being laid there belongs to what goes
          clearStrokes(place.image);
          const notes = unitOf(name).dataset;
          const value = pictureFor(place.image, pictures.image);
          if (pictures.isCanvas) notes.canvas = value;
          else delete notes.canvas;
          written[2 * unit] = value && { __type__: "update", value };
        }
        if ("region" in pictures) {
          laid.delete(`#${name}_region_canvas`);
          clearStrokes(`#${name}_region_canvas`);
        }
        if ("mask" in pictures) {
          const value = pictureFor(place.mask, pictures.mask);
          written[2 * unit + 1] = value && { __type__: "update", value };
        }
      }
      return written.every((one) => one === kept) ? never() : written;
    };

  /** Nothing -> what the server is to write. */
  const askEdit = (panel) => async () => {
    const edits = await present[panel].asked.done.catch(() => []);
    const asked = edits.filter(({ values }) => values).map(({ pictures: _, maps: __, ...rest }) => rest);
    return asked.length ? [asked] : never();
  };

  /** The server has answered. */
  const finishEdit = (panel) => () => {
    present[panel].answered.resolve();
    return [];
  };

  /** A generation waits for an edit that is under way: what is on the screen is what it is made with. */
  const waiting = new Set();
  document.addEventListener(
    "click",
    (event) => {
      const tab = TABS.find((name) => event.target.closest?.(`#${name}_generate`));
      const turn = tab && turns[`${tab}_controlnet`];
      if (!turn) return;
      event.stopImmediatePropagation();
      event.preventDefault();
      if (waiting.has(tab)) return;
      waiting.add(tab);
      const go = () => {
        waiting.delete(tab);
        find(`#${tab}_generate`).click();
      };
      turn.then(go, go);
    },
    true,
  );

  Object.assign(window.controlnetPanel, { edit, readUnits, askEdit, finishEdit });
})();
