// Page behaviour of the ControlNet panel: badges, tab marks, tooltips, the run button, and
// options that only show while a part of the host's page is in use.
//
// A classic script without globals. Elements are found by id or class, never by text, because
// the host translates texts. Everything shown is derived from the widgets' present state each
// time the page changes, so it is right after pasting, loading defaults or redrawing.
(() => {
  "use strict";

  const TABS = ["txt2img", "img2img"];
  const TOOLTIPS = {
    open_new_canvas_button: "Open new canvas",
    send_dimen_button: "Send dimensions to stable diffusion",
    refresh_models: "Refresh",
  };
  const INPAINT_TABS = ["img2img_inpaint_tab", "img2img_inpaint_sketch_tab", "img2img_inpaint_upload_tab"];
  // What each tab of img2img generates from; the batch has no one picture.
  const IMG2IMG_PICTURES = ["#img2img_image", "#img2img_sketch", "#img2maskimg", "#inpaint_sketch", "#img_inpaint_base"];
  const NO_PICTURE = "No ControlNet input image available";
  const RUN = "Run preprocessor";

  const app = () => (typeof gradioApp === "function" ? gradioApp() : document);
  const find = (selector, root) => (root || app()).querySelector(selector);
  const findAll = (selector, root) => Array.from((root || app()).querySelectorAll(selector));

  /** Set a property only when it differs: writing the page calls these functions again. */
  function set(target, name, value) {
    if (target && target[name] !== value) target[name] = value;
  }

  function toggle(element, name, on) {
    if (element && element.classList.contains(name) !== on) element.classList.toggle(name, on);
  }

  /** The units of one tab's panel, in order. */
  function unitsOf(panel) {
    return findAll(".cnet-unit", panel);
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
    set(badge, "textContent", count === 1 ? "1 unit" : `${count} units`);
  }

  function updateTabButton(button, unit) {
    if (!button) return;
    toggle(button, "cnet-unit-active", isEnabled(unit));
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

  /** Selector of the widget that a unit takes its picture from: its own, or the tab's; "" for none. */
  function pictureSource(tab, unit) {
    const independent = find(".cnet-unit-same_img2img input", unit)?.checked;
    if (tab === "txt2img" || independent) return `#${find(".cnet-input-image-group .cnet-image", unit).id}`;
    const tabs = findAll("#mode_img2img > .tab-nav > button");
    return IMG2IMG_PICTURES[tabs.findIndex((button) => button.classList.contains("selected"))] || "";
  }

  function imageOf(selector) {
    return selector ? find(`${selector} img`) : null;
  }

  function updateRunButton(unit) {
    const button = find(".cnet-run-preprocessor", unit);
    const hasPicture = Boolean(imageOf(unit.dataset.picture));
    set(button, "disabled", !hasPicture);
    set(button, "title", hasPicture ? RUN : NO_PICTURE);
  }

  function updateTooltips(unit) {
    for (const [suffix, text] of Object.entries(TOOLTIPS)) {
      set(find(`[id$="_controlnet_${suffix}"]`, unit), "title", text);
    }
  }

  /** Close a preview of the tab's picture when the tab shows another: the unit's own is watched by its events. */
  const previewed = new WeakMap();
  function updatePreview(unit) {
    const own = `#${find(".cnet-input-image-group .cnet-image", unit).id}`;
    const now = unit.dataset.picture === own ? own : imageOf(unit.dataset.picture)?.getAttribute("src");
    const before = previewed.get(unit);
    previewed.set(unit, now);
    if (before !== undefined && before !== now && find(".cnet-generated-image-group img", unit)) {
      find(".cnet-close-preview", unit)?.click();
    }
  }

  /** Give a region that is being drawn the picture it lies on, once it is seen and when that changes. */
  const backdrops = new WeakMap();
  function updateBackdrop(tab, unit) {
    const canvas = find(".cnet-region-canvas", unit);
    if (!canvas || canvas.offsetParent === null) return;
    const image = imageOf(unit.dataset.picture)?.getAttribute("src");
    const sides = image ? [] : ["width", "height"].map((side) => find(`#${tab}_${side} input[type=number]`)?.value);
    const file = find(".cnet-effective-region-mask-image img", unit)?.getAttribute("src");
    const now = [image, file, ...sides];
    const before = backdrops.get(unit);
    if (before && before.length === now.length && before.every((value, i) => value === now[i])) return;
    backdrops.set(unit, now);
    find(".cnet-region-backdrop", unit).click();
  }

  /** Say in the header of the closed section that weights per layer are set. */
  function updateLayerWeights(unit) {
    const section = find(".cnet-layer-weights", unit);
    const header = section && find(".label-wrap > span", section);
    if (!header) return;
    const count = (find("input, textarea", section)?.value.match(/[^\s,[\]]+/g) || []).length;
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
    set(mark, "textContent", `${count}`);
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

  function update() {
    for (const tab of TABS) {
      const panel = find(`#${tab}_controlnet`);
      if (!panel) continue;
      const units = unitsOf(panel);
      const buttons = findAll(`#${tab}_controlnet_tabs > div.tab-nav > button`, panel);
      units.forEach((unit, index) => {
        set(unit.dataset, "picture", pictureSource(tab, unit));
        updateTabButton(buttons[index], unit);
        updateRunButton(unit);
        updatePreview(unit);
        updateBackdrop(tab, unit);
        updateLayerWeights(unit);
        updateTooltips(unit);
      });
      updateBadge(panel, units.filter(isEnabled).length);
      updateFollowers(tab, panel);
    }
  }

  // Changed properties such as `checked` are no page mutations, hence the second source; the
  // frame lets gradio finish writing first.
  let scheduled = false;
  function schedule() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      update();
    });
  }

  /** Whether a unit arrived with a saved default whose consequences the page does not show yet. */
  function lacksDefaults(unit) {
    const chosen = find('[id$="_controlnet_preprocessor_dropdown"] input', unit)?.value || "none";
    const whole = find('[id$="_controlnet_region_radio"] input', unit)?.checked;
    return (chosen !== "none" || !whole) && !unit.dataset.restored;
  }

  /** Ask for what a saved preprocessor or region shows; again while gradio answers no events yet. */
  function restoreDefaults(tries) {
    const waiting = findAll(".cnet-unit").filter(lacksDefaults);
    for (const unit of waiting) find(".cnet-restore-sliders", unit)?.click();
    if (waiting.length && tries > 1) setTimeout(() => restoreDefaults(tries - 1), 100);
  }

  /** Zooming and panning of the drawing canvases, where the host has it. */
  function addZoom() {
    if (typeof window.applyZoomAndPanIntegration !== "function") return;
    for (const tab of TABS) {
      const canvases = findAll(`#${tab}_controlnet .cnet-input-image-group .cnet-image, #${tab}_controlnet .cnet-region-canvas`);
      window.applyZoomAndPanIntegration(`#${tab}_controlnet`, canvases.map((canvas) => `#${canvas.id}`));
    }
  }

  function start() {
    document.addEventListener("change", schedule, true);
    document.addEventListener("input", schedule, true);
    document.addEventListener("load", schedule, true); // of pictures
    document.addEventListener("click", schedule, true);
    schedule();
  }

  if (typeof onUiLoaded === "function") {
    onUiLoaded(() => {
      start();
      restoreDefaults(300);
      addZoom();
    });
    onUiUpdate(schedule);
  } else {
    document.addEventListener("DOMContentLoaded", start);
  }
})();
