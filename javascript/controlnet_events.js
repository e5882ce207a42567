// What the panel's events do in the page, without the server.
//
// gradio calls a function with the values of an event's inputs followed by those of its outputs,
// and writes what it returns to the outputs; an object with `__type__: "update"` changes
// properties. An answer that never comes is none at all: nothing is written.
//
// `lib_controlnet/ui/browser.py` makes the calls. Each entry of the one global below takes what an
// event is about (`name` is a unit's element id, `tab` "txt2img" or "img2img") and gives the
// function that gradio calls. The call is evaluated when the event fires, never before the page's
// scripts are there.
Object.assign(window.controlnetPanel, (() => {
  "use strict";

  /** Longest side of the picture that a region is drawn on, pixels; it travels with Generate. */
  const BACKDROP_SIDE = 768;

  /** What is drawn on in a canvas of the host's own. */
  const HOST_LAYER = "canvas[id^=drawingCanvas_]";
  /** The kinds of pictures that the server reads, as they end the kind of a file. */
  const KINDS = "png|jpeg|webp|bmp|gif";
  /** What tells one picture from another, whoever keeps it. */
  const OF_PICTURES = ["image", "mask", "path", "url"];

  /** A value that no browser loads: the scheme is the host's. */
  const OWN_NAME = /^(?!(?:data|blob|file|https?):)[a-z][a-z\d+.-]+:/i;

  /** The document's event of a unit that has other values now. */
  const CHANGED = "controlnetchange";
  /** Those of a preview: it was asked for, answered, and its settings are others now; each tells of which unit. */
  const ASKED = "controlnetasked";
  const ANSWERED = "controlnetanswered";
  const OUTDATED = "controlnetoutdated";
  const tell = (event, name) => document.dispatchEvent(new CustomEvent(event, { detail: name }));

  /** Field -> end of the element id of its slider. */
  const SLIDERS = {
    processor_res: "preprocessor_resolution_slider",
    threshold_a: "threshold_A_slider",
    threshold_b: "threshold_B_slider",
  };

  const kept = { __type__: "update" };
  const see = (visible) => ({ __type__: "update", visible });
  const hidden = see(false);
  const say = (value) => ({ __type__: "update", value, visible: true });
  const never = () => new Promise(() => {});
  const { page } = window.controlnetPanel;
  const { find, word } = page;
  const numberIn = (id) => Number(find(`${id} input[type=number]`)?.value);
  /** The page's notes on a unit. */
  const notesOn = (name) => find(`#${name}_input_image`).closest(".cnet-unit").dataset;
  const makeCanvas = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

  /** Number of the open one of some tabs. */
  function openTab(id) {
    const buttons = Array.from(document.querySelectorAll(`${id} > .tab-nav > button`));
    return Math.max(0, buttons.findIndex((button) => button.classList.contains("selected")));
  }

  /** The layer that gradio 3, or a canvas of the host's own, draws on. */
  const findLayer = (widget) => find(`${widget} :is(canvas[key=mask], ${HOST_LAYER})`);

  /** The layer of a widget that was drawn on; null without a stroke. */
  function findDrawing(widget) {
    const layer = findLayer(widget);
    if (!layer?.width || !layer.height) return null;
    const pixels = layer.getContext("2d").getImageData(0, 0, layer.width, layer.height).data;
    return pixels.some((value) => value) ? layer : null;
  }

  /** Where a widget's picture is: in its value, or in that of one to draw on, or in a file that it names. */
  const addressOf = (value) => value.image ?? value.url ?? value;

  /** A data URL as the value of a widget: gradio 4 keeps files, but not in a canvas of the host's. */
  function pictureFor(widget, url) {
    const keepsFiles = parseInt(window.gradio_config?.version) >= 4 && !find(`${widget} ${HOST_LAYER}`);
    const isFile = keepsFiles && url && typeof url === "string";
    return isFile ? { url, orig_name: "picture" } : url; // a path would be looked for
  }

  /** Whether a value is a name that only the host's own canvas and its server make a picture of. */
  const isName = (value) => OWN_NAME.test(addressOf(value));

  /** The picture of a widget's value, or the one that the widget shows. */
  async function load(value, widget) {
    if (!isName(value)) return page.load(addressOf(value));
    const image = find(`${widget} img`);
    await image.decode();
    return image;
  }

  /** Nothing -> one block shown or hidden. */
  const show = (visible) => () => see(visible);

  /** The widgets in which the user has chosen by hand, until somebody answers to it: gradio asks later than they change. */
  const chosen = new Set();
  document.addEventListener(
    "change",
    (event) => {
      const widget = event.isTrusted && event.target.closest('[id*="_controlnet_"]');
      if (widget) chosen.add(widget.id);
    },
    true
  );

  /** Whether the user has just chosen in a widget: gradio 4 reports what is written, too. */
  const isByHand = (widget) => chosen.delete(widget);

  /** Nothing -> one block put away, if the user chose in a widget. */
  const hideByHand = (widget) => () => (isByHand(widget) ? hidden : never());

  /** Preprocessor and pixel perfect -> its resolution, where it can be chosen. */
  const showResolution = (name) => (module, isPerfect) => see(!isPerfect && fieldsOf(name).sized.includes(module));

  /** Nothing -> the same values each time. */
  const write = (...values) => () => values;

  /** One checkbox -> `count` blocks shown or hidden. */
  const showTogether = (count) => (flag) => Array(count).fill(see(Boolean(flag)));

  /** Input modes of all units -> their loopback boxes, shown while one of them is a batch. */
  const showLoopback =
    (batch) =>
    (...values) => {
      const modes = values.slice(0, values.length / 2);
      return modes.map(() => see(modes.includes(batch)));
    };

  /** What a unit's panel has told of its fields, see `tell_fields`. */
  const fields = {};
  function fieldsOf(name) {
    const panel = name.slice(0, name.indexOf("_ControlNet"));
    fields[panel] ??= JSON.parse(find(`#${panel}_fields`).textContent);
    return fields[panel];
  }

  /**
   * Widget values -> one object of them; an outdated preview is put away.
   *
   * A picture with a drawing layer is an object, and the page reports a change of every object
   * whenever anything is written anywhere. So a call that finds nothing new must write nothing.
   *
   * The line that says what came of a preview goes with it, or with the model that it may be
   * about; nothing that the user did not do closes it. `edition` counts the changes, so that the
   * answer of a run can be told from one that was asked for under other settings.
   *
   * The panel tells, once for all units, the names of the values in the order of the inputs, and
   * which of them a preview depends on. The outputs follow (the object, the preview, its group, the
   * status line). A shown preview stays where it follows what has changed: somebody is told then.
   * Each write makes gradio compare the whole page; so without `whileDragging`, the values of a
   * slider that the mouse holds are taken when it lets go. An answer of the server changes several widgets, and each
   * calls: the first call writes for all of them.
   */
  const taken = {};
  const collect =
    (name, whileDragging) =>
    (...values) => {
      const { names, previewed, followed } = fieldsOf(name);
      const old = values[names.length];
      const last = taken[name];
      if (last && old === last.old && names.every((_, index) => values[index] === last.values[index])) return never();
      const same = (a, b) =>
        a === b || (a && b && typeof a === "object" && OF_PICTURES.every((part) => a[part] === b[part]));
      const changed = names.filter((name, index) => !old || !same(old[name], values[index]));
      if (!changed.length || (!whileDragging && find("input[type=range]:active"))) return never();
      taken[name] = { old, values };
      document.dispatchEvent(new Event(CHANGED)); // a property that is written is no mutation
      const outdating = previewed.filter((name) => changed.includes(name));
      const now = Object.fromEntries(names.map((name, index) => [name, values[index]]));
      const follows = isFollowing(name, now.module) && outdating.every((name) => followed.includes(name));
      const notes = notesOn(name);
      if (outdating.length) notes.edition = Number(notes.edition || 0) + 1;
      if (outdating.length && follows) tell(OUTDATED, name);
      const stale = outdating.length && !follows;
      return [now, stale ? null : kept, stale ? hidden : kept, stale || changed.includes("model") ? hidden : kept];
    };

  /** Whether a unit shows a preview of a preprocessor that is quick enough to follow the sliders. */
  function isFollowing(name, module) {
    const notes = notesOn(name);
    const isShown = find(`#${name}_generated_image img`) && (!notes.running || notes.following);
    return Boolean(isShown) && fieldsOf(name).quick.includes(module);
  }

  /** Allow Preview -> the preview's group, and the preview, which is cleared when switched off. */
  const togglePreview = (name) => (flag, preview) => {
    if (!flag) forgetAsked(name);
    return [see(Boolean(flag && preview)), flag ? preview : null];
  };

  /** Nothing -> preview, its group, Allow Preview and the status line, all put away. */
  const closePreview = (name) => () => {
    forgetAsked(name);
    return [null, hidden, false, hidden];
  };

  /** An answer that is still to come is not shown any more. */
  const forgetAsked = (name) => delete notesOn(name).asked;

  /**
   * Nothing -> an empty preview, its group, the status line put away, and no answer yet.
   *
   * One that follows its settings stays until the next is there.
   */
  const openPreview = (name) => () =>
    notesOn(name).following ? [kept, kept, kept, null] : [null, see(true), hidden, null];

  /**
   * Note which settings a preview is asked for under, and a number by which it can be stopped.
   *
   * Returns the first two inputs of a preview: the unit, with the slider that the mouse holds as it
   * stands, as its value is taken no earlier than it lets go; and the number of the settings.
   */
  function noteAsked(name, unit) {
    const notes = notesOn(name);
    notes.asked = Number(notes.edition || 0);
    notes.running = "yes";
    notes.run = Math.floor(Math.random() * Number.MAX_SAFE_INTEGER);
    tell(ASKED, name);
    const held = find("input[type=range]:active");
    const moved = Object.keys(SLIDERS).filter((field) => held?.closest(`#${name}_controlnet_${SLIDERS[field]}`));
    return [moved.length ? { ...unit, [moved[0]]: Number(held.value) } : unit, Number(notes.asked)];
  }

  /** What a tab would generate, as the server's `target_request` takes it, and the run's number. */
  const targetOf = (name, tab) => ({
    run: Number(notesOn(name).run),
    width: numberIn(`#${tab}_width`) || 512,
    height: numberIn(`#${tab}_height`) || 512,
    seed: find(`#${tab}_seed :is(input, textarea)`)?.value,
    hires: Boolean(find(`#${tab}_hr-checkbox input`)?.checked),
  });

  /** Inputs of a preview, (unit, edition, target), completed. */
  const askPreview = (name, tab) => (unit) => [...noteAsked(name, unit), targetOf(name, tab)];

  /**
   * Inputs of a preview in img2img, completed: the target, and only the open tab's pictures.
   *
   * Takes (unit, edition, target, pictures..., settings...) and returns the same list; the target's
   * scale is 0 while the tab "Resize to" is chosen. `pictureTabs` has for every picture the number
   * of the tab that it is used in; as many as `settings` values follow the pictures.
   */
  const askImg2imgPreview =
    (name, pictureTabs, settings) =>
    (unit, _edition, _target, ...rest) => {
      const open = openTab("#mode_img2img");
      const scale = openTab("#img2img_tabs_resize") === 0 ? 0 : numberIn("#img2img_scale") || 0;
      return [
        ...noteAsked(name, unit),
        { ...targetOf(name, "img2img"), tab: open, scale },
        ...pictureTabs.map((tab, index) => (tab === open ? rest[index] : null)),
        ...rest.slice(pictureTabs.length, pictureTabs.length + settings),
      ];
    };

  /**
   * The answer of a preview -> preview, its group, Allow Preview, the status line, the pose.
   *
   * An answer that is not the one of the last run is left to that one, and nothing is shown in the
   * place of a preview that was closed meanwhile, or that is about to follow its settings.
   */
  const showAnswer = (name) => (answer) => {
    const notes = notesOn(name);
    const following = notes.following;
    delete notes.running;
    tell(ANSWERED, name);
    if (answer ? answer.edition !== Number(notes.asked) : notes.asked === undefined) return never();
    const late = answer && answer.edition !== Number(notes.edition || 0);
    if (late && following) return never();
    const stopped = notes.stopped === notes.run;
    const reason = stopped ? "preview_stopped" : late ? "preview_late" : answer ? "" : "preview_lost";
    const text = reason ? word(reason) : answer.said;
    const picture = reason ? null : answer.picture;
    return [
      pictureFor(`#${name}_generated_image`, picture),
      picture ? see(true) : hidden,
      picture ? true : kept,
      text ? say(text) : hidden,
      picture && answer.pose ? say(answer.pose) : hidden,
    ];
  };

  /** Nothing -> the number of the preview that is to be stopped, which stands on the pressed button. */
  const stopPreview = (button) => () => [Number(find(`#${button}`).dataset.run)];

  /**
   * An uploaded file -> the picture, a line of messages, and with `enables` Enable, switched on.
   *
   * A file that the page cannot draw is not taken. One in a format that only browsers know, such
   * as SVG, becomes PNG. A canvas of the host's tells of a picture that was taken away as well, and
   * of a new canvas that the page has put in.
   */
  const checkUpload = (name, enables) => async (value) => {
    const answer = (picture, line, enabled) => (enables ? [picture, line, enabled] : [picture, line]);
    if (enables && (value === "" || (value && value === notesOn(name).canvas))) return answer(kept, hidden, kept);
    if (enables) delete notesOn(name).canvas;
    const widget = enables ? `#${name}_input_image` : `#${name}_mask_image`;
    const image = value && (await load(value, widget).catch(() => null));
    if (!image?.naturalWidth) return answer(null, say(word("no_picture")), kept);
    if (isName(value)) return answer(kept, hidden, true); // the server asks the host
    const url = addressOf(value);
    const kind = url.startsWith("data:") ? /^data:(.*?)[;,]/.exec(url)?.[1] : value.mime_type;
    if (new RegExp(`^image.(${KINDS})$`).test(kind ?? "")) return answer(kept, hidden, true);
    const canvas = makeCanvas(image.naturalWidth, image.naturalHeight);
    canvas.getContext("2d").drawImage(image, 0, 0);
    return answer(pictureFor(widget, canvas.toDataURL("image/png")), hidden, true);
  };

  /** Nothing -> a line about a file that the canvas of the host's did not take. */
  const refusePicture = () => () => say(word("no_picture"));

  /** Picture and drawing of a host's canvas -> the value that is both. */
  const joinDrawing = () => (image, mask) => [image ? { image, mask } : null];

  /** What puts a line away: nothing where it is, since each write makes gradio compare the whole page. */
  const putAway = (id) => (document.getElementById(id)?.classList.contains("hidden") ? never() : hidden);

  /**
   * Preprocessor, whether the unit has its own picture, and which: -> a line about drawing on it.
   *
   * Only the single picture can be drawn on, and only if it is used (input mode `simple`). A
   * drawing on a new canvas is what the canvas is for, and a mask what the preprocessors in
   * `masked` work on; nothing is said of those.
   */
  const noteDrawing = (name, masked, simple) => async (module, independent, mode) => {
    await new Promise((next) => setTimeout(next, 50)); // gradio clears its canvas after the event
    const quiet = notesOn(name).canvas || masked.includes(module);
    const used = independent && mode === simple;
    if (!used || quiet || !findDrawing(`#${name}_input_image`)) return putAway(`${name}_controlnet_drawing_note`);
    const ignored = typeof opts === "object" && opts.controlnet_ignore_noninpaint_mask;
    return say(word(ignored ? "drawn_ignored" : "drawn_instead"));
  };

  /** Colour of a new canvas for a brush: the farther of black and white; grey for one unknown. */
  function contrast(brush) {
    if (!/^#[0-9a-fA-F]{6}$/.test(brush)) return "#808080";
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(brush.slice(at, at + 2), 16));
    return 0.299 * red + 0.587 * green + 0.114 * blue > 127 ? "#000000" : "#ffffff";
  }

  /**
   * Two sizes -> a plain picture, the canvas group closed, no message, the unit enabled.
   *
   * The canvas is black under a light brush and white under a dark one, so that strokes are seen.
   */
  const newCanvas = (name, brush) => (width, height) => {
    const canvas = makeCanvas(width, height);
    const pen = canvas.getContext("2d");
    pen.fillStyle = contrast(brush);
    pen.fillRect(0, 0, width, height);
    const url = canvas.toDataURL("image/png");
    notesOn(name).canvas = url;
    return [pictureFor(`#${name}_input_image`, url), hidden, hidden, true];
  };

  /** Write the size of the unit's picture, rounded to multiples of 8, into the tab's sliders. */
  const sendDimensions = (name, tab) => async (value) => {
    if (!value) return [];
    const image = await load(value, `#${name}_input_image`);
    const round = (side) => Math.max(8, side % 8 <= 4 ? side - (side % 8) : side + 8 - (side % 8));
    for (const [name, side] of [["width", image.naturalWidth], ["height", image.naturalHeight]]) {
      for (const box of document.querySelectorAll(`#${tab}_${name} input`)) {
        box.value = round(side);
        box.dispatchEvent(new Event("input", { bubbles: true }));
      }
    }
    return [];
  };

  /**
   * Region -> group of the own mask, feather, hint about the inpaint mask, the checkbox.
   *
   * `regions` has the choices `own` and `whole`, and in `inpaint` those that follow a mask of the
   * page or of another unit.
   */
  const showRegion = (regions) => (region) => [
    see(region === regions.own),
    see(region !== regions.whole),
    see(regions.inpaint.includes(region)),
    region === regions.own,
  ];

  /** What `showRegion` does, for a saved default; notes on the unit that it was done. */
  const restoreRegion = (name, regions) => (region) => {
    notesOn(name).restored = "yes";
    return showRegion(regions)(region);
  };

  /** The checkbox and the region -> the region, if the checkbox says something else. */
  const chooseRegion = (regions) => (flag, region) => {
    if (Boolean(flag) === (region === regions.own)) return never();
    return flag ? regions.own : regions.whole;
  };

  /** Close a line of messages as soon as something is drawn on the unit's region canvas. */
  const closeOnceDrawn = (name) => () => (findDrawing(`#${name}_region_canvas`) ? hidden : never());

  /** A drawing in white on black, a mask file beneath it. */
  function drawMask(layer, file) {
    const mask = makeCanvas(layer.width, layer.height);
    const pen = mask.getContext("2d");
    pen.drawImage(layer, 0, 0);
    pen.globalCompositeOperation = "source-in"; // the drawing in white, whatever its colour
    pen.fillStyle = "white";
    pen.fillRect(0, 0, mask.width, mask.height);
    pen.globalCompositeOperation = "destination-over";
    pen.fillStyle = "black";
    pen.fillRect(0, 0, mask.width, mask.height);
    pen.globalCompositeOperation = "lighten";
    if (file?.naturalWidth) pen.drawImage(file, 0, 0, mask.width, mask.height);
    return mask.toDataURL("image/png");
  }

  /** A mask's white in a colour, the rest of it transparent: a canvas of that size. */
  function tint(file, colour, width, height) {
    const canvas = makeCanvas(width, height);
    const pen = canvas.getContext("2d");
    pen.drawImage(file, 0, 0, width, height);
    const pixels = pen.getImageData(0, 0, width, height);
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data.set([red, green, blue, pixels.data[i]], i);
    }
    pen.putImageData(pixels, 0, 0);
    return canvas;
  }

  /**
   * What the unit's region is drawn on: its control picture, the mask file's white coloured.
   *
   * A drawing does not outlive a picture of another size, so it becomes part of the mask file, and
   * a line says so; some canvases have as many pixels as the screen. Outputs: the canvas, the mask file, the line.
   *
   * Without a picture it is plain grey in the proportions of the picture to be made. The page's
   * script has noted on the unit which widget its picture is in (`data-picture`).
   */
  const drawBackdrop = (name, tab, colour, opacity) => async () => {
    const from = notesOn(name).picture;
    const picture = find(from && `${from} img`);
    const file = find(`#${name}_mask_image img`);
    await Promise.all([picture, file].map((image) => image?.decode().catch(() => null)));
    const width = picture?.naturalWidth || numberIn(`#${tab}_width`) || 512;
    const height = picture?.naturalHeight || numberIn(`#${tab}_height`) || 512;
    const scale = Math.min(1, BACKDROP_SIDE / Math.max(width, height));
    const canvas = makeCanvas(Math.round(width * scale) || 1, Math.round(height * scale) || 1);
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#808080";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    const lay = (image, alpha) => {
      pen.globalAlpha = alpha;
      pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    };
    if (picture?.naturalWidth) lay(picture, 1);
    const drawn = from && findLayer(from);
    if (drawn?.width) lay(drawn, 0.7);
    if (file?.naturalWidth) lay(tint(file, colour, canvas.width, canvas.height), opacity);
    const layer = findDrawing(`#${name}_region_canvas`);
    const shown = pictureFor(`#${name}_region_canvas`, canvas.toDataURL("image/jpeg", 0.8));
    const fits = [1, window.devicePixelRatio].some(
      (density) => layer?.width === Math.round(canvas.width * density) && layer.height === Math.round(canvas.height * density),
    );
    if (!layer || fits) return [shown, kept, kept];
    return [shown, pictureFor(`#${name}_mask_image`, drawMask(layer, file)), say(word("region_kept"))];
  };

  /** Generation info -> the parameters of the picture that the host sends: the chosen one, else the first. */
  const textOfChosen = (tab) => (info) => {
    const shown = Array.from(document.querySelectorAll(`#${tab}_gallery .thumbnails > .thumbnail-item`));
    const chosen = shown.findIndex((item) => item.classList.contains("selected"));
    let texts = [];
    try {
      texts = JSON.parse(info).infotexts ?? [];
    } catch {
      // Nothing has been generated yet.
    }
    return [texts[Math.max(0, chosen)] ?? texts[0] ?? ""];
  };

  /** A weight type as the text of the weights. */
  const textOfType = (kind, composition, both) =>
    both.includes(kind) && composition !== 1 ? `${kind} ${composition}` : kind;

  /** What the number behind a weight type is; 1 without one. */
  function splitWeights(text) {
    const words = text.trim().toLowerCase().split(/\s+/);
    const isNumbered = words.length > 1 && Number(words.at(-1)) >= 0;
    return [(isNumbered ? words.slice(0, -1) : words).join(" "), isNumbered ? Number(words.at(-1)) : 1];
  }

  /**
   * Weight type, weight of a composition, text of the weights -> the same in agreement, by which of them has changed.
   *
   * A type becomes the text. Of a text that names none the type is "normal", and "normal" leaves numbers in the text.
   * The weight of a composition is seen with the types `both`.
   */
  const agreeOnWeights = (name, both) => (kind, composition, text) => {
    const notes = notesOn(name);
    const names = fieldsOf(name).weight_types;
    const before = JSON.parse(notes.weights ?? '["normal",1,""]');
    const layers = window.controlnetPanel.layersOf(name);
    const [written, share] = splitWeights(text);
    const isName = names.includes(written) && (!layers || written in layers.shapes);
    let now = [kind, composition, text];
    if (text !== before[2]) now = [isName ? written : "normal", both.includes(written) ? share : 1, text];
    else if (kind !== before[0] && kind === "normal") now[2] = names.includes(written) ? "" : text;
    else if (kind !== before[0] || composition !== before[1]) now[2] = textOfType(kind, composition, both);
    notes.weights = JSON.stringify(now);
    if (notes.weights === JSON.stringify([kind, composition, text])) return never();
    return [now[0], { __type__: "update", value: now[1], visible: both.includes(now[0]) }, now[2]];
  };

  return {
    ...{ show, write, showTogether, showLoopback, collect, togglePreview, closePreview, openPreview },
    ...{ askPreview, askImg2imgPreview, showAnswer, stopPreview, isFollowing, fieldsOf, checkUpload, joinDrawing, noteDrawing, newCanvas },
    ...{ sendDimensions, hideByHand, showResolution, refusePicture },
    ...{ showRegion, restoreRegion, chooseRegion, closeOnceDrawn, drawBackdrop, textOfChosen },
    agreeOnWeights,
    ...{ isByHand, pictureFor, findLayer }, // for the panel's other scripts
  };
})());
