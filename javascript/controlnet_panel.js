// Page behaviour of the ControlNet panel: badges, tab marks, the run button, and
// options that only show while a part of the host's page is in use.
//
// A classic script without globals. Elements are found by id or class, never by text, because
// the host translates texts. Everything shown is derived from the widgets' present state each
// time the page changes, so it is right after pasting, loading defaults or redrawing.
(() => {
  "use strict";

  const { TABS, find, findAll, follow, isShown, part, set, unitsOf, whenReady, word } = window.controlnetPanel.page;
  const INPAINT_TABS = ["img2img_inpaint_tab", "img2img_inpaint_sketch_tab", "img2img_inpaint_upload_tab"];
  // What each tab of img2img generates from; the batch has no one picture.
  const IMG2IMG_PICTURES = ["#img2img_image", "#img2img_sketch", "#img2maskimg", "#inpaint_sketch", "#img_inpaint_base"];
  /** Milliseconds until the server is asked again for what it had not found out yet. */
  const LOOK_AGAIN = 500;
  const LOOKS = 100;


  function toggle(element, name, on) {
    if (element && element.classList.contains(name) !== on) element.classList.toggle(name, on);
  }

  function isEnabled(unit) {
    return Boolean(find(".cnet-unit-enabled input", unit)?.checked);
  }

  /** The chosen control type; "All" reads as none. */
  function controlType(unit) {
    const group = find(".controlnet_control_type_filter_group", unit);
    const box = group && (find("input[type=radio]:checked", group) || find("input:not([type=radio])", group));
    return box && box.value !== "All" ? box.value : "";
  }

  function updateBadge(panel, count) {
    const header = find(".label-wrap > span", panel);
    if (!header) return;
    let badge = find(".cnet-badge", header);
    if (!count) {
      if (badge) badge.remove();
      return;
    }
    if (!badge) {
      badge = document.createElement("div");
      badge.classList.add("cnet-badge", "primary");
      header.append(badge);
    }
    set(badge, "textContent", word(count === 1 ? "badge_one" : "badge", { count }));
  }

  function updateTabButton(button, unit) {
    if (!button) return;
    toggle(button, "cnet-unit-active", isEnabled(unit));
    const misfit = part(unit, "controlnet_notes", ".cnet-misfit");
    toggle(button, "cnet-unit-misfit", Boolean(misfit));
    set(button, "title", misfit?.textContent || (isEnabled(unit) ? word("tab_on") : ""));
    const type = controlType(unit);
    let suffix = find(".control-type-suffix", button);
    if (!type) {
      if (suffix) suffix.remove();
      return;
    }
    if (!suffix) {
      suffix = document.createElement("span");
      suffix.classList.add("control-type-suffix");
      button.append(suffix);
    }
    set(suffix, "textContent", `[${type}]`);
  }

  /** Number of the tab above a unit's picture: one picture, a folder, several pictures. */
  function inputTab(unit) {
    const tabs = findAll(".cnet-input-tabs > .tab-nav > button", unit);
    return Math.max(0, tabs.findIndex((button) => button.classList.contains("selected")));
  }

  /** Whether a unit follows the tab's picture instead of having its own. */
  function followsTab(tab, unit) {
    return tab === "img2img" && !find(".cnet-unit-same_img2img input", unit)?.checked;
  }

  /** Selector of the widget that a unit takes its picture from: its own, or the tab's; "" for none. */
  function pictureSource(tab, unit) {
    if (!followsTab(tab, unit)) {
      const own = [".cnet-input-image-group .cnet-image", null, '[id$="_merge_gallery"]'][inputTab(unit)];
      return own ? `#${find(own, unit).id}` : "";
    }
    return tabPicture();
  }

  /** Selector of the widget with the picture of the open tab of img2img; "" for none. */
  function tabPicture() {
    const tabs = findAll("#mode_img2img > .tab-nav > button");
    return IMG2IMG_PICTURES[tabs.findIndex((button) => button.classList.contains("selected"))] || "";
  }

  /** Whether a unit has a folder to take its pictures from: its own box, or those of the host's batch. */
  function hasFolder(tab, unit) {
    if (followsTab(tab, unit) || inputTab(unit) !== 1) return false;
    const boxes = ["controlnet_batch_input_dir", "img2img_batch_input_dir"].map((id) => find(`#${id} textarea`));
    const own = find('[id$="_batch_image_dir"] textarea', unit);
    return (tab === "img2img" ? [own, ...boxes] : [own]).some((box) => box?.value.trim());
  }

  function imageOf(selector) {
    return selector ? find(`${selector} img[src]:not([src=""])`) : null;
  }

  function updateRunButton(tab, unit) {
    const button = find(".cnet-run-preprocessor", unit);
    const hasPicture = Boolean(imageOf(unit.dataset.picture)) || hasFolder(tab, unit);
    set(button, "disabled", !hasPicture);
    set(button, "title", word(hasPicture ? "run" : "no_image"));
  }

  /**
   * Close a preview of the tab's picture when the tab shows another: the unit's own is watched by its events.
   *
   * The same picture in another tab is another one, as its mask is.
   */
  const previewed = new WeakMap();
  function updatePreview(unit) {
    const own = `#${find(".cnet-input-image-group .cnet-image", unit).id}`;
    const place = unit.dataset.picture;
    const now = [place, place === own ? own : imageOf(place)?.getAttribute("src")];
    const before = previewed.get(unit);
    previewed.set(unit, now);
    if (!before || before.every((value, i) => value === now[i])) return;
    unit.dataset.edition = Number(unit.dataset.edition || 0) + 1; // a map under way is out of date
    if (find(".cnet-generated-image-group img", unit)) find(".cnet-close-preview", unit)?.click();
  }

  /**
   * Zooming and panning of a unit's canvases, where the host has it.
   *
   * The host's function comes some time after the page has loaded, and needs a canvas that holds
   * no picture yet; so each canvas is given to it when it is first seen like that. Canvases of a
   * host's own zoom by themselves.
   */
  function addZoom(unit) {
    if (typeof window.applyZoomAndPan !== "function") return;
    for (const canvas of findAll(".cnet-input-image-group .cnet-image, .cnet-region-canvas", unit)) {
      if (canvas.dataset.zoom || canvas.offsetParent === null || !find("input[type=file]", canvas)) continue;
      if (find("canvas[id^=drawingCanvas_]", canvas)) continue;
      canvas.dataset.zoom = "yes";
      window.applyZoomAndPan(`#${canvas.id}`);
    }
  }

  /** Give a region that is being drawn the picture it lies on, once it is seen and when that changes. */
  const backdrops = new WeakMap();
  const backdropsShown = new WeakMap();
  function updateBackdrop(tab, unit) {
    const canvas = find(".cnet-region-canvas", unit);
    if (!canvas || canvas.offsetParent === null) return;
    const image = imageOf(unit.dataset.picture)?.getAttribute("src");
    const sides = image ? [] : ["width", "height"].map((side) => find(`#${tab}_${side} input[type=number]`)?.value);
    const file = find(".cnet-effective-region-mask-image img", unit)?.getAttribute("src");
    const now = [image, file, ...sides];
    const before = backdrops.get(unit);
    const isLost = backdropsShown.get(unit) && !imageOf(`#${canvas.id}`);
    backdropsShown.set(unit, Boolean(imageOf(`#${canvas.id}`)));
    if (!isLost && before && before.length === now.length && before.every((value, i) => value === now[i])) return;
    backdrops.set(unit, now);
    find(".cnet-region-backdrop", unit).click();
  }

  /** Show what a list has no room for: its tooltip always, and a line below it while it is cut. */
  function updateFullName(unit, suffix) {
    const box = part(unit, `controlnet_${suffix}_dropdown`);
    const input = box && find("input", box);
    if (!input || input.offsetParent === null) return;
    set(input, "title", input.value);
    const cut = input.scrollWidth > input.clientWidth;
    let line = find(".cnet-full-name", box);
    if (!cut) {
      if (line) line.remove();
      return;
    }
    if (!line) {
      line = document.createElement("div");
      line.classList.add("cnet-full-name");
      box.append(line);
    }
    set(line, "textContent", input.value);
  }

  const askForOffers = (unit) => window.controlnetPanel.offerModels(unit);
  const modelList = (unit) => part(unit, "controlnet_model_dropdown");

  /** Let a seen unit offer the models that fit the checkpoint which is loaded now. */
  function offerModels(unit) {
    const list = modelList(unit);
    if (!list || list.offsetParent === null || unit.dataset.offers) return;
    unit.dataset.offers = "yes";
    const ask = () => askForOffers(unit);
    ask();
    // The checkpoint may have been changed since; whoever reaches for the list is about to see it.
    for (const name of ["pointerenter", "focusin"]) list.addEventListener(name, ask);
  }

  /** What the server has said of a unit's list of models, see `tell_misfits`. */
  const offers = new WeakMap();
  function readOffer(unit) {
    const text = find(".cnet-offers [data-offer]", unit)?.dataset.offer;
    const known = offers.get(unit);
    if (!text || known?.text === text) return known || { why: {} };
    const offer = { text, ...JSON.parse(text) };
    const tries = offer.isWhole ? 0 : (known?.tries || 0) + 1;
    offers.set(unit, Object.assign(offer, { tries }));
    // The server is still looking into files; it soon knows more.
    if (tries && tries < LOOKS) {
      setTimeout(() => {
        offer.text = "";
        askForOffers(unit);
      }, LOOK_AGAIN);
    }
    return offer;
  }

  /** Write behind the entries of the open list why they do not fit. */
  function markMisfits(unit) {
    const { why } = readOffer(unit);
    const list = modelList(unit);
    for (const entry of list ? findAll("ul.options > li", list) : []) {
      const reason = window.controlnetWord.read(why[entry.getAttribute("aria-label")] || "");
      if ((entry.dataset.misfit || "") === reason) continue;
      if (reason) entry.dataset.misfit = reason;
      else delete entry.dataset.misfit;
      entry.title = reason;
    }
  }

  /** Have all units with a model say whether it fits the checkpoint that is loaded now. */
  function judgeModels() {
    for (const unit of TABS.flatMap(unitsOf)) {
      const model = find("input", modelList(unit))?.value;
      if (unit.dataset.offers || (model && model !== "None")) askForOffers(unit);
    }
  }

  /** Whether the checkpoint that is chosen is another one than before. */
  let checkpoint;
  let lastRun;
  let isPending = true; // some hosts load a checkpoint no earlier than they generate with it
  function followCheckpoint() {
    const now = typeof opts === "object" ? opts.sd_model_checkpoint : undefined;
    if (now === checkpoint) return;
    const isFirst = checkpoint === undefined;
    checkpoint = now;
    isPending = true;
    if (!isFirst) judgeModels();
  }
  function followRuns() {
    const now = TABS.map((tab) => find(`#html_log_${tab} .performance`)?.textContent).join();
    if (now === lastRun) return;
    const isFirst = lastRun === undefined;
    lastRun = now;
    if (isFirst) return;
    if (isPending) judgeModels();
    isPending = false;
  }

  /** Say in the header of the closed section that weights per layer are set. */
  function updateLayerWeights(unit) {
    const section = find(".cnet-layer-weights", unit);
    const header = section && find(".label-wrap > span", section);
    if (!header) return;
    const box = part(unit, "controlnet_advanced_weighting_textbox", ":is(input, textarea)");
    const text = box?.value.trim() || "";
    const count = (text.match(/[^\s,[\]]+/g) || []).length;
    let mark = find(".cnet-badge", header);
    if (!count) {
      if (mark) mark.remove();
      return;
    }
    if (!mark) {
      mark = document.createElement("div");
      mark.classList.add("cnet-badge");
      header.append(mark);
    }
    set(mark, "textContent", /^[a-z]/i.test(text) ? text : `${count}`);
  }

  /** Options of the panel that follow the host's page: hires fix, and inpainting "Only masked". */
  function updateFollowers(tab, panel) {
    const hires = find("#txt2img_hr-checkbox input, #txt2img_enable_hr input, input#txt2img_hr-checkbox");
    toggle(panel, "cnet-hires", tab === "txt2img" && Boolean(hires?.checked));
    const inpaints = INPAINT_TABS.some((id) => find(`#${id}`)?.offsetParent != null);
    const area = findAll("#img2img_inpaint_full_res input[type=radio]");
    const onlyMasked = area.length > 1 && area[1].checked;
    toggle(panel, "cnet-only-masked", tab === "img2img" && inpaints && onlyMasked);
  }

  /** What is seen of a unit only while its tab is open. */
  function updateUnit(tab, unit) {
    updateRunButton(tab, unit);
    addZoom(unit);
    updateBackdrop(tab, unit);
    offerModels(unit);
    markMisfits(unit);
    for (const list of ["preprocessor", "model"]) updateFullName(unit, list);
    updateLayerWeights(unit);
  }

  function update() {
    for (const tab of TABS) {
      const panel = find(`#${tab}_controlnet`);
      if (!panel || !isShown(panel)) continue;
      const units = unitsOf(tab);
      const buttons = findAll(`#${tab}_controlnet_tabs > div.tab-nav > button`, panel);
      units.forEach((unit, index) => {
        set(unit.dataset, "picture", pictureSource(tab, unit));
        updateTabButton(buttons[index], unit);
        updatePreview(unit);
        if (isShown(unit)) updateUnit(tab, unit);
      });
      updateBadge(panel, units.filter(isEnabled).length);
      updateFollowers(tab, panel);
    }
    followRuns();
  }

  /** A file for a canvas of the host's, which says nothing of one that it cannot show. */
  function checkFile(event) {
    const widget = event.target.closest?.(".cnet-input-image-group .cnet-image");
    const file = (event.dataTransfer || event.target).files?.[0];
    const refuse = widget && file && find(".cnet-refuse-picture", widget.closest(".cnet-unit"));
    if (!refuse) return;
    const image = new Image();
    image.onload = image.onerror = (loaded) => {
      URL.revokeObjectURL(image.src);
      if (loaded.type === "error") refuse.click();
    };
    image.src = URL.createObjectURL(file);
  }

  /** Whether a unit arrived with a saved default whose consequences the page does not show yet. */
  function lacksDefaults(unit) {
    const chosen = ["preprocessor", "model"].map((list) => part(unit, `controlnet_${list}_dropdown`, "input")?.value);
    const whole = part(unit, "controlnet_region_radio", "input")?.checked;
    const plain = whole && chosen.every((value) => !value || value.toLowerCase() === "none");
    return !plain && !unit.dataset.restored;
  }

  /** Ask for what a saved preprocessor or region shows; again while gradio answers no events yet. */
  function restoreDefaults(tries) {
    const waiting = TABS.flatMap(unitsOf).filter(lacksDefaults);
    for (const unit of waiting) find(".cnet-restore-sliders", unit)?.click();
    if (waiting.length && tries > 1) setTimeout(() => restoreDefaults(tries - 1), 100);
  }

  whenReady(() => {
    for (const name of ["change", "drop"]) document.addEventListener(name, checkFile, true);
    restoreDefaults(300);
  });
  follow(update);
  Object.assign(window.controlnetPanel, { followsTab, imageOf, tabPicture });
  if (typeof onOptionsChanged === "function") onOptionsChanged(followCheckpoint);
})();
